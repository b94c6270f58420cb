"""What is slow to find out is remembered in a folder of the user's.

Several processes that ask for the same at once, those of a sweep or of torchrun, do not all find it out: one does (`alone`).
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_known: dict[tuple[str, str], Any] = {}  # of this process, which may not be able to write


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/effdl, else ~/.cache/effdl. It may be deleted at any time.

    A user without a home, as in some containers, has one in which nothing can be written.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effdl"
    except RuntimeError:
        return Path(os.devnull) / "effdl"


@lru_cache(maxsize=64)
def installed(name: str) -> str:
    """The version of a library, of which what is remembered may depend; looking it up takes a millisecond."""
    return version(name)


def recall(kind: str, key: str) -> Any:
    """What was remembered under this key, or None."""
    if (kind, key) in _known:
        return _known[kind, key]
    try:
        found = json.loads(place(kind, key).read_text())
    except (OSError, ValueError):
        return None
    return found["value"] if isinstance(found, dict) and found.get("key") == key else None


def remember(kind: str, key: str, value: Any) -> None:
    """A JSON value for `recall`; where nothing can be written, it will be found out again."""
    _known[kind, key] = value
    path = place(kind, key)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"key": key, "value": value}))
        os.replace(part, path)


def found_out(kind: str, key: str, find: Callable[[], Any]) -> Any:
    """The JSON value remembered under this key, found out first where there is none."""
    value = recall(kind, key)
    if value is None:
        with alone(place(kind, key)):
            value = recall(kind, key)
            if value is None:
                value = find()
                remember(kind, key, value)
    return value


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within, no other process of this machine is within for the same path in the cache folder: it waits.

    Where nothing can be locked nobody waits.
    """
    lock = None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_WRONLY, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)  # processes forked within have the descriptor too
            os.close(lock)


def place(kind: str, key: str) -> Path:
    """The file of what is remembered under this key."""
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()  # names of files are in whatever coding
    return cache_folder() / kind / f"{name[:32]}.json"
