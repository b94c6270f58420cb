"""What Hydra composed is remembered: the same config as composed anew, and never one of other files or surroundings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from effdl import cache, config
from effdl.config import composition, groups, parts
from effdl.errors import ConfigError
from effdl.reproduce import artefact

OVERRIDES: dict[str, list[str]] = {
    "none": [],
    "a number like a word": ["optimizer.lr=1e-3", "dataset.train_limit=null"],
    "lists": ["arch=mlp", "arch.hidden=[8,9]", "method.epochs=[1,2,3]"],
    "nested choices": ["method=dll", "method/decision=vgg", "optimizer/schedule=none"],
    "several of one group": ["probe=[stable_rank]", "filter=random_subset"],
    "places": ["results='a, b'", "workers=3"],
    "an addition": ["+anything={a: [1.5, {b: null}], c: yes}"],
}


@pytest.fixture
def composed_here(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Hydra is asked for; what this process remembers is forgotten at each composition."""
    asked: list[list[str]] = []
    composed = composition.compose_named

    def ask(overrides: list[str]) -> DictConfig:
        asked.append(overrides)
        return composed(overrides)

    monkeypatch.setattr(composition, "compose_named", ask)
    monkeypatch.setattr(cache, "_known", {})
    return asked


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
def test_remembered_config_is_the_one_that_hydra_makes(overrides: list[str], composed_here: list[list[str]]) -> None:
    fresh = composition.compose_named(overrides)
    first, in_process = config.compose(overrides), config.compose(overrides)
    cache._known.clear()
    from_disk = config.compose(overrides)
    assert composed_here[0] == overrides and len(composed_here) == 2  # by this test, and once
    for made in (first, in_process, from_disk):
        texts = [json.dumps(OmegaConf.to_container(one)) for one in (made, fresh)]  # types and order of keys too
        assert texts[0] == texts[1] and OmegaConf.is_struct(made)
        with pytest.raises(ConfigAttributeError):
            made.nothing = 1


def test_cells_that_differ_in_values_ask_hydra_for_their_choices_once(composed_here: list[list[str]]) -> None:
    for seed in (3, 4):
        made = config.compose([f"seed={seed}", "arch=mlp", f"arch.hidden=[{seed}]", "dataset.train_limit=1e2"])
        assert (made.seed, made.arch.hidden, made.dataset.train_limit) == (seed, [seed], 100.0) and OmegaConf.is_struct(made)
    assert composed_here == [["arch=mlp"]]


def test_declared_cells_are_the_configs_that_hydra_makes_of_them(own_cache: Path) -> None:
    declarations = [artefact.load(name) for name in artefact.declared()]
    scales = [(declaration, scale) for declaration in declarations for scale in declaration.artefact.scales]
    cells = sorted({tuple(cell.overrides) for declaration, scale in scales for cell in declaration.cells(scale)})
    assert len(cells) > 900
    for cell in cells[::45]:
        texts = [json.dumps(OmegaConf.to_container(one)) for one in (config.compose(cell), composition.compose_named(cell))]
        assert texts[0] == texts[1]
        assert config.composed(cell) == json.loads(texts[1])


def plain(overrides: list[str]) -> Any:
    return OmegaConf.to_container(composition.compose_named(overrides), resolve=True)


PARTS = [
    ["dataset=mnist", "arch=mlp", "arch.hidden=[8,9]", "seed=3"],
    ["dataset=sine", "method=platonic", "arch=mlp", "method/solver=ridge", "hardware=cpu", "method.tries=5"],
    ["arch=mlp", "objective=softmax_ce", "method=elm", "dataset=digits"],  # over what the method chooses
    ["optimizer=adamw", "optimizer/schedule=multi_step", "augment=auto_augment_svhn", "dataset=svhn"],
    ["probe=[stable_rank]", "filter=random_subset", "optimizer=adamw"],
    ["probe=[weights,alignment]", "probe.alignment.every=2", "optimizer=adamw", "augment=none"],
    ["probe=fgsm", "optimizer/schedule=none", "method/decision=vgg"],
    ["filter=none", "search=none", "results='a, b'"],
    ["arch=mlp", "arch=cnn4"],
    ["dataset=parity", "method=platonic"],  # each chooses another objective
    ["dataset=parity", "method=platonic", "objective=softmax_ce", "optimizer=adamw"],
    ["dataset=parity_thesis", "method=ntk_sigmoid", "arch.hidden=[8]"],
    ["dataset=parity", "method=dll_regularized"],
    ["method=dll_regularized", "optimizer=sgd", "optimizer/schedule=none", "method/decision=vgg"],
    ["method=dll_regularized", "optimizer/schedule=none"],
    ["optimizer=adamw", "method=dll_regularized"],  # which chooses a schedule too
    ["method=dll_regularized", "optimizer=sgd"],
    ["search=optuna", "search/pruner=median", "search.pruner.n_startup_trials=7"],
    ["+anything={a: 1}", "arch=mlp"],
]


