"""What a person sees while runs run: a live bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from effdl.records.kept import AGAIN

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from effdl.training.handle import SegmentCost


class Answer(dict[str, Any]):
    """A result that was answered from its record. record: which that is, in words."""

    record: str


Settings = Callable[[], Sequence[str]]
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]  # (items, what, how many) -> the items, showing how far it is

LINE_EVERY_S = 5.0
LONG_S = 60.0
MANY = 200  # runs, of which not each has a line
DAMAGED = "damaged"  # of a result from a record: file -> what became of it since the run's end
SHOWN = "shown"  # what a result says in words, in the place of its numbers


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. segment and epoch count from 0; fraction of the expected time; left_s seconds.

    at_most: whether it may end before the last segment, and sooner. stands_for: see `RunHandle.progress`.
    """

    name: str
    segment: int
    segments: int
    epoch: int
    epochs: int
    fraction: float
    left_s: float
    scores: dict[str, float] = field(default_factory=dict)
    at_most: bool = False
    stands_for: int = 1

    def text(self) -> str:
        if self.stands_for > 1:  # scores are the first's alone
            return f"and {self.stands_for - 1} more as one, epoch {self.epoch + 1}/{self.epochs}"
        scores = " ".join(f"{k} {v:.4f}" for k, v in self.scores.items())
        layer = f"layer {self.segment + 1}" + (" of at most " if self.at_most else "/") + str(self.segments)
        return f"{layer} epoch {self.epoch + 1}/{self.epochs} {scores}".strip()

    def left(self) -> str:
        return f"{'at most ' if self.at_most else ''}{duration(self.left_s)} left"


