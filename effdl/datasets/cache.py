"""What is slow to find out about files is remembered in a folder of the user's, and asked anew once a file has changed.

Several processes that ask for the same at once, those of a sweep or of torchrun, do not all find it out: one does (`alone`).
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effdl.datasets.files import reading
from effdl.datasets.waiting import watched

_known: dict[tuple[str, str], Any] = {}  # of this process, which may not be able to write
RACY_S = 2.0  # file systems' clocks tick in up to two seconds: a file so young may change once more without a trace


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/effdl, else ~/.cache/effdl. It may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effdl"


def recall(kind: str, key: str) -> Any:
    """What was remembered under this key, or None."""
    if (kind, key) in _known:
        return _known[kind, key]
    try:
        found = json.loads(_place(kind, key).read_text())
    except (OSError, ValueError):
        return None
    return found["value"] if isinstance(found, dict) and found.get("key") == key else None


def remember(kind: str, key: str, value: Any) -> None:
    """A JSON value for `recall`; where nothing can be written, it will be found out again."""
    _known[kind, key] = value
    path = _place(kind, key)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"key": key, "value": value}))
        os.replace(part, path)


def found_out(kind: str, key: str, find: Callable[[], Any]) -> Any:
    """The JSON value remembered under this key, found out first where there is none."""
    value = recall(kind, key)
    if value is None:
        with alone(_place(kind, key)):
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


def _place(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def stamp(folder: Path, files: Sequence[str]) -> tuple[str, float]:
    """A hash over name, size and times of files in a folder, which moves when one changes, and when the last one did.

    The time of the last change of a file's entry counts too: it moves even where a program puts back the time of writing.
    """
    digest, last = hashlib.sha256(), 0.0
    for name in files:
        found = os.stat(folder / name)
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0".encode(errors="surrogateescape"))
        last = max(last, found.st_mtime, found.st_ctime)
    return digest.hexdigest(), last


def fingerprint(folder: Path, files: Sequence[str]) -> str:
    """SHA-256 over names, relative to ``folder``, and SHA-256 of files, in their order; read again only once one changed.

    Raises DataError where a file cannot be read.
    """
    key = f"{folder.resolve()}\0{len(files)}\0{files[0]}\0{files[-1]}"
    if (known := _unchanged(folder, files, key)) is not None:
        return known
    with alone(_place("fingerprints", key)):
        return _unchanged(folder, files, key) or _hashed(folder, files, key)


def _unchanged(folder: Path, files: Sequence[str], key: str) -> str | None:
    """The fingerprint that is remembered of the files as they are."""
    known = recall("fingerprints", key)
    return str(known[1]) if known is not None and known[0] == stamp(folder, files)[0] else None


def _hashed(folder: Path, files: Sequence[str], key: str) -> str:
    begun, (now, last), digest = time.time(), stamp(folder, files), hashlib.sha256()
    for name in watched(files, len(files), f"reading {len(files):,} files of {folder} for their checksum"):
        with reading(folder / name) as file:
            content = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        digest.update(os.fsencode(name) + b"\0" + content)
    if last < begun - RACY_S and stamp(folder, files)[0] == now:
        remember("fingerprints", key, [now, digest.hexdigest()])
    return digest.hexdigest()
