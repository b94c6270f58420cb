"""What a run decides by this machine it decides once, before the first step, and goes on with: `method.store=auto`."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import numbers

from effdl import config
from effdl.costs.segments import segment_costs
from effdl.errors import ConfigError
from effdl.methods.segmentwise import Segmentwise
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.records.store import Store
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.optim import Sgd

SGD = Sgd(lr=0.05)
DATA = ["arch=cnn4", "dataset=digits", "dataset.train_limit=300"]
SPEC = ["method=segmentwise", "method.epochs=2", "method.record_at=all", "method.store=auto", *DATA]


def placed(free: int, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> tuple[str, Run]:
    """Where recordings of the tiny network lie, which take 49,800 bytes at most, on a machine with so many free."""
    monkeypatch.setattr(Hardware, "free_memory", lambda self: free)
    run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
    method = Segmentwise(epochs=2, record_at="all", store="auto", **fields)
    return method.training(problem, model, run).store, run


def test_auto_takes_memory_where_half_of_what_is_free_and_the_bound_do_and_the_disk_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beside, sample = 8 + 8 + 4, 4 * tiny.SIDE**2
    most = sum(2 * 40 * (width * sample + beside) for width in tiny.WIDTHS[1:3])
    for free, mib, expected in (
        (2 * most, 10.0, "device"),
        (2 * most - 2, 10.0, "disk"),
        (2**40, most / 2**20, "device"),
        (2**40, (most - 1) / 2**20, "disk"),
    ):
        place, run = placed(free, monkeypatch, keep_features_mib=mib)
        assert place == run.notes["data/recorded_on"] == expected


def test_on_a_gpu_without_room_the_host_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hardware, "free_memory", lambda self: 0 if self.device == "cuda" else 2**40)
    run = Run.in_memory(SGD, hardware=Hardware(device="cuda"))
    assert Segmentwise(record_at="all", store="auto").training(tiny.problem(), tiny.chain(), run).store == "host"
    assert run.notes["data/recorded_on"] == "host"


def test_a_plan_counts_what_lies_in_memory_as_the_run_will_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = []
    for free in (2**40, 0):
        monkeypatch.setattr(Hardware, "free_memory", lambda self, free=free: free)
        run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
        for store in ("auto", "disk" if free == 0 else "device"):
            method = Segmentwise(epochs=2, record_at="all", store=store)  # type: ignore[arg-type]
            costs.append(
                [cost.kept_bytes for cost in segment_costs(Engine(method.training(problem, model, run), problem, model, run))]
            )
    assert costs[0] == costs[1] != costs[2] == costs[3]
    asked = config.build(config.compose(SPEC))
    assert plan.cost(asked, rows=()) is not None


def test_no_room_anywhere_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(ConfigError, match=r"there is room for 0\.0 MiB: record at a narrower layer"):
        placed(0, monkeypatch)
    assert placed(0, monkeypatch, full_disk="feed")[0] == "disk"


def test_it_is_written_down_before_the_first_step_and_read_back_by_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its first epoch, with no checkpoint, and in its third; the machine has more free memory by then."""
    spec = config.build(config.compose(SPEC))
    alone = carry_out(spec, tmp_path / "alone")
    assert alone["summary"]["data/recorded_on"] == "device"
    free = iter([0, *[2**40] * 9])
    monkeypatch.setattr(Hardware, "free_memory", lambda self: next(free))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "progress", killed)
        patched.setattr(Store, "discard_if_empty", lambda self: None)  # a kill asks nobody
        with pytest.raises(KeyboardInterrupt):
            carry_out(spec, tmp_path / "again")
    (path,) = (tmp_path / "again" / "runs").iterdir()
    assert not (path / "checkpoint").exists()
    assert json.loads((path / "spec.json").read_text())["decided"] == {"data/recorded_on": "disk"}
    again = tiny.resumed(spec, tmp_path / "again", monkeypatch, 3)
    assert again["summary"]["data/recorded_on"] == "disk"
    lines, summary = numbers(path)
    others, other = numbers(Path(alone["path"]))
    assert lines == others
    moved = {key for key in summary if summary[key] != other.get(key)}
    assert moved <= {"data/recorded_on", "memory/resident_peak_bytes"}
    assert list(path.rglob("*.epoch*")) == []


def test_a_decision_of_another_kind_in_the_record_is_no_record(tmp_path: Path) -> None:
    spec = config.build(config.compose([*SPEC, "method.epochs=1"]))
    path = Path(carry_out(spec, tmp_path)["path"])
    stored = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps({**stored, "decided": [1]}))
    assert Store.at(path).spec() is None


def test_free_memory_is_no_more_than_the_container_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effdl.training import hardware

    monkeypatch.setattr(hardware, "BOUND", tmp_path / "memory.max")
    monkeypatch.setattr(hardware, "MEMORY", tmp_path / "meminfo")
    assert Hardware().free_memory() == Hardware().memory(), "where nothing says what is used"
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:  2000 kB\nHugePages_Total: 0\n")
    assert Hardware().free_memory() == 2000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\nfile 400000\ninactive_file 300000\n")
    assert Hardware().free_memory() == 400_000
