"""Every YAML against its class, and specs that survive a round trip."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from functools import cache
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from effdl.config import (
    CONFIGS,
    GROUPS,
    OF_A_RUN,
    Spec,
    build,
    build_choice,
    build_setting,
    choices,
    compose,
    dump,
    is_setting,
    run_id,
)
from effdl.config.groups import default_entries
from effdl.errors import ConfigError
from effdl.methods.method import BY_THE_ENGINE
from effdl.methods.segmentwise import Segmentwise
from effdl.training.decision import DownConv, Pool
from effdl.training.optim import Adamw, MultiStep, Sgd

CHOICES = [(group, name) for group in GROUPS for name in choices(group)]
BUILT = [(group, name) for group, name in CHOICES if name != "none"]


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@cache
def composed(*overrides: str) -> DictConfig:
    return compose(overrides)


def node(group: str, name: str) -> Any:
    parents = {"method/solver": ["method=platonic"], "search/sampler": ["search=optuna"], "search/pruner": ["search=optuna"]}
    found = OmegaConf.select(composed(*parents.get(group, ()), f"{group}={name}"), group.replace("/", "."))
    return next(iter(found.values()), None) if GROUPS[group].several else found


def spec(*overrides: str) -> Spec:
    return build(composed(*overrides))


def concrete_classes(group: str) -> set[type]:
    """Classes of the package that a choice of the group may name, found by importing its folder."""
    module, _, name = GROUPS[group].base.partition(":")
    base = getattr(import_module(module), name)
    folder = Path(import_module(module).__file__ or "").parent
    found: set[type] = set()
    for path in folder.glob("*.py"):
        members = vars(import_module(f"{module.rpartition('.')[0]}.{path.stem}")).values()
        found |= {m for m in members if isinstance(m, type) and issubclass(m, base) and not isabstract(m)}
    return found


# --- every group


def test_a_spec_has_a_field_for_each_group_of_a_run() -> None:
    """It is written out, so that readers and the type checker see it; the table of groups says what is done with each."""
    defaults = {f.name: f.default for f in fields(Spec) if f.name in GROUPS}
    assert set(defaults) == set(OF_A_RUN)
    for name, default in defaults.items():
        absent = () if GROUPS[name].several else None
        assert default == (absent if GROUPS[name].identity == "chosen" else MISSING), name


def test_the_root_config_chooses_of_each_group_and_of_none_twice() -> None:
    listed = [name for one in default_entries(CONFIGS / "config.yaml") if isinstance(one, dict) for name in one]
    assert sorted(name for name in listed if not name.startswith("override ")) == sorted(n for n in GROUPS if "/" not in n)
    assert listed.index("method") > max(listed.index("objective"), listed.index("optimizer"))  # which a method's YAML overrides


def test_what_the_engine_takes_are_the_groups_that_not_every_method_takes() -> None:
    assert {name for name, group in GROUPS.items() if group.not_taken} | {"processes"} == BY_THE_ENGINE


# --- every YAML


def test_every_folder_is_a_group_and_every_file_a_choice_of_it() -> None:
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*/*.yaml")}
    assert {f"{group}/{name}" for group, name in CHOICES} == files
    assert {group for group, _ in BUILT} == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), BUILT)
def test_a_composed_choice_has_exactly_the_fields_of_its_class_and_builds(group: str, name: str) -> None:
    config = node(group, name)
    made = build_setting(OmegaConf.to_container(config), group)
    assert is_setting(made) and f"{type(made).__module__}.{type(made).__qualname__}" == config["_target_"]
    assert set(config) - {"_target_"} == {f.name for f in fields(made)}
    assert build_choice(group, name) == made


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_begins_with_its_line_for_the_help_page(group: str, name: str) -> None:
    lines = (CONFIGS / group / f"{name}.yaml").read_text().splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert first.startswith("# ") and first.endswith(".") and 15 < len(first) < 130


@pytest.mark.parametrize("group", GROUPS)
def test_each_class_has_one_yaml_of_its_name_with_its_defaults_and_all_others_are_presets(group: str) -> None:
    classes = {snake(cls.__name__): cls for cls in concrete_classes(group)}
    own = set(classes) & set(choices(group))
    assert classes and own == set(classes)
    for name, cls in classes.items():
        assert build_choice(group, name) == cls()
        assert all(f.default is not MISSING for f in fields(cls))
    presets = set(choices(group)) - own - {"none"}
    assert {type(build_choice(group, name)) for name in presets} <= set(classes.values())


MAY_BE_NONE = [name for name, group in GROUPS.items() if group.may_be_none or group.several]


@pytest.mark.parametrize("group", [name for name in MAY_BE_NONE if name != "method/decision"])
def test_none_is_the_absence_of_a_choice(group: str) -> None:
    assert node(group, "none") is None and build_choice(group, "none") is None


def test_the_presets_say_what_the_thesis_says() -> None:
    assert spec("method=dll").method == Segmentwise(epochs=5)
    # §6.4: its 4-layer network has three layers below the last, and a single affine decision-layer.
    first_results = Segmentwise(epochs=(30, 40, 50, 60), decision=Pool(size=None))
    assert spec("method=dll_first_results", "arch=cnn4").method == first_results
    assert (
        spec("method=dll_first_results", "method/decision=vgg").method.decision == spec("method/decision=vgg").method.decision
    )
    assert spec("method=dll").optimizer == spec("method=dll_first_results").optimizer == Sgd()
    assert spec("method=dll_regularized").optimizer == Adamw(lr=3e-3, weight_decay=1e-6, schedule=MultiStep())
    assert spec("method=dll_regularized").method == Segmentwise(
        epochs=300,
        decision=DownConv(convs=4),
        lr_factor=0.8,
        weight_decay_factor=1.15,
        input_dropout=0.8,
        gradient_dropout=0.6,
    )
    assert spec("method/decision=vgg").method.decision == Pool(size=7, hidden=(512, 512), dropout=0.5)


def test_the_users_own_optimizer_wins_over_that_of_a_preset() -> None:
    preset = "method=dll_regularized"
    assert spec(preset, "optimizer=sgd").optimizer == spec("optimizer=sgd", preset).optimizer == Sgd(schedule=MultiStep())
    assert spec(preset, "optimizer=sgd", "optimizer/schedule=none").optimizer == Sgd()
    assert spec(preset, "optimizer.lr=0.01", "optimizer.schedule.gamma=0.2").optimizer == Adamw(
        lr=0.01, schedule=MultiStep(gamma=0.2)
    )
    with pytest.raises(ConfigError, match=r"^method=dll_regularized: .*optimizer/schedule.* optimizer=none$"):
        spec(preset, "optimizer=none")


# --- building


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method=backprop", "method.checkpoint=block", "arch=mlp", "arch.hidden=[392,50]", "optimizer=adamw"),
        ("method=dll_regularized", "optimizer/schedule=multi_step", "seed=7", "test_every=run"),
        ("dataset=sine", "arch=mlp", "objective=linear_mse", "hardware.threads=2", "method/decision=vgg"),
        ("method=dll_first_results", "arch=vgg13_bn", "optimizer.weight_decay=8e-5"),
        ("filter=random_subset", "filter.share=0.25", "probe=[stable_rank]", "probe.stable_rank.every=3"),
    ],
)
def test_a_spec_survives_being_written_and_read(overrides: tuple[str, ...]) -> None:
    made = spec(*overrides)
    again = build(json.loads(json.dumps(dump(made))))
    assert again == made and run_id(again, "data") == run_id(made, "data")
    assert made != replace(made, seed=made.seed + 1)


def test_nested_groups_are_chosen_by_their_full_path() -> None:
    assert spec("method/decision=down_conv", "method.decision.channels=8").method.decision == DownConv(channels=8)
    made = spec("optimizer=adamw", "optimizer/schedule=multi_step", "optimizer.schedule.gamma=0.2")
    assert made.optimizer == Adamw(schedule=MultiStep(gamma=0.2))
    assert spec().optimizer == Sgd() and spec().optimizer.schedule is None


def test_a_method_that_learns_by_an_optimizer_says_so_when_there_is_none() -> None:
    config = composed("optimizer=none")
    assert config.optimizer is None
    with pytest.raises(ConfigError, match=r"^optimizer: Segmentwise needs one: adadelta, .*, sgd$"):
        build(config)


OUTSIDE = """
from torch import nn
from effdl.methods.method import Method
from effdl.setting import Count, setting

