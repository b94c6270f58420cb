"""Answers from records say so, name changed sources, and can be had anew; a crash of users' code names its line."""

import json
import re
import sys
from pathlib import Path

import pytest
from command import Heard, run_here
from test_records import interrupt

from effdl import commands, config
from effdl.errors import ConfigError
from effdl.records import carry, earlier
from effdl.records.execute import execute
from effdl.records.report import Answer
from effdl.records.store import Store

RULE = '''
"""A plugin's method: backprop with a word of its own."""
from effdl.methods.segmentwise import Segmentwise
from effdl.setting import setting


@setting
class Rule(Segmentwise):
    def fit(self, problem, model, run):
        {body}
        return super().fit(problem, model, run)
'''
FAST = ("arch=mlp", "arch.hidden=[8]", "dataset.train_limit=300", "hardware.threads=1")
TARGET = "{_target_:own_rule.Rule,epochs:2}"
OWN = ("~method", f"+method={TARGET}", *FAST)
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d"


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a plugin's class; the current folder is another and empty."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "rules"))
    monkeypatch.delitem(sys.modules, "own_rule", raising=False)
    path = tmp_path / "rules" / "own_rule.py"
    path.write_text(RULE.format(body="pass"))
    return path


def effdl(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        commands.main(arguments)
    return int(stopped.value.code or 0)


def spec(*overrides: str) -> config.Spec:
    return config.build(config.compose(overrides))


def test_a_run_and_a_sweep_say_what_they_answer_from_their_records(rule: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(*FAST, "method.epochs=1") == 0
    first, said = capfd.readouterr()
    assert "from the record" not in said
    assert run_here(*FAST, "method.epochs=1") == 0
    again, said = capfd.readouterr()
    assert again == first
    assert re.fullmatch(rf"{re.escape(json.loads(first)['name'])}: .* \(from the record of {DATE}\)\n", said)
    summary = json.loads((Path(json.loads(first)["path"]) / "summary.json").read_text())
    assert summary["ended"][:16].replace("T", " ") in said

    assert run_here(*FAST, "method.epochs=1", "seed=1") == 0
    capfd.readouterr()
    assert run_here("-m", *FAST, "method.epochs=1", "workers=1", "seed=0,1") == 0
    out, said = capfd.readouterr()
    of = [line for line in said.splitlines() if line.startswith("[")]
    assert [bool(re.search(rf" \(from the record of {DATE}\)$", line)) for line in of] == [True, True]
    assert json.loads(out)["runs"][0] == json.loads(first)


def test_a_records_date_is_its_end_and_of_older_records_their_files(tmp_path: Path) -> None:
    (done,) = execute([spec(*FAST, "method.epochs=1")], tmp_path)
    store = Store(tmp_path, done["run_id"], print)
    summary = json.loads((store.path / "summary.json").read_text())
    (store.path / "summary.json").write_text(json.dumps({**summary, "ended": "2026-01-02T03:04:05+00:00"}))
    assert store.ended().timestamp() == 1767323045
    del summary["ended"]
    (store.path / "summary.json").write_text(json.dumps(summary))
    assert store.ended().timestamp() == pytest.approx((store.path / "summary.json").stat().st_mtime)


def test_a_changed_source_is_said_where_its_run_is_answered_or_goes_on(
    rule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(heard: Heard) -> str:
        (result,) = execute([spec(*OWN)], tmp_path, reporter=heard)
        return result.record if isinstance(result, Answer) else "no record"

    run = interrupt(monkeypatch, spec(*OWN), tmp_path)
    digests = json.loads((run / "provenance.json").read_text())["sources"]
    assert list(digests) == ["own_rule"] and len(digests["own_rule"]) == 64
    rule.write_text(RULE.format(body="print('new')"))
    heard = Heard()
    assert answered(heard) == "no record"
    (line,) = heard.lines
    assert "own_rule has changed since; it goes on all the same" in line and "effdl run --again" in line
    kept = json.loads((run / "provenance.json").read_text())
    assert kept["sources_before"] == [digests] and kept["sources"] != digests

    assert re.fullmatch(DATE, answered(Heard()))
    rule.write_text(RULE.format(body="pass"))
    assert re.fullmatch(
        rf"{DATE}; the source of own_rule has changed since: `effdl run --again \.\.\.` makes it anew", answered(Heard())
    )
    del kept["sources"]
    (run / "provenance.json").write_text(json.dumps(kept))
    assert "does not tell whether own_rule was another" in answered(Heard())


def test_again_sets_the_record_aside_under_its_date_and_makes_it_anew(rule: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert effdl("run", "--again", *OWN) == 0
    first, said = capfd.readouterr()
    assert "effdl: there was no record of this run\n" in said
    run_id = json.loads(first)["run_id"]
    before = (Path("results/runs") / run_id / "summary.json").read_bytes()
    assert effdl("run", "--again", *OWN) == 0
    second, said = capfd.readouterr()
    (aside,) = earlier.folder(Path("results"), run_id).iterdir()
    assert f"effdl: its record is set aside in {aside}\n" in said and "from the record" not in said
    assert (aside / "summary.json").read_bytes() == before
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", aside.name)
    assert json.loads(second)["run_id"] == run_id
    assert json.loads(second)["summary"]["network/sha256"] == json.loads(first)["summary"]["network/sha256"]
    ((date, summary),) = earlier.records(Path("results"), run_id)
    assert summary == json.loads(before) and date == summary["ended"][:19].replace("T", " ")


def test_again_begins_a_run_anew_that_was_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupt(monkeypatch, spec(*FAST, "method.epochs=2"), tmp_path)
    found = earlier.set_aside(tmp_path, run.name, print)
    assert found is not None and (found / "checkpoint").exists() and not run.exists()
    assert list(earlier.records(tmp_path, run.name)) == []  # it has no numbers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--again", "demo"), "--again: "),
        (("run", "--again", *FAST, "dataset=mnist", "dataset.root=nowhere"), "MNIST"),
        (("run", "--again", *FAST, "method.epochs=many"), "method.epochs"),
    ],
)
def test_again_moves_nothing_for_what_cannot_run(
    arguments: tuple[str, ...], words: str, rule: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert effdl(*arguments) in (2, 3)
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and words in err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("many", [False, True])
def test_a_crash_in_fit_names_file_and_line_and_how_to_get_the_rest(
    many: bool, rule: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rule.write_text(RULE.format(body="{}['rate']"))
    line = next(i for i, text in enumerate(rule.read_text().splitlines(), 1) if "['rate']" in text)
    asked = ("-m", *OWN, "workers=1", "seed=0") if many else OWN
    assert run_here(*asked) == 1
    err = capfd.readouterr().err
    where = f"error: KeyError: 'rate' ({rule}, line {line}, in fit); EFFDL_DEBUG=1 shows the whole traceback"
    assert sum(where in text for text in err.splitlines()) == 1 and "Traceback" not in err
    assert not list(Path("results").glob("runs/*"))

    monkeypatch.setenv("EFFDL_DEBUG", "1")
    assert run_here(*asked) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err and f'File "{rule}", line {line}' in err and "shows the whole" not in err


def test_a_crash_while_a_setting_is_made_names_its_line_too(rule: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = RULE.format(body="pass") + "\n    def __post_init__(self):\n        1 / 0\n"
    rule.write_text(text)
    assert run_here(*OWN) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"ZeroDivisionError: division by zero ({rule}, line {text.count(chr(10))}, in __post_init__)" in line


def test_the_help_page_tells_of_both(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("--help") == 0
    out = capfd.readouterr().out
    assert "EFFDL_DEBUG=1" in out and "effdl run --again" in out
    with pytest.raises(ConfigError):
        carry.answer(spec("method.epochs=0"), Path("results"), print)
