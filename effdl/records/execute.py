"""The one executor: it skips what is done and feeds the rest to a pool of workers that outlive many runs."""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from effdl.config import Spec
from effdl.errors import ConfigError, EffdlError, Stopped, crash
from effdl.records.report import Progress, Reporter, Settings, Silent
from effdl.records.stacking import check_stacked, settled, split_up
from effdl.training.handle import SegmentCost

if TYPE_CHECKING:
    from effdl.records.run import GoesOn
    from effdl.training.company import Company

Result = dict[str, Any]
Job = Sequence[tuple[int, Spec]]  # one run under its key, or those of a stack


class Jobs(Protocol):
    """What a pool works off: runs that come one by one, or several that are trained as one, each under a key of its own."""

    def next(self) -> Job | None:
        """The next; None when no other begins."""

    def goes_on(self, key: int, step: int, score: float) -> bool:
        """Whether a run goes on after an epoch, asked where ``judged``, see `Run`."""

    def done(self, key: int, result: Result) -> Result:
        """A run has ended; returns what is shown of it."""

    judged: bool


def execute(
    specs: Sequence[Spec], root: Path, workers: int = 1, reporter: Reporter | None = None, stack: bool = True
) -> list[Result]:
    """The results of Specs, in their order. Each is carried out once, and one that was begun goes on where it stopped.

    A lone run works in this process with the threads that torch takes by itself (all cores, or OMP_NUM_THREADS); several
    share ``workers`` processes with one thread each, or a single one where a GPU is asked for. A run by epochs on the CPU has
    a process of its own, so that its memory there can be told. Equal Specs run once. A result is a run's summary, or
    {"status": "error" | "died", "reason": ...}: one failed run leaves the others alone, and a run whose worker died is tried
    once more. One that was answered from its record is a `report.Answer`, which knows from which.

    stack: several small networks that differ in seed and learning rate alone are trained as one where that is faster, see
        `stacking.settled`; False trains each by itself, unless its Spec says otherwise.
    """
    reporter = reporter or Silent()
    check_stacked(specs)
    specs = settled(specs, root, stack and len(specs) > 1)
    if len(specs) > 1 and any(spec.hardware.processes > 1 for spec in specs):
        raise ConfigError("hardware.processes: torchrun's processes carry out one run, not several")
    if len(specs) == 1:
        (result,) = _attempt_all(specs, root, reporter, threads=None)
        reporter.done(result)
        return [result]
    results: dict[Spec, Result | None] = {spec: _answer(spec, root, reporter) for spec in dict.fromkeys(specs)}
    todo = [spec for spec, result in results.items() if result is None]
    if any(spec.hardware.device != "cpu" for spec in todo):
        workers = 1
    left = _Listed(todo, workers)
    reporter.begin()
    if (stacked := sum(bool(spec.stacked) for spec in todo)) > 1:
        reporter.say(f"{stacked} small networks are trained as one; stack=false trains each by itself")
    if left.specs:
        work_off(left, root, min(workers, left.jobs), reporter)
    results.update(zip(left.specs, left.results, strict=True))
    return [summary for spec in specs if (summary := results[spec]) is not None]


def work_off(jobs: Jobs, root: Path, workers: int, reporter: Reporter) -> None:
    """Carry out all that ``jobs`` gives in so many processes with one thread each, which share its runs."""
    _Pool(jobs, root, workers, reporter).run()


class _Listed:
    """The runs of a list, and their results."""

    judged = False

    def __init__(self, specs: Sequence[Spec], workers: int) -> None:
        self.specs, self.results = specs, [None] * len(specs)  # type: tuple[Sequence[Spec], list[Result | None]]
        self._waiting = deque([(key, specs[key]) for key in keys] for keys in split_up(specs, workers))
        self.jobs = len(self._waiting)

    def next(self) -> Job | None:
        return self._waiting.popleft() if self._waiting else None

    def goes_on(self, key: int, step: int, score: float) -> bool:
        return True

    def done(self, key: int, result: Result) -> Result:
        self.results[key] = result
        return result


def _answer(spec: Spec, root: Path, reporter: Reporter) -> Result | None:
    """A finished run's record; None too where it cannot be read, since the run itself will say why."""
    from effdl.records.carry import answer

    try:
        result = answer(spec, root, reporter.say)
    except EffdlError:
        return None
    if result is not None:
        reporter.done(result)
    return result


def _attempt_all(
    specs: Sequence[Spec], root: Path, reporter: Reporter, threads: int | None, goes_on: "GoesOn | None" = None
) -> list[Result]:
    """The results of runs; of a stack, which may be of one, in company of each other.

    They take ownership of their records in the order of their names, as those of another process do, so that no two wait for
    one another.
    """
    if not specs[0].stacked:
        return [_attempt(spec, root, reporter, threads, goes_on) for spec in specs]
    from effdl.records.carry import name_of
    from effdl.training.company import carried_together
    from effdl.training.hardware import alone

    order = sorted(range(len(specs)), key=lambda place: name_of(specs[place]))
    with alone():
        tasks = [partial(_attempt, specs[place], root, reporter, threads, goes_on) for place in order]
        results = carried_together(tasks)
    return [results[order.index(place)] for place in range(len(specs))]


def _attempt(
    spec: Spec,
    root: Path,
    reporter: Reporter,
    threads: int | None,
    goes_on: "GoesOn | None" = None,
    company: "Company | None" = None,
) -> Result:
    from effdl.records.carry import carry_out, name_of

    try:
        return carry_out(spec, root, reporter, threads, goes_on, company)
    except Stopped as stopped:
        return {"name": name_of(spec), "seed": spec.seed, "status": "stopped", "reason": str(stopped)}
    except EffdlError as error:
        return {"name": name_of(spec), "seed": spec.seed, "status": "error", "reason": str(error), "exit_code": error.exit_code}
    except Exception as error:
        trace = traceback.format_exc()
        return {
            "name": name_of(spec),
            "seed": spec.seed,
            "status": "error",
            "reason": crash(error),
            "exit_code": 1,
            "trace": trace,
        }


