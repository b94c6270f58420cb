"""Records whose files were damaged, replaced or deleted after their runs had ended: said, marked, and never published from."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Heard, flipped, noted, run_here
from declared import declare, ran
from test_again import FAST, effdl, spec

from effdl import load_network
from effdl.errors import RecordError
from effdl.records import kept
from effdl.records.execute import execute
from effdl.records.report import MANY, Answer, Console
from effdl.reproduce import conduct, ledger

RUN = (*FAST, "method.epochs=2")
METRICS, NETWORK = "metrics.jsonl", "network.safetensors"
Damage = Callable[[Path], Any]


def rewritten(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def put(key: str, value: Any) -> Damage:
    return rewritten(lambda data: json.dumps({**json.loads(data), key: value}).encode())


def better(path: Path) -> None:
    told = json.loads(path.read_text())
    told["summary"]["test/acc"] = 0.999
    path.write_text(json.dumps(told))


DAMAGES: dict[str, tuple[str, Damage, str]] = {  # what is done to which file, and the word for it
    "metrics deleted": (METRICS, Path.unlink, "was lost"),
    "metrics emptied": (METRICS, rewritten(lambda data: b""), "was changed"),
    "metrics without their last line": (METRICS, rewritten(lambda data: b"".join(data.splitlines(True)[:-1])), "was changed"),
    "metrics with another number of as many digits": (
        METRICS,
        rewritten(lambda data: data.replace(b'"epoch": 0', b'"epoch": 7')),
        "was changed",
    ),
    "metrics with a flipped bit": (METRICS, rewritten(lambda data: flipped(data, 40, 7)), "was changed"),
    "weights deleted": (NETWORK, Path.unlink, "was lost"),
    "weights cut": (NETWORK, rewritten(lambda data: data[:-100]), "was changed"),
    "weights with a flipped bit": (NETWORK, rewritten(lambda data: flipped(data, len(data) - 9, 3)), "was changed"),
    "another count of threads": ("spec.json", put("threads", 64), "was changed"),
    "another commit": ("provenance.json", put("commit", "0" * 40), "was changed"),
    "provenance deleted": ("provenance.json", Path.unlink, "was lost"),
    "a better number": ("summary.json", better, "was changed"),
}
NOT_TAKEN = (METRICS, NETWORK)  # by a ledger without series


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which all runs of the toy have ended."""
    folder = tmp_path_factory.mktemp("made")
    ran(declare(folder), folder / "results")
    return folder / "results"


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Path:
    """The record of one of them, in a copy."""
    shutil.copytree(made, tmp_path / "results")
    return min((tmp_path / "results" / "runs").iterdir())


@pytest.mark.parametrize("name", DAMAGES)
def test_an_answer_from_a_damaged_record_says_so_in_its_line_and_has_a_mark(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file, damage, word = DAMAGES[name]
    assert run_here(*RUN) == 0
    first = json.loads(capfd.readouterr().out)
    assert not {kept.FILES, kept.CHECKSUM, "damaged"} & set(first)
    before = (Path(first["path"]) / file).read_bytes()
    damage(Path(first["path"]) / file)
    assert run_here(*RUN) == 0
    out, said = capfd.readouterr()
    (line,) = said.splitlines()
    assert line.endswith(f"; after its end {file} {word}: `effdl run --again ...` makes it anew)")
    answered = json.loads(out)
    assert answered.pop("damaged") == {file: word}
    assert file == "summary.json" or answered == first

    assert effdl("run", "--again", *RUN) == 0
    anew, said = capfd.readouterr()
    assert "damaged" not in json.loads(anew) and json.loads(anew)["run_id"] == first["run_id"]
    assert run_here(*RUN) == 0
    assert "after its end" not in capfd.readouterr().err
    if file in (METRICS, NETWORK):
        assert len((Path(first["path"]) / file).read_bytes()) == pytest.approx(len(before), rel=0.05)


def test_runs_of_a_sweep_say_it_each_and_of_very_many_a_line_counts_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    specs = [spec(*RUN, f"seed={seed}") for seed in (0, 1)]
    first, second = execute(specs, tmp_path)
    (Path(first["path"]) / METRICS).unlink()
    heard = Heard()
    damaged, whole = execute(specs, tmp_path, reporter=heard)
    assert isinstance(damaged, Answer) and damaged["damaged"] == {METRICS: "was lost"} and whole == second
    capfd.readouterr()
    for runs in (2, MANY + 1):
        with Console(runs, bars=False) as console:
            console.done(damaged)
            console.done(whole)
        said = capfd.readouterr().err.splitlines()
        assert len([line for line in said if f"after its end {METRICS} was lost: `effdl run --again" in line]) == 1
        assert ["records that have changed since their ends: 1," in line for line in said].count(True) == (runs > MANY)


def test_of_long_files_an_answer_looks_at_the_length_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (done,) = execute([spec(*RUN)], tmp_path)
    weights = Path(done["path"]) / NETWORK
    looked: list[str] = []
    digest = kept._digest
    monkeypatch.setattr(kept, "_digest", lambda path: (looked.append(path.name), digest(path))[1])
    monkeypatch.setattr(kept, "SMALL", weights.stat().st_size - 1)
    assert execute([spec(*RUN)], tmp_path) == [done] and NETWORK not in looked and METRICS in looked
    DAMAGES["weights with a flipped bit"][1](weights)
    assert execute([spec(*RUN)], tmp_path) == [done]
    with pytest.raises(RecordError, match=r"is damaged: its weights are not those.*effdl run --again"):
        load_network(weights.parent)
    DAMAGES["weights cut"][1](weights)
    assert execute([spec(*RUN)], tmp_path)[0]["damaged"] == {NETWORK: "was changed"}


def test_a_record_of_a_version_that_noted_nothing_is_taken_as_it_is(tmp_path: Path) -> None:
    (done,) = execute([spec(*RUN)], tmp_path)
    path = Path(done["path"]) / "summary.json"
    path.write_text(json.dumps(kept.without_note(json.loads(path.read_text()))))
    path.with_name(METRICS).unlink()
    (answered,) = execute([spec(*RUN)], tmp_path)
    assert isinstance(answered, Answer) and answered == done


@pytest.mark.parametrize(
    "note", [{"files": []}, {"files": {METRICS: 7}}, {"files": {METRICS: {"bytes": 7}}}, {"checksum": None}]
)
def test_a_note_that_is_none_is_set_aside_with_its_summary(note: dict[str, Any], tmp_path: Path) -> None:
    (done,) = execute([spec(*RUN)], tmp_path)
    path = Path(done["path"]) / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **note}))
    heard = Heard()
    (again,) = execute([spec(*RUN)], tmp_path, reporter=heard)
    (line,) = heard.lines
    assert "summary.json is damaged: it is not a whole record" in line and again["status"] == "finished"
    assert not isinstance(again, Answer)


