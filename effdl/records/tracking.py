"""How far something is that takes longer than three seconds, and how long it still takes."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

from effdl.records.report import Track, duration

T = TypeVar("T")
QUIET_S = 3.0


@contextmanager
def tracking() -> Iterator[Track]:
    """The items with a bar and time left on a terminal, else a line every few seconds, however long one item takes."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            yield lambda items, what, total: progress.track(items, total=total, description=what)
        return
    lines = _Lines()
    try:
        yield lines.track
    finally:
        lines.stop()


class _Lines:
    """Lines from a thread of their own, which speaks while an item is at work."""

    def __init__(self) -> None:
        self._stopped = Event()
        self._thread: Thread | None = None
        self._at: tuple[str, int, int, float] | None = None  # what, how many are done, of how many, when it began

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        start, before = time.monotonic(), self._at
        if self._thread is None:
            self._thread = Thread(target=self._speak, daemon=True)
            self._thread.start()
        for done, item in enumerate(items):
            self._at = what, done, total, start
            yield item
        self._at = before

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _speak(self) -> None:
        while not self._stopped.wait(QUIET_S):
            if (at := self._at) is not None:
                print(f"effdl: {_text(*at, time.monotonic())}", file=sys.stderr, flush=True)


def _text(what: str, done: int, total: int, start: float, now: float) -> str:
    """Of the first item nobody knows how long it takes."""
    ahead = f"{duration((now - start) * (total - done) / done)} left" if done else f"{duration(now - start)} so far"
    return f"{what} {done}/{total}, {ahead}"
