"""What a person sees while data are prepared: nothing where it is quick, else a line now and then, on standard error."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

QUIET_S = 3.0
EVERY_S = 5.0


def say(text: str) -> None:
    print(f"effdl: {text}", file=sys.stderr, flush=True)


@lru_cache(maxsize=1024)
def say_once(text: str) -> None:
    """The same, not again in this process, which may do many runs on the same data."""
    say(text)


def watched(parts: Iterable[T], total: int, doing: str, say: Callable[[str], None] = say) -> Iterator[T]:
    """The same parts; after three seconds, and then every five, it is said how far they are. doing: "decoding 300 images"."""
    start = shown = time.monotonic()
    for done, part in enumerate(parts, 1):
        yield part
        del part
        now = time.monotonic()
        if done < total and now - start > QUIET_S and (shown == start or now - shown > EVERY_S):
            shown = now
            say(f"{doing}: {100 * done / total:.0f}%, {(now - start) * (total - done) / done:.0f} s left")