class Reporter(Protocol):
    """Where a run shows itself."""

    def begin(self) -> None:
        """Runs begin; what was done before had its answer in records."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def cost(self, name: str, seconds: float, costs: list[SegmentCost], shorter: Settings = list) -> None:
        """What a run will cost, before it starts. shorter: settings that would make it shorter, as one types them."""

    def progress(self, progress: Progress) -> None:
        """Where a run is; called a few times a second."""

    def done(self, result: dict[str, Any]) -> None:
        """A run has ended, or was answered from its record."""


class Silent:
    """Shows nothing."""

    def begin(self) -> None: ...

    def say(self, text: str) -> None: ...

    def cost(self, name: str, seconds: float, costs: list[SegmentCost], shorter: Settings = list) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def done(self, result: dict[str, Any]) -> None: ...


class Console:
    """A bar for each run in progress where standard error is a terminal, else a line every five seconds to a minute.

    runs: how many there are; a lone run always says what it will cost, one of many only where it takes long. Of thousands, a
    finished run has a line only if no other had one in the last few seconds. bars: whether there may be any; not where other
    processes write to the same terminal.
    """

    def __init__(self, runs: int = 1, bars: bool = True) -> None:
        self._runs, self._ended, self._may_have_bars = runs, 0, bars
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._line_at: dict[str, float] = {}
        self._all: TaskID | None = None
        self._fractions: dict[str, float] = {}
        self._worked_from: tuple[float, float] | None = None
        self._said_at = -LINE_EVERY_S
        self._damaged = 0

    def __enter__(self) -> Console:
        if self._may_have_bars and sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            console = RichConsole(stderr=True, highlight=False, soft_wrap=True)
            columns = [
                TextColumn("{task.description}"),
                BarColumn(20),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[text]}"),
            ]
            self._bars = RichProgress(*columns, console=console, transient=True, refresh_per_second=5)
            self._bars.start()
            if self._runs > 1:
                self._all = self._bars.add_task(f"{self._runs} runs", total=self._runs, text="starting")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        if self._damaged and self._runs > MANY:  # of which not each had its line
            self.say(f'records that have changed since their ends: {self._damaged}, each with "{DAMAGED}" in its JSON; {AGAIN}')

    def begin(self) -> None:
        self._worked_from = (self._done, time.monotonic())

    def say(self, text: str) -> None:
        self._print(f"effdl: {text}")

    def cost(self, name: str, seconds: float, costs: list[SegmentCost], shorter: Settings = list) -> None:
        if self._runs > 1 and seconds < LONG_S:
            return
        from effdl.costs.seconds import training_seconds  # torch is there where costs are

        peak, epochs = max(c.memory.peak for c in costs), sum(c.epochs for c in costs)
        epoch_s = sum(map(training_seconds, costs)) / epochs
        most = "" if all(c.certain for c in costs) else "at most "
        self._print(
            f"{name}: {most}about {duration(seconds)} on this machine ({epochs} epochs of about {duration(epoch_s)}), "
            f"peak training memory {size(peak)}"
        )
        if self._runs == 1 and seconds > LONG_S and (settings := shorter()):
            self._print(f"  shorter: {' '.join(settings)}")

    def progress(self, progress: Progress) -> None:
        self._fractions[progress.name] = progress.fraction
        self._show_all()
        if progress.stands_for == 0:
            return
        text = f"{progress.text()}  {progress.left()}"
        if self._bars is not None:
            if progress.name not in self._tasks:
                self._tasks[progress.name] = self._bars.add_task(progress.name, total=1.0, text="")
            self._bars.update(self._tasks[progress.name], completed=progress.fraction, text=text)
            return
        now = time.monotonic()
        if now > self._line_at.setdefault(progress.name, now + LINE_EVERY_S):
            self._line_at[progress.name] = now + min(60.0, max(LINE_EVERY_S, progress.left_s / 50))
            self._print(f"{progress.name}: {100 * progress.fraction:.0f}% {text}")

    def done(self, result: dict[str, Any]) -> None:
        self._ended += 1
        self._damaged += DAMAGED in result
        name = result["name"]
        self._fractions.pop(name, None)
        self._show_all()
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        if self._runs == 1 and result["status"] != "finished":
            return
        now, quick = time.monotonic(), result["status"] == "finished" and self._runs > MANY and self._ended < self._runs
        if not quick or now - self._said_at >= LINE_EVERY_S:
            self._said_at = now
            left = self._left_s if self._bars is None else None  # the bar says it
            ahead = "" if left is None or self._ended == self._runs else f", {duration(left)} left"
            count = f"[{self._ended}/{self._runs}{ahead}] " if self._runs > 1 else ""
            self._print(f"{count}{name}: {headline(result)}{source(result)}")

    @property
    def _done(self) -> float:
        """Runs that have ended, and parts of runs."""
        return self._ended + sum(self._fractions.values())

    @property
    def _left_s(self) -> float | None:
        """Seconds until all have ended, if the runs to come cost what the past ones did; None before they begin."""
        if self._worked_from is None or self._done - self._worked_from[0] <= 0.1:
            return None
        taken = time.monotonic() - self._worked_from[1]
        return (self._runs - self._done) * taken / (self._done - self._worked_from[0])

    def _show_all(self) -> None:
        """The sweep's bar."""
        if self._bars is None or self._all is None:
            return
        text = f"{self._ended} done" + ("" if self._left_s is None else f"  {duration(self._left_s)} left")
        self._bars.update(self._all, completed=self._done, text=text)

    def _print(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


def untracked(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """The items, showing nothing."""
    return items


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in binary units: 812 B, 1.4 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def memory(metrics: dict[str, Any]) -> str:
    """The peaks that a run tells, side by side: of a step, of all that waits in memory beside it, of the process."""
    peaks = {"step": "accounted", "resident": "resident", "process": "process"}
    told = {name: metrics.get(f"memory/{key}_peak_bytes") for name, key in peaks.items()}
    return " / ".join(f"{name} {size(peak)}" for name, peak in told.items() if peak is not None)


def filtered(metrics: dict[str, Any]) -> str:
    """What a filter kept of the samples of all passes, of what it chose, and in which time; nothing where there was none."""
    if "filter/kept_share" not in metrics:
        return ""
    share, seconds = 100 * metrics["filter/kept_share"], metrics["time/filter_s"]
    return f"filter kept {share:.3g}% ({metrics['filter/scope']}) in {duration(seconds)}"


def source(result: dict[str, Any]) -> str:
    """That a result was answered from its record, and from which."""
    return f" (from the record of {result.record})" if isinstance(result, Answer) else ""


def headline(result: dict[str, Any]) -> str:
    """The few numbers of a result that a person wants on one line, or why there are none."""
    if SHOWN in result:
        return str(result[SHOWN])
    names = ("test/miou", "test/acc", "test/mse", "val/miou", "val/acc", "time/train_s")
    metrics = result.get("summary", {})
    shown = [f"{name} {metrics[name]:.4g}" for name in names if isinstance(metrics.get(name), float)]
    shown += [kept] if (kept := filtered(metrics)) else []
    shown += [f"memory {told}"] if (told := memory(metrics)) else []
    return ", ".join(shown) or f"{result['status']}: {result.get('reason', '')}"
