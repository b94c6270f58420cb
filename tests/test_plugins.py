"""The methods, data sets and all else that CONTRIBUTING shows, written into a folder outside the package, work as it says."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from command import ROOT, answer, run, run_here
from torch import nn

from effdl import commands, config, load_network
from effdl.errors import ConfigError

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
FAST = ("arch=mlp", "arch.hidden=[8]", "dataset.train_limit=300")
METHODS = ("readout", "drtp")
OTHERS = {"dataset": "rings", "arch": "sines", "objective": "hinge", "filter": "every", "probe": "norms"}


def command(begins: str) -> list[str]:
    """The words of the one command that begins so, without these."""
    (found,) = (line for line in COMMANDS if line.startswith(begins))
    return shlex.split(found)[len(begins.split()) :]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with all files, in a place whose name needs care; the current folder is another."""
    folder = tmp_path / "my rules, 'new'"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("EFFDL_PLUGINS", str(folder))
    for name in (*METHODS, *OTHERS.values()):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_contributing_shows_three_files_of_each_kind_and_two_of_a_data_set() -> None:
    choices = {name: f"configs/method/{name}.yaml" for name in METHODS}
    choices |= {name: f"configs/{group}/{name}.yaml" for group, name in OTHERS.items()}
    tests = {f"test_{name}.py" for name in choices if name != OTHERS["dataset"]}
    assert set(FILES) == {f"{name}.py" for name in choices} | {*choices.values()} | tests | {"experiments/two_losses.yaml"}
    sections = re.findall(r"^## Add an? ([\w ]+)", TEXT, re.MULTILINE)
    kinds = ("method", "rule", "data set", "network", "objective", "filter", "probe", "artefact")
    assert all(sum(section.startswith(kind) for section in sections) == 1 for kind in kinds)


def test_the_base_class_of_each_choice_is_named() -> None:
    for group in (*OTHERS, "augment", "method/decision", "method/loss"):
        assert f"extends `{config.GROUPS[group].base.replace(':', '.')}`" in " ".join(TEXT.split())


