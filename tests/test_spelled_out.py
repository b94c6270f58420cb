"""Configs of a user's own, by --config-dir and --config-name: as overrides they are the runs that Hydra makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from command import run_here

from effdl import commands, config
from effdl.errors import ConfigError

CONFIGS = {
    "values": "defaults: [config, _self_]\nmethod: {epochs: 1}\narch: {widths: [4, 6, 8]}\nseed: 3",
    "choices": "defaults: [config, {override /method: backprop}, {override /arch: mlp}, _self_]\nmethod: {epochs: 1}",
    "nested": "defaults: [config, {override /method/decision: vgg}, _self_]\nmethod: {decision: {dropout: 0.1}, epochs: 1}",
    "several": "defaults: [config, {override /probe: [stable_rank]}, {override /arch: mlp}, _self_]\nmethod: {epochs: 1}",
    "text": "defaults: [config, _self_]\ndataset: {val_size: 300}\ntest_every: run\nmethod: {epochs: 1, patience: null}",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the configs."""
    monkeypatch.chdir(tmp_path)
    for name, content in CONFIGS.items():
        (tmp_path / "mine" / "best").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / f"{name}.yaml").write_text(content)
        added = content.replace("config, ", "")
        (tmp_path / "mine" / "best" / f"{name}.yaml").write_text(f"# @package _global_\n{added}")
    return tmp_path


def run_id(*overrides: str) -> str:
    spec = config.build(config.compose(overrides))
    return config.run_id(spec, spec.dataset.fingerprint())


@pytest.mark.parametrize("added", [False, True], ids=["as a whole", "added"])
@pytest.mark.parametrize("name", CONFIGS)
def test_they_make_the_run_that_run_py_makes(name: str, added: bool, capfd: pytest.CaptureFixture[str]) -> None:
    more = [f"+best={name}"] if added else []
    options = ["--config-dir", "mine", *([] if added else ["--config-name", name])]
    given = [*more, "dataset.train_limit=200", "hardware.threads=1"]
    assert run_here(*options, *given) == 0
    done = json.loads(capfd.readouterr().out)
    assert run_id(*config.spelled_out(given, "mine", None if added else name)) == done["run_id"]
    with pytest.raises(SystemExit) as stopped:
        commands.main(["run", *options, *given])
    told = capfd.readouterr()
    assert stopped.value.code == 0 and json.loads(told.out) == done and "from the record" in told.err


def test_what_is_given_stands_before_what_the_config_says() -> None:
    found = config.spelled_out(["method.epochs=2", "seed=0,1"], "mine", "choices")
    assert found == ["method=backprop", "arch=mlp", "method.epochs=2", "seed=0,1"]
    assert config.spelled_out(["seed=1"], None, None) == ["seed=1"]


def test_a_value_that_is_the_default_of_one_choice_alone_is_said_of_all() -> None:
    default = config.compose(["method=backprop"]).method.epochs
    Path("mine/mine.yaml").write_text(f"defaults: [config, _self_]\nmethod: {{epochs: {default}}}")
    for choices in ("backprop,dll", "dll,backprop"):
        found = config.spelled_out([f"method={choices}"], "mine", "mine")
        assert found == [f"method.epochs={default}", f"method={choices}"]


def test_what_comes_along_with_a_choice_that_is_given_is_of_that_one_alone() -> None:
    """The closed form brings optimizer=none and a solver, which backprop has not."""
    Path("mine/mine.yaml").write_text("defaults: [config, _self_]\nseed: 3")
    for choices in ("backprop,platonic", "platonic,backprop"):
        given = [f"method={choices}", "objective=linear_mse"]
        assert config.spelled_out(given, "mine", "mine") == ["seed=3", *given]


def test_a_choice_of_that_folder_alone_is_refused_with_what_to_do() -> None:
    Path("mine/dataset").mkdir()
    Path("mine/dataset/own.yaml").write_text("_target_: effdl.datasets.digits.Digits")
    with pytest.raises(ConfigError, match=r"^dataset=own: is of --config-dir alone, .* EFFDL_PLUGINS names a folder"):
        config.spelled_out(["dataset=own"], "mine")


@pytest.mark.parametrize(
    "value", [1, 0.5, 1e-5, True, None, "a b", "it's", "a,b", "${x}", "\\", [1, "a,b"], {"a": [1, {"b": "c d"}]}]
)
def test_any_value_is_read_back_as_it_is(value: Any) -> None:
    assert config.grammar.plain(config.grammar.quoted(value)) == value