@setting
class {name}(Method):
    '''From outside the package.'''
    epochs: Count = 3

    def fit(self, problem, model, run):
        return model.eval()

    def network(self, model, problem, objective, notes):
        return model
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "their_rules.py").write_text(OUTSIDE.format(name="Nothing") + OUTSIDE.format(name="Backprop"))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_rules", None)


def their(name: str, **values: Any) -> Spec:
    return build({**dump(spec()), "method": {"_target_": f"their_rules.{name}", **values}})


@pytest.mark.usefixtures("outside")
def test_a_method_from_outside_the_package_is_named_by_its_target_alone() -> None:
    made = their("Nothing", epochs=5)
    assert type(made.method).__module__ == "their_rules" and made.method.epochs == 5
    assert build(dump(made)) == made
    with pytest.raises(ConfigError, match=r"^method\.epochs: "):
        their("Nothing", epochs=0)
    with pytest.raises(ConfigError, match=r"^method\.epoch: unknown key; there are epochs$"):
        their("Nothing", epoch=5)
    assert run_id(their("Backprop"), "data") != run_id(spec("method=backprop"), "data")  # a namesake is another method


@pytest.mark.usefixtures("outside")
def test_a_new_field_with_a_default_changes_no_old_name(tmp_path: Path) -> None:
    before, changed = (run_id(their("Nothing", **values), "data") for values in ({}, {"epochs": 5}))
    module = tmp_path / "their_rules.py"
    module.write_text(module.read_text().replace("    epochs: Count = 3\n", "    epochs: Count = 3\n    newer: Count = 1\n"))
    sys.modules.pop("their_rules")
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    assert their("Nothing").method.newer == 1
    assert [run_id(their("Nothing", **v), "data") for v in ({}, {"epochs": 5})] == [before, changed]
    assert run_id(their("Nothing", newer=2), "data") not in (before, changed)