@pytest.mark.parametrize("series", [["val/acc"], []])
@pytest.mark.parametrize("name", DAMAGES)
def test_publishing_refuses_a_record_that_differs_in_what_it_takes_and_names_one_that_differs_elsewhere(
    name: str, series: list[str], first: Path, tmp_path: Path
) -> None:
    file, damage, word = DAMAGES[name]
    declaration, root = declare(tmp_path, {"series": series}), tmp_path / "results"
    damage(first / file)
    said: list[str] = []
    if file in NOT_TAKEN and not (series and file == METRICS):
        path = ledger.publish(declaration, "smoke", root, said.append)
        assert f"{first}: after its end {file} {word}; the ledger takes nothing from there" in said
        assert first.name in path.read_text()
        return
    with pytest.raises(RecordError, match=f"after its end {file} {word}, so nothing is taken from it") as refused:
        ledger.publish(declaration, "smoke", root, said.append)
    assert refused.value.exit_code == 4 and not (root / "ledger").exists() and first.name in str(refused.value)
    (command,) = [text for text in str(refused.value).split("`") if text.startswith("effdl run --again")]
    assert effdl(*shlex.split(command)[1:]) == 0  # the advice
    path = ledger.publish(declaration, "smoke", root, said.append)
    assert first.name in path.read_text() and said[-1].endswith(": 8 runs added, 0 were there")


def test_a_report_names_what_differs_too(first: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in sorted(first.parent.iterdir())[:3]:
        (path / NETWORK).unlink()
    lines, _ = conduct.lines_of(declare(tmp_path), "smoke", tmp_path / "results")
    assert sum(len(line["runs"]) for line in lines) == 8
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"effdl: {first.parent}/")
    assert said.endswith(f": after its end {NETWORK} was lost, and 2 more records differ; the ledger takes nothing from there")
    better(first / "summary.json")
    with pytest.raises(RecordError, match=r"summary\.json was changed, so nothing is taken"):
        conduct.lines_of(declare(tmp_path), "smoke", tmp_path / "results")


@pytest.mark.parametrize("name", ["metrics deleted", "metrics without their last line", "metrics with a flipped bit"])
def test_no_series_is_drawn_from_lost_lines_of_a_record_that_noted_nothing(name: str, first: Path, tmp_path: Path) -> None:
    declaration, root = declare(tmp_path, {"series": ["val/acc"]}), tmp_path / "results"
    lines = (first / METRICS).read_text().splitlines(True)
    (first / METRICS).write_text("".join(sorted(lines, key=lambda line: "train/loss" in line)))  # so that the last is a pass
    noted(first)
    summary = first / "summary.json"
    summary.write_text(json.dumps(kept.without_note(json.loads(summary.read_text()))))
    DAMAGES[name][1](first / METRICS)
    with pytest.raises(RecordError, match=r"lines of it are lost or damaged, so no series is drawn.*effdl run --again"):
        ledger.publish(declaration, "smoke", root, print)
    assert not (root / "ledger").exists()


def test_a_summary_that_is_no_whole_record_is_named_where_its_run_counts_as_not_run(first: Path, tmp_path: Path) -> None:
    declaration, root = declare(tmp_path), tmp_path / "results"
    (first / "summary.json").write_bytes((first / "summary.json").read_bytes()[:-30])
    said: list[str] = []
    ledger.publish(declaration, "smoke", root, said.append)
    assert any(f"{first}: summary.json is no whole record, and counts as not run" in text for text in said)
    assert said[-1].endswith(": 7 runs added, 0 were there")


def test_a_reader_of_a_note_that_cannot_be_read_has_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (done,) = execute([spec(*RUN)], tmp_path)

    def refuses(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kept, "_digest", refuses)
    (result,) = execute([spec(*RUN)], tmp_path)
    assert result["status"] == "error" and "Permission denied" in result["reason"] and result["exit_code"] == 4
    assert Path(done["path"]).is_dir()
