"""`effdl` as its users call it: what it prints, in how many lines, with which exit code; and every artefact through make."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, environment, run
from declared import plugin

from effdl import commands, config
from effdl.reproduce import artefact, published


def effdl(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command in this process, which saves seconds of imports: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        commands.main(arguments)
    told = capsys.readouterr()
    return int(stopped.value.code or 0), told.out, told.err


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The options of a results folder, with the toy declared and no data set."""
    monkeypatch.setenv("EFFDL_PLUGINS", str(plugin(tmp_path / "plugins")))
    monkeypatch.setenv("EFFDL_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return f"--results={tmp_path / 'results'}"


MISTAKES = {
    "no command": ("", "needs a command, one of plan, run, "),
    "another command": ("foo", "foo: unknown command; there are plan, run, "),
    "overrides alone": ("method=dll seed=1", "method=dll: stands behind a command, as in effdl run method=dll seed=1"),
    "nothing to explain": ("explain", "explain: needs a choice or a key, such as method=dll"),
    "nothing to report": ("report", "report: needs an artefact's id"),
    "two to report": ("report table-6.1 table-6.2", "table-6.2: effdl report takes one id alone"),
    "something to list": ("list methods", "methods: effdl list takes options alone"),
    "no such option": ("run --epochs 3", "--epochs: unknown option; effdl run takes "),
    "an option without its value": ("plan --scale", "--scale: needs a value, paper, medium, small or smoke"),
    "an option with a value": ("plan --json=3", "--json: takes no value"),
    "half of an option": ("plan --config mine", "ambiguous option: --config could match --config-dir, --config-name"),
    "no worker": ("plan --workers 0 seed=1", "--workers: a whole number from 1, not '0'"),
    "a sweep": (
        "run seed=0,1 -m method=dll",
        "-m: effdl run carries out an artefact or one run; a sweep is python run.py -m seed=",
    ),
    "a sweep anew": ("run --again -m seed=0,1", "-m: --again is of one run; say effdl run --again with the overrides of one"),
    "an option of run.py": ("run --cfg job", "--cfg: is an option of run.py; say python run.py --cfg ..."),
    "an artefact with a config": (
        "run table-6.2 --config-dir X",
        "--config-dir: belongs to overrides, not to ",
    ),
    "no folder of configs": ("plan --config-dir X seed=1", "--config-dir X: there is no such folder"),
    "a config without a name": ("plan --config-name= seed=1", "--config-name: needs a value"),
    "no such config": ("run -cn best", "--config-name best: there is no such config; --config-dir names the folder"),
    "a best without its folder": (
        "plan +best=mine --results here",
        "+best=mine: a search keeps its best in its folder, as in ",
    ),
    "a space": (
        "run optimizer.lr=interval(0,1)",
        "optimizer.lr: interval(0,1) is a space, of which -m search=optuna ",
    ),
}


@pytest.mark.parametrize(("line", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_line(
    line: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = effdl(capsys, *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"effdl: {told}")
    assert not any(tmp_path.iterdir())


def test_overrides_may_stand_between_options(capsys: pytest.CaptureFixture[str]) -> None:
    line = ("plan", "--json", "method=backprop", "--results", "here", "arch=mlp", "--workers", "1", "arch.hidden=[4,3,2]")
    code, out, _ = effdl(capsys, *line)
    assert code == 0 and json.loads(out)["arch/blocks"] == ["linear1", "linear2", "linear3"]


def test_an_override_says_where_a_run_is_recorded_as_it_does_for_run_py(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was set aside in silence for the option's default."""
    monkeypatch.chdir(tmp_path)
    quick = ("arch=mlp", "arch.hidden=[4]", "method.epochs=1", "dataset.train_limit=100", "hardware.threads=1")
    code, out, _ = effdl(capsys, "run", *quick, "results=there")
    assert code == 0 and json.loads(out)["path"].startswith("there/runs/")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_list_names_every_artefact_and_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = effdl(capsys, "list", "--json")
    found = json.loads(out)
    own = set(found["artefacts"]) - set(published.artefacts())
    assert code == 0 and set(published.artefacts()) <= set(found["artefacts"]) and own <= set(artefact.declared())
    assert {name for name, told in found["artefacts"].items() if told["declared"]} == set(artefact.declared())
    files = {path.relative_to(config.CONFIGS).with_suffix("").as_posix() for path in config.CONFIGS.rglob("*/*.yaml")}
    assert {f"{group}/{name}" for group, names in found["groups"].items() for name in names} == files

    code, out, _ = effdl(capsys, "list")
    assert code == 0
    for name in (*found["artefacts"], *(choice.split("/")[-1] for choice in files)):
        assert re.search(rf"^ [ *] ? ?{re.escape(name)} ", out, re.MULTILINE), name


def test_status_shows_every_claim_once_with_its_declaration_or_that_there_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFDL_DATA", str(tmp_path))
    code, out, _ = effdl(capsys, "status", "--results", str(tmp_path / "results"))
    assert code == 0 and not (tmp_path / "results").exists()
    lines = out.split("\nClaims:\n")[1].splitlines()
    answered = dict(line.split(maxsplit=1) for line in lines)
    assert len(lines) == len(answered) == 188 + 27 and list(answered) == list(published.claims())
    assert answered["ch6.first_vgg13_peak_lo"] == "table-6.1" == answered["ch6.feednet_memory_saving_hi"]
    assert answered["ch6.imagenet_dpl_acc"] == "not declared"
    for name in published.artefacts():
        assert re.search(rf"(^|\s){re.escape(name)}\s", out.split("\nClaims:\n")[0]), name
    assert re.search(r"^  table-6\.1 +smoke +0 of 36 runs done; nothing published$", out, re.MULTILINE)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No declaration but those of plugin folders: looking at all of ours takes minutes, and one test does."""
    monkeypatch.setattr(published, "EXPERIMENTS", tmp_path / "none")


@pytest.mark.usefixtures("alone")
def test_status_counts_what_has_run_and_what_was_published(capsys: pytest.CaptureFixture[str], toy: str) -> None:
    assert effdl(capsys, "run", "toy", toy, "--cell", "data=few", "--workers", "1")[0] == 0
    code, out, err = effdl(capsys, "publish", "toy", toy)
    assert (code, out) == (0, "") and err.endswith("toy.jsonl: 4 runs added, 0 were there\n")
    found = json.loads(effdl(capsys, "status", "--json", toy)[1])
    told = found["artefacts"]["toy"]["scales"]["smoke"]
    assert {**told, "verdicts": sorted(told["verdicts"])[-1]} == {"done": 4, "left": 4, "no_data": 0, "verdicts": "not run"}
    assert told["verdicts"] == {"inconclusive": 1, "not run": 1}  # of two runs, and of none
    # Nothing but the toy was published here, and smoke scales are no evidence: each claim stands once, without a verdict.
    declared = [one for path in artefact.declared().values() for one in artefact.read(path).artefact.claims.values()]
    assert found["counts"] == {"printed": {"without a verdict": len(declared)}}


@pytest.mark.usefixtures("alone")
def test_status_of_one_artefact_tells_of_it_alone(capsys: pytest.CaptureFixture[str], toy: str) -> None:
    code, out, _ = effdl(capsys, "status", "toy", toy)
    assert code == 0 and re.search(r"^  toy +smoke +0 of 8 runs done; nothing published$", out, re.MULTILINE)
    assert re.search(r"^  level +not run$", out, re.MULTILINE) and "not declared" not in out and len(out.splitlines()) < 12
    found = json.loads(effdl(capsys, "status", "toy", "--json", toy)[1])
    assert list(found["artefacts"]) == ["toy"] and found["declared"]["level"]["scale"] is None
    code, out, _ = effdl(capsys, "status", "fig-3.1", toy)
    assert code == 0 and "fig-3.1" in out and "not declared yet" in out
    code, out, err = effdl(capsys, "status", "fig-9.9", toy)
    assert (code, out) == (2, "") and "no such artefact" in err


def test_plan_of_an_artefact_is_one_json_object_with_each_cells_cost(capsys: pytest.CaptureFixture[str], toy: str) -> None:
    code, out, _ = effdl(capsys, "plan", "toy", toy, "--workers", "1", "--json")
    planned = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and (planned["runs"], planned["left"]) == (8, 8)
    seconds = {name: cell["time/estimate_s"] for name, cell in planned["cells"].items()}
    assert planned["time/estimate_s"] == pytest.approx(2 * sum(seconds.values()))
    of = planned["cells"]["data=few,method=ours"]
    assert (of["done"], of["left"], len(of["memory/segment_peak_bytes"])) == (0, 2, 2)
    assert planned["cells"]["data=few,method=base"]["memory/share_of_backprop"] == 1
    assert 0 < of["memory/share_of_backprop"] < 1 and not Path("results").exists()

    code, out, _ = effdl(capsys, "plan", "toy", toy)
    assert code == 0 and out.count("data=") == 4 and re.search(r"^8 runs left: about ", out, re.MULTILINE)


def test_plan_of_a_run_is_one_json_object_by_segment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = ("method=dll", "arch=cnn4", "dataset.train_limit=300", "method.epochs=1", f"--results={tmp_path / 'results'}")
    code, out, _ = effdl(capsys, "plan", *run, "--time", "--json")
    planned = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    peaks = planned["memory/segment_peak_bytes"]
    assert planned["memory/accounted_peak_bytes"] == max(peaks) and len(peaks) == 3
    whole = max(peaks) / planned["memory/share_of_backprop"]
    assert planned["memory/segment_share_of_backprop"] == pytest.approx([peak / whole for peak in peaks])
    assert len(planned["time/segment_estimate_s"]) == 3 and sum(planned["time/segment_estimate_s"]) > 0
    assert planned["time/estimate_s"] >= sum(planned["time/segment_estimate_s"]) * 0.99

    code, out, _ = effdl(capsys, "plan", *run, "--json")
    assert code == 0 and json.loads(out) == {key: value for key, value in planned.items() if not key.startswith("time/")}

    code, out, err = effdl(capsys, "plan", *run)
    assert code == 0 and err == "" and len(re.findall(r"^ +[123] .* (MiB|KiB) +\d+%$", out, re.MULTILINE)) == 3
    held = r"[0-9.]+ [KM]iB +\d+%"
    for row in ("this, in segment [123]", "full backprop", "checkpointed by block"):
        assert re.search(rf"^{row} +{held} +{held} +{held}$", out, re.MULTILINE), out
    assert len(re.findall(rf"^  method.keep_features_mib=0 +{held} +{held}$", out, re.MULTILINE)) == 2
    code, out, _ = effdl(capsys, "plan", *run, "--time")
    assert code == 0 and len(re.findall(r"^ +[123] .* (MiB|KiB) +\d+% +[0-9.]+ (s|min)$", out, re.MULTILINE)) == 3
    assert not (tmp_path / "results").exists()


BORROWED = next(name for name, row in published.artefacts().items() if row["nature"] == "borrowed-image")
WRONG = {
    "no such scale": (
        ("plan", "table-6.1", "--scale", "huge"),
        2,
        r"table-6\.1: no scale 'huge'; there are paper, small",
    ),
    "no such artefact to plan": (("plan", "table-9.9"), 2, r"table-9\.9: no such artefact; effdl list names them all"),
    "no such artefact to run": (("run", "table-9.9"), 2, r"table-9\.9: no such artefact"),
    "no such chapter": (("run", "claims-99"), 2, r"claims-99: no such artefact"),
    "a report of what is not declared": (("report", "table-6.6"), 2, r"table-6\.6 .*is not declared yet"),
    "a report of what was borrowed": (("report", BORROWED), 2, rf"{re.escape(BORROWED)} .*; there is nothing to run"),
    "a report of nothing run": (("report", "toy"), 4, r"toy: nothing has been run at scale smoke; .*toy.*smoke"),
    "nothing run to publish": (("publish", "toy"), 4, r"toy: nothing has been run at scale smoke; .*toy.*smoke"),
    "no such cell": (
        ("plan", "toy", "--cell", "data=none"),
        2,
        r"--cell data=none: there is none; cells are named like ",
    ),
    "no cell at all": (("run", "toy", "--cell", "few"), 2, r"--cell few: there is none"),
    "no such key": (("plan", "method=dll", "method.nothing=1"), 2, r"method\.nothing: unknown key; there are "),
    "no such choice": (("run", "method=dlll"), 2, r"method=dlll: unknown choice; there are "),
}


@pytest.mark.parametrize(("arguments", "code", "says"), WRONG.values(), ids=WRONG)
def test_wrong_command_is_answered_in_one_line_and_writes_nothing(
    arguments: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str], toy: str, tmp_path: Path
) -> None:
    found, out, err = effdl(capsys, *arguments, toy)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert re.match(rf"effdl: {says}", err), err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_number_of_workers_below_one_is_refused(workers: str, capsys: pytest.CaptureFixture[str], toy: str) -> None:
    code, out, err = effdl(capsys, "run", "toy", toy, "--workers", workers)
    assert code == 2 and out == "" and "--workers" in err.splitlines()[-1]


@pytest.mark.usefixtures("alone")
def test_edited_ledger_is_named_by_report_and_publish_and_by_status(
    capsys: pytest.CaptureFixture[str], toy: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "results" / "ledger" / "toy.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text('{"cell":"data=few,method=base","checksum":"0","runs":[]}\n')
    for command in ("report", "publish"):
        code, out, err = effdl(capsys, command, "toy", toy)
        assert (code, out, err.count("\n")) == (4, "", 1) and f"{ledger}, line 1 (data=few,method=base): was edited" in err
    code, out, _ = effdl(capsys, "status", toy)
    assert code == 0 and re.search(r"^  toy +.*toy\.jsonl, line 1 .*was edited", out, re.MULTILINE)


LIGHT: dict[str, tuple[str, ...]] = {"list": ("list",), "help": ("--help",), "help of run": ("run", "--help")}
TORCH = """
import sys
from effdl.commands import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    print(stop.code, *({"torch", "matplotlib"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_what_only_reads_does_not_wait_for_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", TORCH, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0"] and len(done.stdout) > 100


def test_reader_that_goes_away_leaves_no_traceback(tmp_path: Path) -> None:
    shell = f"'{sys.executable}' -m effdl list | head -1"
    done = subprocess.run(shell, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_module_and_script_are_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = re.search(r"^effdl = \"(.*)\"$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert scripts is not None and scripts[1] == f"{commands.main.__module__}:{commands.main.__name__}"
    done = run("list", cwd=tmp_path, script="effdl", fresh=True)
    assert (done.returncode, done.stdout) == effdl(capsys, "list")[:2]


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """make with this Python instead of a new environment."""
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / "venv" / ".installed").touch()
    command = ["make", "-C", str(ROOT), f"VENV={folder / 'venv'}", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def test_every_artefact_answers_to_make_with_its_scale(tmp_path: Path) -> None:
    names = [*published.artefacts(), "claims-3", "claims-7"]
    done = make("-n", "SCALE=smoke", *names, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"-m effdl run (\S+) --scale smoke$", done.stdout, re.MULTILINE) == names and len(names) == 82
    assert len({name.split("-", 1)[1] for name in names}) < len(names)  # table-4.1 and fig-4.1 are two


def test_artefacts_that_do_not_run_say_in_one_line_what_they_are_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undeclared = next(n for n, row in published.artefacts().items() if row["kind"] == "table" and n not in artefact.declared())
    done = make(BORROWED, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = [line for line in done.stdout.splitlines() if not line.startswith("make")]
    for name in (undeclared, "claims-3"):  # which make runs like the first, as the test above says
        code, out, err = effdl(capsys, "run", name)
        assert (code, err) == (0, "")
        said += out.splitlines()
    assert len(said) == 3
    assert said[0].startswith(f"{BORROWED} (") and "borrowed" in said[0]
    assert said[1].startswith(f"{undeclared} (") and "not declared yet" in said[1]
    assert said[2].startswith("claims-3 (") and "not declared yet" in said[2]
