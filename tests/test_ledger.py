"""The ledger: published once, never edited, fixed before its runs, and right in every line that is committed."""

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from command import IdxSet, flipped, noted
from declared import QUICK, declare, ran

from effdl import config
from effdl.errors import HardwareError, RecordError
from effdl.records import carry, earlier
from effdl.records.process import PROCESS_PEAK
from effdl.reproduce import artefact, ledger
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.conduct import conduct
from effdl.reproduce.report import report
from effdl.reproduce.survey import select, survey

ROOT = Path(__file__).parents[1]


composed = config.compose


@cache
def once_composed(*overrides: str) -> Any:
    return composed(overrides)


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each list of overrides is composed once for all these tests, which publish the same cells over and over."""
    monkeypatch.setattr(config, "compose", lambda overrides=(): once_composed(*overrides))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which all runs of the toy have ended."""
    folder = tmp_path_factory.mktemp("made")
    ran(declare(folder), folder / "results")
    return folder / "results"


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


@pytest.fixture(scope="module")
def ledger_text(made: Path) -> str:
    """The ledger of these runs."""
    publish(declare(made.parent), made)
    text = path(made).read_text()
    shutil.rmtree(made / "ledger")
    return text


@pytest.fixture
def ledgered(ledger_text: str, tmp_path: Path) -> Path:
    """A results folder with the ledger alone."""
    written = path(tmp_path / "results")
    written.parent.mkdir(parents=True)
    written.write_text(ledger_text)
    return tmp_path / "results"


def publish(declaration: Declaration, root: Path, scale: str = "smoke") -> list[str]:
    """What publishing says."""
    said: list[str] = []
    assert ledger.publish(declaration, scale, root, said.append) == path(root)
    return said


def path(root: Path) -> Path:
    return root / "ledger" / "toy.jsonl"


def counts(root: Path) -> dict[tuple[str, str], int]:
    """(scale, cell) -> how many runs its lines hold."""
    found: dict[tuple[str, str], int] = {}
    for line in ledger.read(root, "toy"):
        key = line["scale"], line["cell"].replace("data=", "").replace("method=", "")
        found[key] = found.get(key, 0) + len(line["runs"])
    return found


ALL = {("smoke", f"{data},{method}"): 2 for data in ("few", "many") for method in ("base", "ours")}


def test_every_ended_run_is_published_once_in_sorted_lines(results: Path, tmp_path: Path) -> None:
    (said,) = publish(declare(tmp_path), results)
    texts = path(results).read_text().splitlines()
    assert texts == sorted(texts) and len(texts) == len(set(texts)) == 4
    assert counts(results) == ALL and said.endswith(": 8 runs added, 0 were there")
    recorded = {folder.name for folder in (results / "runs").iterdir()}
    assert {run["run_id"] for line in ledger.read(results, "toy") for run in line["runs"]} == recorded


def test_published_numbers_are_those_of_the_records(results: Path, tmp_path: Path) -> None:
    publish(declare(tmp_path), results)
    for run in (run for line in ledger.read(results, "toy") for run in line["runs"]):
        summary = json.loads((results / "runs" / run["run_id"] / "summary.json").read_text())
        assert {**run["numbers"], **run["times"]} == summary["summary"]
        assert (run["status"], run["seed"]) == (summary["status"], summary["seed"])
        assert all(name.startswith("time/") or name == PROCESS_PEAK for name in run["times"])
        assert PROCESS_PEAK not in run["numbers"]


def test_a_declaration_may_say_which_numbers_are_kept(results: Path, tmp_path: Path) -> None:
    publish(declare(tmp_path, {"numbers": ["test/acc", "time/wall_s"]}), results)
    for run in (run for line in ledger.read(results, "toy") for run in line["runs"]):
        summary = json.loads((results / "runs" / run["run_id"] / "summary.json").read_text())["summary"]
        assert run["numbers"] == {"test/acc": summary["test/acc"]} and run["times"] == {"time/wall_s": summary["time/wall_s"]}


def test_publishing_twice_adds_nothing(results: Path, tmp_path: Path) -> None:
    publish(declare(tmp_path), results)
    before = path(results).read_bytes()
    (said,) = publish(declare(tmp_path), results)
    assert path(results).read_bytes() == before and ": 0 runs added, 8 were there" in said


def test_nothing_run_is_nothing_to_publish(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"^toy: nothing has been run at scale smoke; effdl run toy --scale smoke$"):
        ledger.publish(declare(tmp_path), "smoke", tmp_path / "results", print)
    assert not (tmp_path / "results").exists()


def test_ledger_alone_is_enough_to_go_on_publishing(results: Path, tmp_path: Path) -> None:
    publish(declare(tmp_path), results)
    before = path(results).read_bytes()
    shutil.rmtree(results / "runs")
    publish(declare(tmp_path), results)
    assert path(results).read_bytes() == before


