"""Offload to disk in whole runs: full disks, damaged files, kills, and what the process feels of it."""

import errno
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import IdxSet, answer, files, numbers, run

from effdl.config import Spec, build, compose
from effdl.errors import RecordError
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.plan import Cost
from effdl.reproduce.planned import cost_of_run
from effdl.training import tensor_file
from effdl.training.engine import Engine
from effdl.training.offload import Offload

FOLDER = "offload"  # of a run, while it is under way
SMALL = ("dataset=digits", "dataset.train_limit=200", "arch.widths=[4,5,6]", "dataset.batch_size=50", "hardware.threads=1")
ROBIN = ("method=random_robin", "method.rounds=3", "method.input_dropout=0.4", "optimizer=adamw", "method.offload=disk")


def robin(*more: str) -> Spec:
    return build(compose([*SMALL, *ROBIN, *more]))


def test_a_disk_that_fills_up_at_any_file_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, full = robin("method.keep_features_mib=0"), list[str]()
    written, calls = tensor_file._written, list[Path]()

    def counted(path: Path, storages: Any) -> str:
        calls.append(path)
        if full and full[-1] in path.name:
            full.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, storages)

    monkeypatch.setattr(tensor_file, "_written", counted)
    alone = carry_out(asked, tmp_path / "alone")
    names = [path.name for path in calls]  # a number, and what it is of
    tiny.interrupt_at_saves(monkeypatch)
    for kind in ("feednet", "best", "learner0"):
        assert any(kind in name for name in names)
        full.append(kind)
        with pytest.raises(RecordError, match=rf"{FOLDER}.*No space left on device; free some space and run the same command"):
            carry_out(asked, tmp_path / kind)
        assert not full and not [*(tmp_path / kind).rglob(f"{FOLDER}/*")]
        again = carry_out(asked, tmp_path / kind)
        assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))


def test_a_state_that_was_damaged_while_it_waited_ends_the_run_before_a_step_and_it_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, turns = robin(), list[int]()
    alone = carry_out(asked, tmp_path / "alone")
    tiny.interrupt_at_saves(monkeypatch)
    begin, learn = Engine._begin, Engine._learn

    def damaging(self: Engine, place: int, resumed: bool) -> Any:
        turns.append(segment := self.training.order[place].segment)
        if len(turns) == 5:
            (path,) = (tmp_path / "again").rglob(f"{FOLDER}/*-learner{segment}.away")
            tiny.flip_at_the_same_time(path)
        return begin(self, place, resumed)

    def learned(self: Engine, *arguments: Any) -> Any:
        assert len(turns) != 5, "no step on it"
        return learn(self, *arguments)

    monkeypatch.setattr(Engine, "_begin", damaging)
    monkeypatch.setattr(Engine, "_learn", learned)
    with pytest.raises(
        RecordError, match=r"learner.* is damaged: it is not what was put away there; run the same command again"
    ):
        carry_out(asked, tmp_path / "again")
    again = carry_out(asked, tmp_path / "again")
    assert len(turns) == 5 + 6, "from the checkpoint after the fourth of nine turns, which ends first"
    assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))


def test_what_a_killed_run_left_is_gone_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = robin()
    with monkeypatch.context() as patch:
        patch.setattr(Offload, "__exit__", lambda *_: None)  # as in a process that is killed
        tiny.interrupt_at_saves(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            carry_out(asked, tmp_path)
    (scratch,) = tmp_path.rglob(FOLDER)
    (scratch / "9-left.away").write_text("by a killed process")
    done = carry_out(asked, tmp_path)
    assert done["status"] == "finished" and not scratch.exists()


def test_a_full_disk_at_the_command_line_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    before, asked = files(tmp_path), (*IdxSet.OVERRIDES, "arch.hidden=[100]", "method.offload=disk")
    done = run("FSIZE", "5000", *asked, cwd=tmp_path, script="tests/limited.py")
    assert done.returncode == 4
    said = rf"effdl: [^:]*: error: \S*/{FOLDER}/\S+: File too large; free some space and run the same command again\n"
    assert re.fullmatch(said, done.stderr), done.stderr
    assert files(tmp_path) == before


LAYERS = ("arch=mlp", "arch.hidden=[1400,1400,1400,1400,1400,1400]", "dataset.train_limit=400", "optimizer=adamw")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel keeps no high-water mark")
@pytest.mark.parametrize("keep_features_mib", [0, 2048])
def test_the_process_rises_less_where_a_robin_lies_on_disk_by_what_was_planned(keep_features_mib: int, tmp_path: Path) -> None:
    told, layer, network = {}, 4 * 1400**2, 4 * (5 * 1400**2 + 64 * 1400)
    for where in ("null", "host", "disk"):
        more = ("method=random_robin", "method.rounds=2", f"method.keep_features_mib={keep_features_mib}", "test_every=run")
        done = run(*LAYERS, *more, f"method.offload={where}", "dataset=digits", "hardware.threads=1", cwd=tmp_path)
        told[where] = answer(done)["summary"]
    process, resident = ({w: one[f"memory/{k}_peak_bytes"] for w, one in told.items()} for k in ("process", "resident"))
    assert resident["host"] == resident["null"], "on a CPU the host is the device"
    assert resident["disk"] < 7.5 * layer < 3 * network < resident["null"]
    # The whole network was there before anything left, and is again at the end; a run of a tiny network takes 26 MiB too.
    assert process["disk"] < max(resident["disk"], network) + 2**25 + 2 * layer
    assert process["disk"] < 0.65 * process["null"]
    assert told["disk"]["network/sha256"] == told["null"]["network/sha256"]


def test_a_plan_says_where_states_lie_what_they_hold_and_that_a_cpus_host_is_its_device() -> None:
    found = {}
    for where, device in (("null", "cpu"), ("host", "cpu"), ("disk", "cpu"), ("host", "cuda")):
        asked = build(compose([*SMALL, *ROBIN, f"method.offload={where}"]))
        asked = replace(asked, hardware=replace(asked.hardware, device=device))
        found[where, device] = plan.cost(asked, rows=())
    texts, told = ({at: make(one) for at, one in found.items()} for make in (partial(cost_of_run, ""), Cost.to_json))
    hold = "Learners that wait for their next turn hold "
    assert [re.findall(rf"{hold}.*?, up to .*? each, ([\w ]+)", text) for text in texts.values()] == [
        ["on the device"], ["on the device"], ["on disk"], ["on the host"]
    ]  # fmt: skip
    assert ["nothing moves; method.offload=disk frees memory" in text for text in texts.values()] == [False, True, False, False]
    states = [one["memory/waiting_state_bytes"] for one in told.values()]
    weights = [3 * 9 * a * b for a, b in ((1, 4), (4, 5), (5, 6))]  # the head beside them, and one scale and shift
    assert all(one == states[0] for one in states) and all(s > 2 * 4 * w / 3 for s, w in zip(states[0], weights, strict=True))
    resident = [one["memory/resident_peak_bytes"] for one in told.values()]
    assert resident[0] == resident[1] > resident[2] + sum(states[0]) - max(states[0]) and resident[3] == resident[2]
    assert {one["memory/accounted_peak_bytes"] for one in told.values()} == {told["null", "cpu"]["memory/accounted_peak_bytes"]}