def test_a_class_of_another_group_is_refused() -> None:
    wrong = {**dump(spec()), "method": dump(spec())["arch"]}
    with pytest.raises(ConfigError, match=r"^method\._target_: effdl\.archs\.cnn\.Cnn4 is no Method"):
        build(wrong)
    nested = dump(spec())
    nested["method"]["decision"] = {"_target_": "effdl.training.optim.MultiStep"}
    with pytest.raises(ConfigError, match=r"^method\.decision\._target_: .* is no Decision"):
        build(nested)
    with pytest.raises(ConfigError, match=r"^arch\._target_: .* is no Arch"):
        build({**dump(spec()), "arch": {"_target_": "builtins.print"}})
    with pytest.raises(ConfigError, match=r"^arch: .* has no _target_; name a choice"):
        build({**dump(spec()), "arch": {"widths": [3]}})


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("dataset.batch_size=true", "dataset.batch_size: "),
        ("dataset.batch_size=64.0", "dataset.batch_size: "),
        ("method.drop_raw_input=1", "method.drop_raw_input: "),
        ("optimizer.lr=inf", "optimizer.lr: "),
        ("optimizer={momentum:0,nesterov:true}", "optimizer.nesterov=true needs optimizer.momentum "),
        ("optimizer.lr=abc", "optimizer.lr: "),
        ("method.gradient_dropout=1.0", "method.gradient_dropout: "),
        ("arch.widths=[]", "arch.widths: "),
        ("arch.widths=[3,0]", "arch.widths.1: "),
        ("method.decision.size=0", "method.decision.size: "),
        ("arch=vgg arch.depth=16", "arch.depth: "),
        ("seed=-1", "seed: "),
        ("seed=1.5", "seed: "),
        ("test_every=never", "test_every: "),
    ],
)
def test_values_of_the_wrong_type_or_range_name_their_key(override: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}") as error:
        spec(*override.split())
    assert "\n" not in str(error.value)


def test_real_targets_must_lie_where_the_output_units_can_reach_them() -> None:
    def sine(objective: str) -> Spec:
        return spec("dataset=sine", "arch=mlp", f"objective={objective}")

    assert sine("linear_mse") and sine("tanh_mse") and spec("objective=sigmoid_bce")  # classes are coded within any range
    with pytest.raises(ConfigError, match=r"^objective: SigmoidBce .*\[0, 1\].*\[-1, 1\].* linear_mse, tanh_mse$"):
        sine("sigmoid_bce")
    with pytest.raises(ConfigError, match=r"^objective: SoftmaxCe .*vectors.* linear_mse, tanh_mse$"):
        sine("softmax_ce")


@pytest.mark.parametrize("installed", [True, False])
def test_configs_are_the_packages_own_before_any_that_lie_beside_it(installed: bool, tmp_path: Path) -> None:
    package = tmp_path / "effdl"
    for path in [*(source := CONFIGS.parent / "effdl").glob("*.py"), *source.glob("config/*.py")]:
        (package / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, package / path.relative_to(source))
    for folder in [tmp_path / "configs", *([package / "configs"] if installed else [])]:
        folder.mkdir()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from effdl.config import CONFIGS; print(CONFIGS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == (package if installed else tmp_path) / "configs"