@pytest.mark.parametrize("seeds", [2, 3])
def test_scale_is_published_beside_another_even_where_they_share_runs(seeds: int, results: Path, tmp_path: Path) -> None:
    declaration = declare(tmp_path, {"scales/small": {"about": "The same runs.", "seeds": seeds, "evidence": "first_looks"}})
    publish(declaration, results)
    before = set(path(results).read_text().splitlines())
    ran(declaration, results, "small")
    publish(declaration, results, "small")
    assert before <= set(path(results).read_text().splitlines())
    assert counts(results) == ALL | {("small", cell): seeds for _, cell in ALL}


def test_new_cell_that_shares_runs_with_a_published_one_is_published_too(results: Path, tmp_path: Path) -> None:
    publish(declare(tmp_path), results)
    publish(declare(tmp_path, {"axes/data/again": {}}), results)
    assert counts(results) == ALL | {("smoke", "again,base"): 2, ("smoke", "again,ours"): 2}


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"scales/smoke/seeds": 1}, dict.fromkeys(ALL, 1)),
        ({"axes/data/many": {"set": {"dataset.train_limit": 200}}}, {key: n for key, n in ALL.items() if "few" in key[1]}),
    ],
)
def test_runs_that_the_declaration_no_longer_makes_are_dropped_with_a_line(
    changes: Mapping[str, Any], left: Mapping[Any, int], results: Path, tmp_path: Path
) -> None:
    publish(declare(tmp_path), results)
    said = publish(declare(tmp_path, changes), results)
    assert counts(results) == left
    dropped = [line for line in said if "no longer declared" in line]
    assert len(dropped) == sum(left.get(key, 0) < count for key, count in ALL.items())


def test_diverged_run_is_published_with_its_reason_and_no_mean(tmp_path: Path) -> None:
    declaration = declare(tmp_path, {"axes/method/base/set": {"method": "backprop", "optimizer.lr": 1e30}})
    ran(declaration, tmp_path / "results")
    publish(declaration, tmp_path / "results")
    lines = ledger.read(tmp_path / "results", "toy")
    bad = [run for line in lines for run in line["runs"] if "method=base" in line["cell"]]
    assert {run["status"] for run in bad} == {"diverged"} and all(run["reason"] and not run["numbers"] for run in bad)
    assert "| diverged (2 of 2) |" in report(declaration, "smoke", lines)


def test_a_gpus_cell_says_so_where_there_is_none_and_may_be_published_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    some, root = declare(tmp_path, {"axes/data/many/set": {"hardware.device": "cuda"}}), tmp_path / "results"
    for cell in select(some.cells("smoke"), "data=many"):
        with pytest.raises(HardwareError, match=r"^no GPU$"):
            artefact.specs(cell)
    ran(some, root)
    publish(some, root)
    assert counts(root) == {key: 2 if "few" in key[1] else 0 for key in ALL}
    assert [line["reason"] for line in ledger.read(root, "toy") if "reason" in line] == ["no GPU", "no GPU"]
    assert report(some, "smoke", ledger.read(root, "toy")).count("no GPU") >= 3  # two cells and their claim

    every, root = declare(tmp_path, {"set": {**QUICK, "hardware.device": "cuda"}}), tmp_path / "without"
    assert conduct(every, "smoke", survey(every, "smoke", root), root, 1) == 0 and not (root / "runs").exists()
    assert capsys.readouterr().out.count("no GPU") >= 4
    publish(every, root)
    assert {line["reason"] for line in ledger.read(root, "toy")} == {"no GPU"}


def test_cell_without_data_has_a_line_that_says_so_until_its_data_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDL_DATA", str(tmp_path / "data"))
    idx = {"dataset": "mnist", "dataset.batch_size": 20}
    declaration, root = declare(tmp_path, {"axes/data/many/set": idx}), tmp_path / "results"
    ran(declaration, root)
    publish(declaration, root)
    assert counts(root) == {key: 2 if "few" in key[1] else 0 for key in ALL}
    reasons = [line["reason"] for line in ledger.read(root, "toy") if "reason" in line]
    assert reasons == ["no data", "no data"]
    assert report(declaration, "smoke", ledger.read(root, "toy")).count("no data") >= 3  # two cells and their claim

    IdxSet(tmp_path)
    ran(declaration, root)
    publish(declaration, root)
    assert counts(root) == ALL and not any("reason" in line for line in ledger.read(root, "toy"))

    shutil.rmtree(tmp_path / "data")
    carry.fingerprint.cache_clear()
    publish(declaration, root)
    assert counts(root) == ALL  # what is published stays where the data are not