@pytest.mark.parametrize("overrides", PARTS, ids=lambda overrides: " ".join(overrides))
def test_config_of_parts_is_the_one_that_hydra_makes_of_the_whole(overrides: list[str], own_cache: Path) -> None:
    parts._choices.cache_clear()
    assert config.composed(overrides) == plain(overrides)


def test_what_hydra_refuses_is_refused_of_parts_too(own_cache: Path) -> None:
    overrides = ["optimizer=none", "optimizer/schedule=none"]
    with pytest.raises(ConfigError) as by_hydra:
        composition.compose_named(overrides)
    with pytest.raises(ConfigError) as by_parts:
        config.composed(overrides)
    assert str(by_parts.value) == str(by_hydra.value)


def test_a_choice_that_speaks_of_other_groups_is_no_part(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "plugin" / "configs"
    texts = {
        "arch/wide.yaml": "defaults: [mlp, _self_]\nhidden: [99]\n",
        "filter/worded.yaml": "# @package _global_\nfilter: null\nseed: 7\n",
        "augment/follows.yaml": "# @package _global_\naugment: null\ntest_every: ${oc.env:EVERY}\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# A choice.\n{text}" if not text.startswith("# @") else text)
    monkeypatch.setenv("EFFDL_PLUGINS", str(tmp_path / "plugin"))
    monkeypatch.setenv("EVERY", "run")
    for chosen in (["filter=worded"], ["augment=follows"], ["filter=worded", "augment=follows", "seed=3"]):
        overrides = [*chosen, "arch=wide", "optimizer.lr=0.5"]
        assert config.composed(overrides) == plain(overrides), chosen


def part_alone(one: str) -> bool:
    """Whether a part is what Hydra makes of its choice, to the order of its keys, and all else as without it, but for others
    that it chooses."""
    node, chosen, implied = parts._known_parts(None)[one]
    group = one.partition("=")[0]
    if "/" in group:
        return nested_alone(one, group, node, chosen)
    made, base = plain([one]), plain([f"{other}={name}" for other, name in implied.items()])
    within = {name: made["chosen"].pop(name) for name in list(made["chosen"]) if name.partition("/")[0] == group}
    same = json.dumps([made.pop(group), dict(sorted(within.items()))]) == json.dumps([node, dict(sorted(chosen.items()))])
    base["chosen"] = {name: choice for name, choice in base["chosen"].items() if name.partition("/")[0] != group}
    del base[group]
    return same and made == base


def nested_alone(one: str, group: str, node: Any, chosen: dict[str, str]) -> bool:
    """The same of a nested choice, in a parent that has it; where that has none, Hydra is left to say so."""
    parent, _, child = group.partition("/")
    within = f"{parent}={groups.holder(group)[0]}"
    made, base = plain([within, one]), plain([within])
    assert config.composed([within, one]) == made
    same = json.dumps(made[parent]) == json.dumps({**base[parent], child: node}) and chosen == {group: one.partition("=")[2]}
    base[parent][child], base["chosen"][group] = node, chosen[group]
    return same and made == base


def test_parts_of_one_place_are_what_hydra_makes_of_each_alone(own_cache: Path) -> None:
    found = sorted(parts._known_parts(None))
    assert len(found) > 50 and {"arch=vgg13_bn", "dataset=mnist", "method=dll", "method/solver=ridge"} < set(found)
    assert all(part_alone(one) for one in found[::12])


@pytest.mark.slow
def test_every_part_of_one_place_is_what_hydra_makes_of_it_alone(own_cache: Path) -> None:
    assert [one for one in parts._known_parts(None) if not part_alone(one)] == []


ASTRAY = {  # choices that are of more than one place, or of none
    "of_another_group": "defaults: [/optimizer: adamw, _self_]\n_target_: effdl.archs.mlp.Mlp\nhidden: [9]\n",
    "in_another_place": "defaults: [/optimizer@optimizer: adamw, _self_]\n_target_: effdl.archs.mlp.Mlp\nhidden: [9]\n",
    "of_two": "defaults: [mlp, cnn4, _self_]\n_target_: effdl.archs.mlp.Mlp\n",
    "no_list": "defaults: 7\n",
    "no_yaml": "hidden: [9\n",
    "a_key_twice": "_target_: effdl.archs.mlp.Mlp\nhidden: [9]\nhidden: [8]\n",
    "built_on_itself": "defaults: [built_on_itself, _self_]\n_target_: effdl.archs.mlp.Mlp\n",
    "built_on_another_kind": "defaults: [listed, _self_]\n_target_: effdl.archs.mlp.Mlp\n",
    "empty": "",
}


def test_choices_of_more_than_one_place_leave_the_others_as_they_are(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one folder: each spoils what it would spoil if it lay there alone, and one alone is enough to fail."""
    folder = tmp_path / "plugin" / "configs" / "arch"
    folder.mkdir(parents=True)
    for name, text in ASTRAY.items():
        (folder / f"{name}.yaml").write_text(f"# A choice.\n{text}")
    (folder / "listed.yaml").write_text("# No mapping.\n[1, 2]\n")
    monkeypatch.setenv("EFFDL_PLUGINS", str(tmp_path / "plugin"))

    def asked(make: Callable[[list[str]], Any], *overrides: str) -> Any:
        try:
            return make([*overrides, "dataset=mnist", "seed=3"])
        except ConfigError as error:
            return str(error)

    for name in ("mlp", *ASTRAY):
        assert asked(config.composed, f"arch={name}") == asked(plain, f"arch={name}"), name
    assert len(parts._known_parts(str(tmp_path / "plugin"))) > 50


def test_a_part_that_is_changed_leaves_the_others_as_they_were() -> None:
    config.composed(["arch=mlp"])["arch"]["hidden"].append(7)
    config.composed(["arch=mlp", "arch.hidden=[3]"])["arch"]["hidden"].append(7)
    assert 7 not in config.composed(["arch=mlp"])["arch"]["hidden"]
    assert config.composed(["arch=mlp", "arch.hidden=[3]"])["arch"]["hidden"] == [3]


@pytest.mark.slow
def test_every_declared_cell_is_the_config_that_hydra_makes_of_it() -> None:
    declarations = [artefact.load(name) for name in artefact.declared()]
    scales = [(declaration, scale) for declaration in declarations for scale in declaration.artefact.scales]
    for cell in {tuple(cell.overrides) for declaration, scale in scales for cell in declaration.all_cells(scale)}:
        assert config.composed(cell) == OmegaConf.to_container(config.compose(cell), resolve=True), cell


def test_what_is_more_than_choices_and_values_is_left_to_hydra(composed_here: list[list[str]]) -> None:
    for one in ("seed=1,2", "nothing=1", "optimizer.nothing=1", "+seed=1", "seed.deeper=1", "hydra.verbose=true", "seed=}"):
        assert composition._set_on_choices(["arch=mlp", one]) is None, one
    assert "lr" not in config.compose(["~optimizer.lr", "arch=mlp"]).optimizer


def test_keys_in_the_place_of_a_choice_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^method: takes a choice by its name; there are backprop, .*platonic"):
        config.compose(["method={nothing: 1}"])


def test_changed_config_leaves_what_is_remembered_as_it_was(composed_here: list[list[str]]) -> None:
    config.compose().optimizer.lr = 7.0
    assert config.compose().optimizer.lr != 7.0 and len(composed_here) == 1


def test_changed_and_added_files_are_composed_anew(
    composed_here: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = tmp_path / "plugin" / "configs" / "dataset" / "few.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("# Few digits.\ndefaults: [digits, _self_]\ntrain_limit: 100\n")
    with pytest.raises(ConfigError, match=r"^dataset=few: unknown choice"):
        config.compose(["dataset=few"])
    monkeypatch.setenv("EFFDL_PLUGINS", str(tmp_path / "plugin"))
    assert config.compose(["dataset=few"]).dataset.train_limit == 100
    choice.write_text("# Few digits.\ndefaults: [digits, _self_]\ntrain_limit: 200\n")
    assert config.compose(["dataset=few"]).dataset.train_limit == 200
    assert config.compose(["dataset=few"]).dataset.train_limit == 200 and len(composed_here) == 3
    monkeypatch.delenv("EFFDL_PLUGINS")
    with pytest.raises(ConfigError, match=r"^dataset=few: unknown choice"):
        config.compose(["dataset=few"])


def test_what_depends_on_the_surroundings_is_not_remembered(
    composed_here: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for which, key in (("mlp", "hidden"), ("cnn4", "widths")):
        monkeypatch.setenv("WHICH", which)
        if not config.VERSION_BASE:  # from Hydra 1.4 on the surroundings have no say in choices
            with pytest.raises(ConfigError, match=r"Error resolving interpolation '\$\{oc.env:WHICH\}'"):
                config.compose(["arch=${oc.env:WHICH}"])
            continue
        assert key in config.compose(["arch=${oc.env:WHICH}"]).arch
    assert len(composed_here) == 2


def test_folder_that_cannot_be_written_costs_time_only(
    composed_here: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert config.compose() == config.compose() and len(composed_here) == 1
    cache._known.clear()
    assert config.compose() == config.compose() and len(composed_here) == 2