def test_method_outside_the_package_runs_learns_and_is_loaded_again(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("method=readout", *command("python run.py method=readout"), "arch.widths=[8]") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["status"] == "finished" and result["summary"]["test/acc"] > 0.8
    assert isinstance(load_network(result["path"]), nn.Module)
    stored = json.loads((Path(result["path"]) / "spec.json").read_text())["config"]
    assert stored["method"] == {"_target_": "readout.Readout", "penalty": 10.0} and stored["optimizer"] is None


def test_rule_outside_the_package_learns(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("method=drtp", *command("python run.py method=drtp")) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["status"] == "finished" and result["summary"]["test/acc"] > 0.8
    assert isinstance(load_network(result["path"]), nn.Module)


def test_artefact_outside_the_package_is_made_and_judged(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        commands.main(command("effdl"))
    out = capsys.readouterr().out
    assert not stopped.value.code and "Two losses on three rings" in out and "Both tell rings apart" in out
    assert len(list(Path.cwd().glob("results/runs/*/summary.json"))) == 4


@pytest.mark.parametrize("arguments", [line for line in COMMANDS if line.startswith("python run.py dataset=rings")])
def test_other_choices_outside_the_package_learn(arguments: str, plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(*shlex.split(arguments)[2:]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["status"] == "finished" and result["summary"]["test/acc"] > 0.95
    if "filter=every" in arguments:
        assert result["summary"]["data/train_samples"] == 10 * 1600 / 4
    if "probe=" in arguments:
        lines = [json.loads(line) for line in (Path(result["path"]) / "metrics.jsonl").read_text().splitlines()]
        assert [sum(line.get(f"norms/{block}", 0) > 0 for line in lines) for block in (0, 1)] == [5, 5]


def test_sweeps_workers_find_it_too(plugin: Path) -> None:
    done = run("-m", *command("python run.py -m"), *FAST, cwd=Path.cwd(), EFFDL_PLUGINS=str(plugin))
    runs = answer(done)["runs"]
    assert [r["status"] for r in runs] == ["finished"] * 6 and len({r["run_id"] for r in runs}) == 6
    assert sum(r["name"].startswith("readout") for r in runs) == 3


def test_it_runs_by_its_target_alone(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFFDL_PLUGINS")
    (line,) = (line for line in COMMANDS if line.startswith("PYTHONPATH="))
    done = run(*shlex.split(line)[3:], *FAST, cwd=Path.cwd(), PYTHONPATH=f"{ROOT}{os.pathsep}{plugin}")
    assert done.returncode == 0 and answer(done)["status"] == "finished", done.stderr
    monkeypatch.setenv("EFFDL_PLUGINS", str(plugin))
    named = config.build(config.compose(["method=readout", "method.penalty=10", *FAST]))
    assert answer(done)["run_id"] == config.run_id(named, named.dataset.fingerprint())  # however it was named


def test_its_own_tests_run(plugin: Path) -> None:
    assert len(command("python -m pytest")) == 1
    done = run("-q", "-p", "no:cacheprovider", str(plugin), cwd=Path.cwd(), script="pytest")
    tests = sum(text.count("def test_") for text in FILES.values())
    assert done.returncode == 0 and f"{tests} passed" in done.stdout, done.stdout


def test_it_is_listed_with_its_first_comment(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"platonic", "readout", "segmentwise"} <= set(config.choices("method"))
    assert config.config_file("method", "readout") == plugin / "configs" / "method" / "readout.yaml"
    assert config.plugin_folders() == [plugin]
    comment = FILES["configs/method/readout.yaml"].splitlines()[0].removeprefix("# ")
    assert run_here("--help") == 0
    assert re.search(rf"^   readout +{re.escape(comment)}$", capsys.readouterr().out, re.MULTILINE)


def test_unknown_choices_are_answered_with_it(plugin: Path) -> None:
    for fails in (lambda: config.compose(["method=readot"]), lambda: config.config_file("method", "readot")):
        with pytest.raises(ConfigError, match=r"^method=readot: unknown choice; there are backprop, .*readout, "):
            fails()
    with pytest.raises(ConfigError, match=r"^method\.penalty: .*greater than 0"):
        config.build(config.compose(["method=readout", "method.penalty=0"]))


def test_two_folders_may_be_named_and_none_is_no_plugin(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other" / "configs" / "dataset"
    other.mkdir(parents=True)
    (other / "few.yaml").write_text("# Few digits.\ndefaults: [digits, _self_]\ntrain_limit: 100\n")
    monkeypatch.setenv("EFFDL_PLUGINS", f"{plugin}{os.pathsep}{tmp_path / 'other'}{os.pathsep}")
    made = config.build(config.compose(["method=readout", "dataset=few"]))
    assert type(made.method).__name__ == "Readout" and made.dataset.train_limit == 100
    monkeypatch.setenv("EFFDL_PLUGINS", "")
    assert "readout" not in config.choices("method") and config.plugin_folders() == config.search_path() == []


def broken(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("configs/metod/readout.yaml", "", r"'metod' is no group; there are .*method"),
        ("configs/method/dll.yaml", "", r"method=dll is .* already; take another name"),
        ("configs/method/readout.yaml", "# A.\n_target_: [", r"readout\.yaml"),
        ("configs/method/readout.yaml", "# A.\n_target_: readot.Readout\n", r"cannot import 'readot\.Readout' .*No module"),
        ("configs/method/readout.yaml", "# A.\n_target_: readout.Readot\n", r"no attribute 'Readot'"),
        ("readout.py", "def (:\n", r"cannot import .*SyntaxError"),
        ("readout.py", "1 / 0\n", r"cannot import .*ZeroDivisionError"),
    ],
)
def test_broken_plugins_are_named_in_one_line(
    name: str, text: str, line: str, plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(plugin, name, text)
    assert run_here("method=readout", "optimizer=none") == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and re.search(line, err) and list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("arguments", [("--help",), (), ("-m", "seed=0,1")])
def test_missing_plugin_folder_is_named_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_PLUGINS", "nowhere")
    assert run_here(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"effdl: EFFDL_PLUGINS: {tmp_path / 'nowhere'} is not a folder with ")
    assert len(err.splitlines()) == 1 and list(tmp_path.iterdir()) == []