def test_no_line_tells_where_or_on_whose_machine_it_was_made(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    here = {"dataset": "mnist", "dataset.batch_size": 20, "dataset.root": str(tmp_path / "data")}
    declaration = declare(tmp_path, {"axes/data/many/set": here})
    ran(declaration, tmp_path / "results")
    publish(declaration, tmp_path / "results")
    text = path(tmp_path / "results").read_text()
    assert counts(tmp_path / "results") == ALL
    for private in (str(tmp_path), str(ROOT), str(Path.home()), socket.gethostname()):
        assert private == "/" or private not in text


def test_runs_from_given_weights_are_published_and_reported_where_their_file_is_not(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.safetensors"
    shutil.copy(next((results / "runs").glob("*/network.safetensors")), file)
    declaration = declare(tmp_path, {"axes/data/many/set": {"arch.weights": str(file), "arch.new_head": True}})
    ran(declaration, results)
    publish(declaration, results)
    assert counts(results) == ALL and str(tmp_path) not in path(results).read_text()
    file.unlink()
    lines = ledger.read(results, "toy")
    assert [ledger.run_ids(line) for line in lines] == [[run["run_id"] for run in line["runs"]] for line in lines]
    assert "not run" not in report(declaration, "smoke", lines).split("## Claims")[0]


def test_series_keep_their_last_value_and_at_most_500_of_them(results: Path, tmp_path: Path) -> None:
    (first, *_) = sorted((results / "runs").iterdir())
    lines = [{"segment": 0, "epoch": i, "val/acc": i / 1203} for i in range(1203)]
    (first / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    noted(first, **{"data/train_passes": 0})
    publish(declare(tmp_path, {"series": ["val/acc"]}), results)
    (run,) = [run for line in ledger.read(results, "toy") for run in line["runs"] if run["run_id"] == first.name]
    series = run["series"]["val/acc"]
    assert 400 <= len(series) <= 500 and series[-1] == [0, 1202, 1202 / 1203]
    assert {b[1] - a[1] for a, b in pairwise(series)} == {3}


def test_series_of_more_segments_than_that_are_thinned_as_well(results: Path, tmp_path: Path) -> None:
    (first, *_) = sorted((results / "runs").iterdir())
    lines = [{"segment": i, "epoch": 0, "train/lsd": i / 1203} for i in range(1203)]
    (first / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    noted(first, **{"data/train_passes": 0})
    publish(declare(tmp_path, {"series": ["train/lsd"]}), results)
    (run,) = [run for line in ledger.read(results, "toy") for run in line["runs"] if run["run_id"] == first.name]
    series = run["series"]["train/lsd"]
    assert 400 <= len(series) <= 500 and series[-1] == [1202, 0, 1202 / 1203]


# Edited lines.


Line = dict[str, Any]
EDITS: dict[str, Callable[[Line, Line], Any]] = {  # of a line and its first run
    "a number": lambda line, run: run["numbers"].update({"test/acc": 0.99}),
    "a time": lambda line, run: run["times"].update({"time/wall_s": 1.0}),
    "a seed": lambda line, run: run.update(seed=7),
    "a status": lambda line, run: run.update(status="diverged"),
    "the provenance": lambda line, run: line["provenance"].update(dirty=0, commit="0" * 40),
    "the declaration": lambda line, run: line["declaration"].update(fixed={"claims.level": "0"}),
    "the command": lambda line, run: line.update(command="effdl run toy"),
    "the spec": lambda line, run: line["spec"]["arch"].update(hidden=[9]),
    "the data": lambda line, run: line.update(data="0" * 64),
    "the scale": lambda line, run: line.update(scale="paper"),
    "the cell": lambda line, run: line.update(cell="data=other,method=ours"),
    "no cell": lambda line, run: line.pop("cell"),
    "a removed run": lambda line, run: line["runs"].pop(),
    "a run twice": lambda line, run: line["runs"].append(run),
    "the checksum": lambda line, run: line.update(checksum="0" * 64),
    "no checksum": lambda line, run: line.pop("checksum"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_line_is_named_with_its_file_and_number(
    edit: Callable[[Line, Line], Any], ledgered: Path, tmp_path: Path
) -> None:
    lines = [json.loads(text) for text in path(ledgered).read_text().splitlines()]
    edit(lines[1], lines[1]["runs"][0])
    path(ledgered).write_text("".join(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in lines))
    with pytest.raises(RecordError, match=rf"^{path(ledgered)}, line 2\b"):
        ledger.read(ledgered, "toy")
    edited = path(ledgered).read_bytes()
    with pytest.raises(RecordError, match="line 2"):
        ledger.publish(declare(tmp_path), "smoke", ledgered, print)
    assert path(ledgered).read_bytes() == edited


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", "null", '"toy"', "{}", '{"checksum": "0"}', "<<<<<<< HEAD"])
def test_line_that_is_none_is_named_with_its_file_and_number(text: str, ledgered: Path, tmp_path: Path) -> None:
    lines = path(ledgered).read_text().splitlines()
    path(ledgered).write_text("\n".join([*lines[:2], text, *lines[2:]]) + "\n")
    with pytest.raises(RecordError, match=rf"^{path(ledgered)}, line 3\b"):
        ledger.read(ledgered, "toy")


def rewrite(root: Path, change: Callable[[Line, Line], Any]) -> None:
    """Change a line and its first run, and give it the checksum that it then has."""
    first, *others = ledger.read(root, "toy")
    change(first, first["runs"][0])
    texts = [json.dumps({**line, "checksum": ledger.checksum(line)}, sort_keys=True) for line in (first, *others)]
    path(root).write_text("\n".join(texts) + "\n")


@pytest.mark.parametrize("how", ["the spec", "the data", "a seed"])
def test_line_forged_with_its_checksum_has_run_ids_that_do_not_follow(how: str, ledgered: Path, tmp_path: Path) -> None:
    line = ledger.read(ledgered, "toy")[0]
    ids = [run["run_id"] for run in line["runs"]]
    assert ledger.run_ids(line) == ids
    rewrite(ledgered, EDITS[how])
    assert ledger.run_ids(ledger.read(ledgered, "toy")[0])[0] != ids[0]
    with pytest.raises(RecordError, match="run_ids do not follow from their line; delete it and publish again"):
        ledger.publish(declare(tmp_path), "smoke", ledgered, print)


def test_line_made_under_another_default_is_refused_with_its_key(ledgered: Path, tmp_path: Path) -> None:
    rewrite(ledgered, lambda line, run: line["spec"]["optimizer"].update(schedule={"_target_": "x.Y"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "run_ids", lambda line: [run["run_id"] for run in line["runs"]])  # defaults are no part of them
        with pytest.raises(RecordError, match=r"says optimizer\.schedule=x\.Y, asked for is None.*delete the line"):
            ledger.publish(declare(tmp_path), "smoke", ledgered, print)


def test_runs_that_end_in_other_numbers_than_published_are_named_and_the_published_stay(results: Path, tmp_path: Path) -> None:
    publish(declare(tmp_path), results)
    before = path(results).read_bytes()
    (first, *_) = sorted((results / "runs").iterdir())
    summary = json.loads((first / "summary.json").read_text())
    noted(first, **{"test/acc": summary["summary"]["test/acc"] + 0.01})
    other, counted = publish(declare(tmp_path), results)
    assert first.name in other and "not the numbers that are published, which stay" in other
    assert ": 0 runs added, 8 were there" in counted and path(results).read_bytes() == before


def test_a_run_made_anew_is_published_with_the_number_of_the_record_that_was_set_aside(results: Path, tmp_path: Path) -> None:
    (first, *_) = sorted((results / "runs").iterdir())
    aside = earlier.set_aside(results, first.name, print)
    assert aside is not None
    shutil.copytree(aside, first)
    summary = json.loads((first / "summary.json").read_text())
    then = summary["summary"]["test/acc"]
    noted(first, **{"test/acc": then + 0.25})
    (said,) = [text for text in publish(declare(tmp_path), results) if text.startswith("made anew: ")]
    date = f"{aside.name[:10]} {aside.name[11:].replace('-', ':')}"
    shown = f"({first.name[:6]}): test/acc {then} in the record of {date}, {then + 0.25} anew"
    assert shown in said
    runs = {run["run_id"]: run for line in ledger.read(results, "toy") for run in line["runs"]}
    assert [one["numbers"]["test/acc"] for one in runs.pop(first.name)["earlier"]] == [then]
    assert not any("earlier" in run for run in runs.values())
    assert shown in report(declare(tmp_path), "smoke", ledger.read(results, "toy"))


def test_runs_on_other_data_than_the_published_ones_of_their_cell_are_refused(tmp_path: Path) -> None:
    images = IdxSet(tmp_path)
    idx = {"dataset": "mnist", "dataset.batch_size": 20, "dataset.root": str(tmp_path / "data")}
    declaration, root = declare(tmp_path, {"axes/data/many/set": idx}), tmp_path / "results"
    ran(declaration, root)
    publish(declaration, root)
    before = path(root).read_bytes()
    images.rewrite("train-images-idx3-ubyte", lambda content: flipped(content, -1))
    carry.fingerprint.cache_clear()
    ran(declaration, root)
    with pytest.raises(RecordError, match=r"^data=many,method=base: published runs are of data .* delete its lines"):
        ledger.publish(declaration, "smoke", root, print)
    assert path(root).read_bytes() == before