def _has_own_process(spec: Spec) -> bool:
    """Whether a run needs a process that no other run was in, as its memory there is told (memory/process_peak_bytes).

    It is for runs by epochs. A closed form is fitted thousands of times in seconds, and does not say what a step takes.
    """
    return spec.hardware.device == "cpu" and not spec.method.fits_least_squares


class _Worker:
    """A process and the connection to it; ``job`` is the run that it works on, ``used`` whether it had one before."""

    def __init__(self, context: multiprocessing.context.BaseContext, root: Path) -> None:
        self.connection, theirs = context.Pipe()
        # No daemon, which could not have children to decode images; it dies with its parent all the same.
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, root))  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.used = False

    def close(self) -> None:
        """End it: by itself, or by force where it does not."""
        self.connection.close()
        self.process.join(0.5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Pool:
    def __init__(self, jobs: Jobs, root: Path, workers: int, reporter: Reporter) -> None:
        self.jobs, self.root, self.reporter = jobs, root, reporter
        self.again: deque[Job] = deque()  # whose worker died
        self.deaths: set[int] = set()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch", "torch._dynamo", "effdl.records.carry"])
        self.count = workers
        self.workers: list[_Worker] = []
        self.leaving: list[_Worker] = []

    def run(self) -> None:
        self.workers = [_Worker(self.context, self.root) for _ in range(self.count)]
        try:
            for place in range(self.count):
                self._give(place)
            while any(w.job is not None for w in self.workers):
                for connection in wait([w.connection for w in self.workers if w.job is not None]):
                    self._receive(next(i for i, w in enumerate(self.workers) if w.connection is connection))
        finally:
            for worker in (*self.leaving, *self.workers):
                worker.close()

    def _give(self, place: int) -> None:
        """The next run to the worker of this place, to a new one where it needs a process of its own."""
        worker = self.workers[place]
        worker.job = None
        job = self.again.popleft() if self.again else self.jobs.next()
        if job is None:
            return
        if worker.used and any(_has_own_process(spec) for _, spec in job):
            worker = self._renew(place)
        worker.job, worker.used = job, True
        with suppress(OSError):  # a worker that is gone shows when it is listened to
            worker.connection.send(([spec for _, spec in job], self.jobs.judged))

    def _renew(self, place: int) -> _Worker:
        """A new worker in a place. The old one sees its connection end, and takes its time while the others work on."""
        self.workers[place].connection.close()
        self.leaving = [one for one in (*self.leaving, self.workers[place]) if one.process.is_alive()]
        self.workers[place] = _Worker(self.context, self.root)
        return self.workers[place]

    def _receive(self, place: int) -> None:
        worker = self.workers[place]
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):  # gone, perhaps in the middle of a message
            self._bury(place)
            return
        assert worker.job is not None
        if kind == "result":
            for (key, _), result in zip(worker.job, content[0], strict=True):
                self._book(key, result)
            self._give(place)
        elif kind == "goes_on":
            with suppress(OSError):
                worker.connection.send(self.jobs.goes_on(worker.job[0][0], *content))
        else:
            getattr(self.reporter, kind)(*content)

    def _book(self, key: int, result: Result) -> None:
        self.reporter.done(self.jobs.done(key, result))

    def _bury(self, place: int) -> None:
        """A worker is gone: its run is tried once more by a new one, those of a stack each by itself, then booked as died."""
        worker = self.workers[place]
        assert worker.job is not None
        worker.process.join()
        code = worker.process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        first = [(key, spec) for key, spec in worker.job if key not in self.deaths]
        if first:
            runs = "run is tried" if len(first) == 1 else f"{len(first)} runs are tried"
            self.reporter.say(f"a worker died ({cause}); its {runs} once more")
            self.again += [[run] for run in first]
        for key, spec in worker.job:
            if key in self.deaths:
                reason = f"worker died twice ({cause})"
                self._book(key, {"name": _name(spec), "seed": spec.seed, "status": "died", "reason": reason, "exit_code": 8})
        self.deaths |= {key for key, _ in worker.job}
        self._renew(place)
        self._give(place)


def _name(spec: Spec) -> str:
    from effdl.records.carry import name_of

    return name_of(spec)


class _Relay:
    """A reporter in a worker: sends everything to the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(self) -> None:
        """The parent begins."""

    def say(self, text: str) -> None:
        self._connection.send(("say", text))

    def cost(self, name: str, seconds: float, costs: list[SegmentCost], shorter: Settings = list) -> None:
        self._connection.send(("cost", name, seconds, costs))

    def progress(self, progress: Progress) -> None:
        self._connection.send(("progress", progress))

    def goes_on(self, step: int, score: float) -> bool:
        self._connection.send(("goes_on", step, score))
        answer: bool = self._connection.recv()
        return answer

    def done(self, result: Result) -> None:
        """The parent sees the result itself."""


def _work(connection: Connection, root: Path) -> None:
    """A worker's life: one Spec after another until the parent's end closes; gone at once when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    gc.freeze()  # what was imported before the fork stays: looking through it would copy all of its pages
    relay = _Relay(connection)
    try:
        while True:
            specs, judged = connection.recv()
            results = _attempt_all(specs, root, relay, threads=1, goes_on=relay.goes_on if judged else None)
            connection.send(("result", results))
    except (EOFError, OSError):
        return


def _die_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
