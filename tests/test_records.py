"""Records answer only for what was asked, hold all that was noted, and do not depend on a logger."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, Heard, numbers, run_here
from torch import nn

from effdl import config, load_network
from effdl.datasets import waiting
from effdl.errors import RecordError
from effdl.records import carry
from effdl.records.execute import execute
from effdl.records.logger import Logger
from effdl.records.run import Run
from effdl.records.store import Store
from effdl.setting import setting

QUICK = ("arch=mlp", "arch.hidden=[8,8]", "method.epochs=2", "dataset.train_limit=300")


def spec(*overrides: str) -> config.Spec:
    return config.build(config.compose([*QUICK, *overrides]))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return Path(carry.carry_out(spec(), tmp_path / "results")["path"])


class Stop(BaseException):
    """Ends a run as abruptly as can be within a process."""


def interrupt(monkeypatch: pytest.MonkeyPatch, asked: config.Spec, root: Path) -> Path:
    """The folder of a run that ended after its first checkpoint."""
    save = Run.save

    def save_and_stop(self: Run, state: Any) -> None:
        save(self, state)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save_and_stop)
        with pytest.raises(Stop):
            carry.carry_out(asked, root)
    (folder,) = (root / "runs").iterdir()
    assert (folder / "checkpoint").exists()
    return folder


def test_labels_are_the_names_of_choices_where_these_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for overrides, label in (
        ((), "dll mlp digits seed 0"),
        (("method=dll_regularized", "dataset=kmnist", "seed=3"), "dll_regularized mlp kmnist seed 3"),
    ):
        for made in (config.compose(("arch=mlp", *overrides)), config.composed(("arch=mlp", *overrides))):
            one = config.build(made, checked=False)
            assert carry.label(one) == label and "chosen" not in config.dump(one)
            unnamed = config.build(config.dump(one), checked=False)
            assert unnamed == one and hash(unnamed) == hash(one) and config.run_id(unnamed, "") == config.run_id(one, "")
            assert carry.label(unnamed).split()[0] == "segmentwise"  # by its class
    own = config.compose(["arch=library", "arch.name=convnext_atto", "dataset=folder", "dataset.name=birds"])
    assert carry.label(config.build(own, checked=False)) == "dll convnext_atto birds seed 0"
    monkeypatch.chdir(tmp_path)
    small = ("arch=mlp", "arch.hidden=[8]", "method.epochs=1", "dataset.train_limit=300", "hardware.threads=1")
    for flags in ((), ("--config-name", "config")):
        assert run_here(*flags, *small) == 0
        assert json.loads(capfd.readouterr().out)["name"].startswith("dll mlp digits seed 0 (")
    assert run_here("-m", *small, "seed=0") == 0
    assert json.loads(capfd.readouterr().out)["runs"][0]["name"].startswith("dll mlp digits seed 0 (")


def test_unfinished_run_of_another_config_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupt(monkeypatch, spec(), tmp_path)
    stored = json.loads((folder / "spec.json").read_text())
    stored["config"]["optimizer"]["momentum"] = 0.5  # as if the default had been that when the run began
    (folder / "spec.json").write_text(json.dumps(stored))
    with pytest.raises(RecordError, match=r"optimizer\.momentum=0\.5"):
        carry.carry_out(spec(), tmp_path)
    assert (folder / "checkpoint").exists()


def test_wall_time_adds_up_over_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, spec(), tmp_path)
    summary = carry.carry_out(spec(), tmp_path)["summary"]
    assert summary["time/wall_s"] > summary["time/train_s"]


def test_times_of_timers_are_disjoint_but_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    run, clock = Run.in_memory(), [0.0]
    monkeypatch.setattr(run.company, "now", lambda name: clock[0])

    def pass_by(seconds: float) -> None:
        clock[0] += seconds

    for _ in range(2):
        with run.timer("train"):
            pass_by(1)
            with run.timer("filter"):
                pass_by(2)
            with run.timer("probe"):
                pass_by(4)
                with run.timer("probe/passes"), run.timer("filter"):
                    pass_by(8)
            pass_by(16)
    assert run.times == {"train": 34, "filter": 20, "probe": 8, "probe/passes": 0}
    assert sum(run.times.values()) == clock[0]
    with pytest.raises(TypeError), run.timer("train"), run.timer("filter"):
        pass_by("a failure")  # type: ignore[arg-type]
    with run.timer("train"), run.timer("filter"):
        pass_by(32)
    assert (run.times["train"], run.times["filter"]) == (34, 52)


def test_record_answers_with_where_it_lies_now(finished: Path) -> None:
    moved = finished.parents[1].with_name("moved")
    shutil.move(finished.parents[1], moved)
    answered = carry.carry_out(spec(), moved)
    assert Path(answered["path"]) == moved / "runs" / finished.name
    assert isinstance(load_network(answered["path"]), nn.Module)


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_saved_network_that_is_not_the_recorded_one_is_refused(damage: str, finished: Path) -> None:
    file = finished / "network.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.unlink()
    if damage == "flip":
        file.write_bytes(data)
    with pytest.raises(RecordError, match=r"network\.safetensors"):
        load_network(finished)


def test_runs_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    carry.provenance.cache_clear()
    try:
        path = Path(carry.carry_out(spec(), tmp_path / "results")["path"])
        assert json.loads((path / "provenance.json").read_text())["commit"] is None
    finally:
        carry.provenance.cache_clear()


def test_asking_git_for_the_commit_writes_nothing_in_the_users_repository() -> None:
    """`git status` would write its index anew; a run killed in that moment leaves a lock, and git refuses the next commit."""
    ask = ["git", "-C", str(ROOT), "rev-parse", "--path-format=absolute", "--git-path", "index"]
    index = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    before = index.stat().st_mtime_ns
    (ROOT / "README.md").touch()
    carry.provenance.cache_clear()
    assert carry.provenance()["commit"] and index.stat().st_mtime_ns == before


def test_what_a_method_notes_stands_in_the_summary_and_survives_a_resume(tmp_path: Path) -> None:
    store = Store(tmp_path, "run", print)
    with store.owned():
        run = Run(store=store)
        run.note({"rank/effective": 5})
        run.record(0, 0, {"train/loss": 1.0})
        run.save(lambda: {"a": 1})
        again = Run(store=store)
        assert again.load() == {"a": 1}
    summary = again.summary(nn.Linear(2, 2), [])
    assert summary["rank/effective"] == 5
    assert summary["train/loss"] == 1.0


def test_summary_holds_the_returned_networks_validation_numbers(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())["summary"]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["segment"] == summary["segment/chosen"] and "val/acc" in line][-1]
    assert summary["val/acc"] == last["val/acc"]
    assert summary["memory/resident_peak_bytes"] > summary["memory/accounted_peak_bytes"]


def test_equal_specs_run_once(tmp_path: Path) -> None:
    results = execute([spec("method=dll"), spec("method=segmentwise")], tmp_path, workers=2)
    assert [r["status"] for r in results] == ["finished", "finished"]
    assert len({r["run_id"] for r in results}) == 1 == len(list((tmp_path / "runs").iterdir()))


def test_runs_of_several_threads_have_the_numbers_of_one_after_the_other(tmp_path: Path) -> None:
    """A study's n_jobs=2 asks for it; both draw their dropout from torch's one generator."""
    specs = [spec("method=dll_regularized", "method.epochs=2", f"seed={seed}") for seed in range(3)]

    def carried_out(asked: config.Spec, root: Path) -> str:
        (result,) = execute([asked], root)
        return str(result["summary"]["network/sha256"])

    one_by_one = [carried_out(one, tmp_path / "alone") for one in specs]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda one: carried_out(one, tmp_path / "together"), specs))
    assert together == one_by_one and len(set(together)) == 3


def test_threads_of_one_run_do_not_stay_for_the_next(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    carry.carry_out(spec(f"hardware.threads={before + 1}"), tmp_path)
    assert torch.get_num_threads() == before


seen: list[Mapping[str, Any]] = []


class Recorder:
    def __init__(self, fails_at: int | None) -> None:
        self.fails_at = fails_at

    def log(self, step: int, line: Mapping[str, Any]) -> None:
        if step == self.fails_at:
            raise OSError("no network")
        assert step == len(seen)
        seen.append(line)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        if self.fails_at is not None:
            raise OSError("closed after it failed" if len(seen) == self.fails_at else "cannot close")
        seen.append(summary or {})


@setting
class Mirror(Logger):
    """Keeps what it is shown, or fails at a line."""

    fails_at: int | None = None

    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Recorder:
        seen.clear()
        assert folder.parent.name == "runs" and folder.name[:6] in name and config["seed"] == 0
        return Recorder(self.fails_at)


def test_logger_sees_every_line_and_changes_nothing(tmp_path: Path, finished: Path) -> None:
    logged = carry.carry_out(replace(spec(), logger=Mirror()), tmp_path / "logged")
    assert logged["run_id"] == finished.name
    lines = [json.loads(line) for line in (Path(logged["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert seen[:-1] == lines
    assert seen[-1]["summary"]["network/sha256"] == logged["summary"]["network/sha256"]


def test_logger_of_a_resumed_run_sees_all_lines_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(spec(), logger=Mirror())
    interrupt(monkeypatch, asked, tmp_path)
    before, stop = seen[:-1], seen[-1]
    assert stop == {} and before
    logged = carry.carry_out(asked, tmp_path)
    lines = [json.loads(line) for line in (Path(logged["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert seen[: len(before)] == before and seen[:-1] == lines and len(lines) > len(before)


def test_a_run_says_by_its_own_reporter_and_name_how_far_it_is_with_trying(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(waiting, "QUIET_S", -1.0)
    monkeypatch.setattr(waiting, "EVERY_S", -1.0)
    heard = Heard()
    result = carry.carry_out(spec(), tmp_path, heard)
    segments = len(result["summary"]["memory/segment_peak_bytes"])
    assert len(heard.lines) == segments - 1 > 0  # nothing after the last, when the cost is told
    for line in heard.lines:
        assert re.fullmatch(rf"{re.escape(result['name'])}: trying what each layer will take: \d+%, \d+ s left", line), line


@pytest.mark.parametrize("fails_at", [0, 3, 1000])
def test_logger_that_fails_is_said_in_one_line_and_the_run_is_as_without(fails_at: int, tmp_path: Path, finished: Path) -> None:
    heard = Heard()
    result = carry.carry_out(replace(spec(), logger=Mirror(fails_at=fails_at)), tmp_path / "logged", heard)
    assert result["status"] == "finished" and numbers(Path(result["path"])) == numbers(finished)
    (line,) = heard.lines
    assert line == f"logger: OSError: {'cannot close' if fails_at == 1000 else 'no network'}; the run goes on without it"
