"""Killed at any moment and started again, a run ends in the numbers of a run left alone; nothing and nobody stays behind."""

import fcntl
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Heard, IdxSet, Process, answer, finish, flipped, numbers, run, run_here, start, wait_for
from torch import nn

from effdl import config
from effdl.records import process
from effdl.records.execute import execute
from effdl.records.run import Run
from effdl.records.store import Store

SMALL = (*IdxSet.OVERRIDES, "arch.hidden=[12,8]", "method.epochs=6", "method.input_dropout=0.3", "optimizer=adamw")
# Wide enough that a checkpoint takes a moment to write.
WIDE = (
    *IdxSet.OVERRIDES,
    "arch.hidden=[1500,1200]",
    "method.epochs=80",
    "method.gradient_dropout=0.3",
    "dataset.batch_size=50",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data set."""
    IdxSet(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    return tmp_path


class Stop(BaseException):
    """As abrupt as a kill can be within a process: nothing catches it."""


def stopped_after(records: int, overrides: tuple[str, ...], results: Path) -> Path:
    """The folder of a run that ended abruptly after so many lines of its metrics, with a checkpoint of each epoch."""
    with pytest.MonkeyPatch.context() as patch:
        record, save, left = Run.record, Run.save, iter([*range(records), None])

        def counted(self: Run, *args: Any, **metrics: float) -> None:
            record(self, *args, **metrics)
            if next(left) is None:
                raise Stop

        def always(self: Run, state: Callable[[], dict[str, Any]]) -> None:
            self._save_cost = 0.0
            save(self, state)

        patch.setattr(Run, "record", counted)
        patch.setattr(Run, "save", always)
        with pytest.raises(Stop):
            execute([config.build(config.compose(overrides))], results)
    (found,) = (results / "runs").iterdir()
    return found


def undisturbed(overrides: tuple[str, ...], results: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    (result,) = execute([config.build(config.compose(overrides))], results)
    assert result["status"] == "finished"
    return numbers(Path(result["path"]))


@pytest.mark.parametrize("records", [1, 5, 6, 11])
def test_run_stopped_within_any_epoch_of_any_layer_ends_in_the_same_numbers(records: int, folder: Path) -> None:
    expected = undisturbed(SMALL, folder / "undisturbed")
    run_folder = stopped_after(records, SMALL, folder / "results")
    assert (run_folder / "metrics.jsonl").read_bytes().count(b"\n") > records
    (result,) = execute([config.build(config.compose(SMALL))], folder / "results")
    assert result["status"] == "finished"
    assert numbers(run_folder) == expected
    assert sorted(p.name for p in run_folder.iterdir()) == [
        "lock",
        "metrics.jsonl",
        "network.safetensors",
        "provenance.json",
        "spec.json",
        "summary.json",
    ]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel keeps no high-water mark")
def test_memory_of_the_process_is_told_by_a_run_left_alone_and_not_by_one_that_went_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for stops in (False, True):
        if stops:
            stopped_after(5, SMALL, folder / "results")
        monkeypatch.setattr(process, "_begun", False)  # as in a process of its own
        (result,) = execute([config.build(config.compose(SMALL))], folder / ("results" if stops else "undisturbed"))
        told.append((process.PROCESS_PEAK in result["summary"], numbers(Path(result["path"]))))
    assert [one for one, _ in told] == [True, False]
    assert told[0][1] == told[1][1]


DAMAGES = {
    "flipped bit": ("checkpoint", lambda data: flipped(data, len(data) // 2, 5), "begins anew"),
    "truncated checkpoint": ("checkpoint", lambda data: data[:-100], "begins anew"),
    "empty checkpoint": ("checkpoint", lambda data: b"", "begins anew"),
    "half a specification": ("spec.json", lambda data: data[:-50], "set aside"),
    "something else": ("spec.json", lambda data: b"[]", "set aside"),
}


@pytest.mark.parametrize(("name", "damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_of_an_unfinished_run_is_named_set_aside_and_moves_no_number(
    name: str, damage: Callable[[bytes], bytes], says: str, folder: Path
) -> None:
    expected = undisturbed(SMALL, folder / "undisturbed")
    run_folder = stopped_after(8, SMALL, folder / "results")
    path = run_folder / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    heard = Heard()
    execute([config.build(config.compose(SMALL))], folder / "results", reporter=heard)
    (line,) = heard.lines
    assert str(path) in line and says in line
    assert path.with_name(f"{name}.damaged").read_bytes() == damaged
    assert numbers(run_folder) == expected


@pytest.mark.parametrize("name", ["summary.json", "spec.json"])
def test_damaged_record_of_a_finished_run_is_named_and_made_again(name: str, folder: Path) -> None:
    expected = undisturbed(SMALL, folder / "results")
    (path,) = (folder / "results").glob(f"runs/*/{name}")
    network = path.with_name("network.safetensors").read_bytes()
    path.write_bytes(path.read_bytes()[:-30])
    heard = Heard()
    (result,) = execute([config.build(config.compose(SMALL))], folder / "results", reporter=heard)
    (line,) = heard.lines
    assert str(path) in line and "set aside" in line
    assert result["status"] == "finished"
    assert numbers(path.parent) == expected
    assert path.with_name("network.safetensors").read_bytes() == network


def test_lost_end_of_the_metrics_is_said(folder: Path) -> None:
    run_folder = stopped_after(8, SMALL, folder / "results")
    metrics = run_folder / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(True)[:3]))
    heard = Heard()
    execute([config.build(config.compose(SMALL))], folder / "results", reporter=heard)
    (line,) = heard.lines
    assert str(metrics) in line and "lost" in line


def test_interrupt_stops_with_one_line_and_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed(SMALL, folder / "undisturbed")
    test = Run.test

    def interrupted(self: Run, model: nn.Module, segment: int, *more: Any) -> None:
        test(self, model, segment, *more)
        if segment == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Run, "test", interrupted)
            assert run_here(*SMALL) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err.splitlines()[-1] == "effdl: interrupted; the same command goes on where this one stopped"
    (run_folder,) = (folder / "results" / "runs").iterdir()
    assert (run_folder / "checkpoint").exists() and is_free(run_folder / "lock")
    assert run_here(*SMALL) == 0
    assert numbers(run_folder) == expected


def is_free(lock: Path) -> bool:
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_who_waits_for_a_run_whose_start_fails_owns_it_afterwards(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "results", "run", print), Store(tmp_path / "results", "run", print)
    waits, owned, checked = threading.Event(), threading.Event(), threading.Event()
    second._say = lambda text: waits.set()

    def wait_and_own() -> None:
        with second.owned():
            owned.set()
            checked.wait(20)

    waiting = threading.Thread(target=wait_and_own, daemon=True)
    with first.owned():
        waiting.start()
        assert waits.wait(20)
        first.discard_if_empty()
        assert not owned.is_set()
    assert owned.wait(20)
    assert not is_free(second.path / "lock")
    checked.set()
    waiting.join(20)
    assert is_free(second.path / "lock")


def own(root: Path, said: Any) -> None:
    """What a worker does that comes to a run; a function of this module, as another process finds it."""
    with Store(root, "run", said.put).owned():
        pass


def test_who_waits_says_whether_the_owner_is_of_its_own_command(tmp_path: Path) -> None:
    """A sibling was called another process, as if a second command were at work."""
    context = multiprocessing.get_context("spawn")
    said, told = context.Queue(), []
    workers = [context.Process(target=own, args=(tmp_path, said)) for _ in range(2)]
    with Store(tmp_path, "run", print).owned():
        for worker in workers:
            worker.start()
            told.append(said.get(timeout=60))
            (tmp_path / "runs" / "run" / "lock").write_text("elsewhere 1")
    for worker in workers:
        worker.join(60)
    assert told == [
        "run is being run by another worker of this command, which asks for it twice; waiting for it",
        "run is being run by another process; waiting for it",
    ]


def test_discarding_a_run_leaves_those_beside_it(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / "results", name, print) for name in ("one", "two"))
    with one.owned(), two.owned():
        two.append({"segment": 0})
        one.discard_if_empty()
        assert [p.name for p in (tmp_path / "results" / "runs").iterdir()] == ["two"]
        two.discard_if_empty()
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]  # made by the first, not by the second


def session(leader: int) -> Iterator[tuple[int, str]]:
    """Living processes of a session: (pid, name); a zombie is dead and only waits for its parent."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        if int(fields[3]) == leader and fields[0] not in "ZX":
            yield int(entry.name), name


def holder_of(lock: Path, leader: int) -> int | None:
    """The process of the session that has the lock's file open."""
    for pid, _ in session(leader):
        try:
            if any(os.path.realpath(fd) == str(lock) for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()  # not for the end of its output, which a child left behind would hold open
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def metrics_lines(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("runs/*/metrics.jsonl"))


@pytest.mark.slow
def test_run_killed_ten_times_two_of_them_within_a_checkpoint_ends_in_the_same_numbers(folder: Path) -> None:
    expected = undisturbed(WIDE, folder / "undisturbed")
    draw = random.Random(0)
    results = folder / "results"
    for attempt in range(10):
        process = start(*WIDE, cwd=folder, fresh=attempt in (0, 5))
        if attempt in (3, 7):
            wait_for(lambda process=process: stopped_within_checkpoint(process, results), process, every=0.0002)
        elif attempt in (0, 5):  # while it starts
            time.sleep(draw.uniform(0, 4))
        else:
            before = metrics_lines(results)
            wait_for(lambda before=before: metrics_lines(results) != before, process)
            time.sleep(draw.uniform(0, 0.5))
        kill(process)
        assert process.returncode == -signal.SIGKILL
        assert bool(list(results.glob("runs/*/checkpoint.part"))) or attempt not in (3, 7)
    done = run(*WIDE, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    assert numbers(folder / answer(done)["path"]) == expected


def stopped_within_checkpoint(process: Process, results: Path) -> bool:
    """Stop the process while it writes a checkpoint; when it was too quick for that, let it go on."""
    if not list(results.glob("runs/*/checkpoint.part")):
        return False
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.01)
    if list(results.glob("runs/*/checkpoint.part")):
        return True
    os.kill(process.pid, signal.SIGCONT)
    return False


SWEEP = ("-m", *WIDE, "method.epochs=30", "seed=0,1", "workers=2")


def both(results: Path, ids: list[str]) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    return [numbers(results / "runs" / name) for name in ids]


@pytest.mark.slow
def test_sweep_whose_worker_and_then_whose_parent_is_killed_ends_in_the_numbers_of_an_undisturbed_one(folder: Path) -> None:
    alone = run(*SWEEP, "results=undisturbed", cwd=folder)
    ids = [one["run_id"] for one in answer(alone)["runs"]]
    expected = both(folder / "undisturbed", ids)
    locks = [folder / "results" / "runs" / name / "lock" for name in ids]
    process = start(*SWEEP, cwd=folder)
    wait_for(lambda: all((lock.parent / "checkpoint").exists() for lock in locks), process)
    worker = holder_of(locks[0], process.pid)
    assert worker is not None and worker != process.pid
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: holder_of(locks[0], process.pid) not in (None, worker), process)
    kill(process)
    until = time.monotonic() + 20
    while (left := list(session(process.pid))) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    assert all(is_free(lock) for lock in locks)
    assert not any((lock.parent / "summary.json").exists() for lock in locks)
    done = run(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert both(folder / "results", ids) == expected


@pytest.mark.slow
def test_sweep_with_one_killed_worker_finishes_by_itself(folder: Path) -> None:
    process = start(*SWEEP, cwd=folder)
    found = wait_for(lambda: list(folder.glob("results/runs/*/checkpoint")), process)
    worker = holder_of(found[0].with_name("lock"), process.pid)
    assert worker is not None and worker != process.pid
    os.kill(worker, signal.SIGKILL)
    done = finish(process)
    assert done.returncode == 0, done.stderr
    assert "a worker died (SIGKILL); its run is tried once more" in done.stderr
    assert [one["status"] for one in answer(done)["runs"]] == ["finished", "finished"]


@pytest.mark.slow
def test_run_whose_worker_dies_twice_is_booked_as_died_and_the_others_finish(folder: Path) -> None:
    process = start(*SWEEP, cwd=folder)
    lock = wait_for(lambda: list(folder.glob("results/runs/*/checkpoint")), process)[0].with_name("lock")
    first = holder_of(lock, process.pid)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: holder_of(lock, process.pid) not in (None, first) and holder_of(lock, process.pid), process)
    os.kill(second, signal.SIGKILL)
    done = finish(process)
    runs = {one["status"]: one for one in answer(done)["runs"]}
    assert done.returncode == 1
    assert runs.keys() == {"died", "finished"}
    assert "SIGKILL" in runs["died"]["reason"]


@pytest.mark.slow
def test_two_processes_on_one_run_ten_times_give_one_summary(folder: Path) -> None:
    waited = 0
    for seed in range(10):
        command = (*IdxSet.OVERRIDES, "method.epochs=20", f"seed={seed}")
        done = [finish(p) for p in [start(*command, cwd=folder), start(*command, cwd=folder)]]
        assert [d.returncode for d in done] == [0, 0], [d.stderr for d in done]
        assert answer(done[0]) == answer(done[1])
        waited += sum("another process" in d.stderr for d in done)
        run_folder = folder / answer(done[0])["path"]
        assert is_free(run_folder / "lock")
        assert len(numbers(run_folder)[0]) == 40  # twenty epochs, each with its training and its test line
    assert waited >= 1, "the two never met"
