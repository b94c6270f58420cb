"""Records whose content is not what was written, under a right digest too: named in our words, set aside, and made again."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Heard, numbers, run_here
from test_records import interrupt, spec

from effdl import load_network
from effdl.errors import RecordError
from effdl.records.execute import execute
from effdl.records.run import Run

Content = dict[str, Any]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def write(path: Path, state: Any) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + b"\n" + buffer.getvalue())


def read(path: Path) -> Content:
    data = path.read_bytes().partition(b"\n")[2]
    state: Content = torch.load(io.BytesIO(data), weights_only=True)
    return state


def without(*keys: str) -> Callable[[Content], Any]:
    def change(state: Content) -> Content:
        inner = state
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return state

    return change


def put(value: Any, *keys: str) -> Callable[[Content], Any]:
    def change(state: Content) -> Content:
        inner = state
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return state

    return change


def of_learner(change: Callable[[Content], Any]) -> Callable[[Content], Any]:
    """The change, made in what the checkpoint holds of the segment that was learning."""

    def outer(state: Content) -> Content:
        (learner,) = state["method"]["learners"].values()
        change(learner)
        return state

    return outer


CHECKPOINTS: dict[str, Callable[[Content], Any]] = {
    "code": lambda state: {**state, "notes": Evil()},
    "a list": lambda state: [1, 2],
    "nothing": lambda state: {},
    **{f"no {key}": without(key) for key in ("method", "notes", "times", "plan", "metrics")},
    "times that are none": put("soon", "times", "train"),
    "metrics that are none": put(torch.zeros(9, dtype=torch.uint8), "metrics"),
    "no chain": without("method", "chain"),
    "another chain": put({"x": torch.zeros(3)}, "method", "chain"),
    "no place in the order": without("method", "at"),
    "a turn that is not there": put((99, 1), "method", "at"),
    "an epoch that is not there": of_learner(put(99, "epoch")),
    "no optimizer": of_learner(without("optimizer")),
    "a best that is none": put({"segment": 0}, "method", "best"),
}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Any, Any]]:
    """The results of a run that stopped under way, and the numbers in which it ends if left alone."""
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, spec(), folder / "results")
    (done,) = execute([spec()], folder / "alone")
    return folder / "results", numbers(Path(done["path"]))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_something_else_is_set_aside_and_the_run_begins_anew(
    name: str, left: tuple[Path, tuple[Any, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(left[0], tmp_path / "results")
    (checkpoint,) = tmp_path.glob("results/runs/*/checkpoint")
    write(checkpoint, CHECKPOINTS[name](read(checkpoint)))
    heard = Heard()
    (done,) = execute([spec()], tmp_path / "results", reporter=heard)
    (line,) = heard.lines
    assert str(checkpoint) in line and "does not hold what" in line and "begins anew" in line and "weights_only" not in line
    assert checkpoint.with_name("checkpoint.damaged").exists() and "executed" not in capfd.readouterr().out
    assert done["status"] == "finished" and numbers(checkpoint.parent) == left[1]


@pytest.mark.parametrize("lost", [True, False])
def test_a_checkpoint_of_an_older_version_goes_on_only_while_its_metrics_are_there(
    lost: bool, left: tuple[Path, tuple[Any, Any]], tmp_path: Path
) -> None:
    shutil.copytree(left[0], tmp_path / "results")
    (checkpoint,) = tmp_path.glob("results/runs/*/checkpoint")
    metrics = checkpoint.with_name("metrics.jsonl")
    state = read(checkpoint)
    del state["metrics"]
    write(checkpoint, {**state, "metrics_length": metrics.stat().st_size})
    if lost:
        metrics.write_bytes(metrics.read_bytes().splitlines(True)[0])
    heard = Heard()
    execute([spec()], tmp_path / "results", reporter=heard)
    assert len(heard.lines) == int(lost) and numbers(checkpoint.parent) == left[1]


@pytest.mark.parametrize("how", ["lost", "emptied", "cut"])
def test_metrics_lost_before_a_run_goes_on_are_made_again_from_its_checkpoint(
    how: str, left: tuple[Path, tuple[Any, Any]], tmp_path: Path
) -> None:
    shutil.copytree(left[0], tmp_path / "results")
    (metrics,) = tmp_path.glob("results/runs/*/metrics.jsonl")
    if how == "lost":
        metrics.unlink()
    else:
        metrics.write_bytes(b"" if how == "emptied" else metrics.read_bytes()[:-40])
    heard = Heard()
    execute([spec()], tmp_path / "results", reporter=heard)
    (line,) = heard.lines
    assert str(metrics) in line and ("lost" in line or "damaged" in line) and "made whole again" in line
    assert numbers(metrics.parent) == left[1]  # data/train_passes too


def test_metrics_deleted_under_a_run_are_made_again_and_said(
    left: tuple[Path, tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Run.record

    def deleting(self: Run, segment: int, epoch: int, metrics: Any) -> None:
        record(self, segment, epoch, metrics)
        if (segment, epoch) == (0, 1):
            next(tmp_path.glob("runs/*/metrics.jsonl")).unlink()

    monkeypatch.setattr(Run, "record", deleting)
    heard = Heard()
    (done,) = execute([spec()], tmp_path, reporter=heard)
    (line,) = heard.lines
    assert "metrics.jsonl: " in line and "bytes were lost; made whole again" in line
    assert numbers(Path(done["path"])) == left[1]


def test_results_deleted_under_a_run_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    record = Run.record

    def deleting(self: Run, segment: int, epoch: int, metrics: Any) -> None:
        if epoch == 1:
            shutil.rmtree(tmp_path / "results")
        record(self, segment, epoch, metrics)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Run, "record", deleting)
    assert run_here("arch=mlp", "arch.hidden=[8]", "method.epochs=2", "dataset.train_limit=300") == 4
    out, err = capfd.readouterr()
    said = [line for line in err.splitlines() if line.startswith("effdl: ")]
    assert (
        out == "" and len(said) == 1 and "metrics.jsonl: No such file" in said[0] and "nothing is deleted meanwhile" in said[0]
    )
    assert list(tmp_path.iterdir()) == []


RECORDS: dict[str, tuple[str, Callable[[Content], Any]]] = {
    "an empty specification": ("spec.json", lambda stored: {"config": {}}),
    "a specification without threads": ("spec.json", without("threads")),
    "threads that are none": ("spec.json", put("many", "threads")),
    "no class of the method": ("spec.json", put({}, "config", "method")),
    "a summary of nothing": ("summary.json", lambda stored: {"status": "finished"}),
    "a summary without the network": ("summary.json", without("summary", "network/sha256")),
    "numbers that are none": ("summary.json", put("good", "summary")),
    "a status that there is none of": ("summary.json", put("splendid", "status")),
    "a failure without its reason": ("summary.json", put("failed", "status")),
    "no name": ("summary.json", put(7, "name")),
}


@pytest.fixture(scope="module")
def done(left: tuple[Path, tuple[Any, Any]]) -> Path:
    return left[0].with_name("alone")


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_something_else_is_set_aside_and_made_again(
    name: str, left: tuple[Path, tuple[Any, Any]], done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done, tmp_path / "results")
    file, change = RECORDS[name]
    (path,) = tmp_path.glob(f"results/runs/*/{file}")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match="no finished run with a network here"):
        load_network(path.parent)
    provenance = path.with_name("provenance.json").read_bytes()
    heard = Heard()
    (result,) = execute([spec()], tmp_path / "results", reporter=heard)
    (line,) = heard.lines
    assert str(path) in line and "is not a whole record; set aside" in line
    assert result["status"] == "finished" and numbers(path.parent) == left[1]
    assert path.with_name("provenance.json").read_bytes() == provenance


def test_a_network_whose_record_does_not_describe_it_is_refused_in_one_line(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "results")
    (path,) = tmp_path.glob("results/runs/*")
    stored = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps({**stored, "facts": {"outputs": 10}}))
    with pytest.raises(RecordError, match=r"spec\.json does not describe a network"):
        load_network(path)
