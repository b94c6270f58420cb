"""What is slow to find out about files is remembered in a folder of the user's, and asked anew once a file has changed."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
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
    begun, (now, last) = time.time(), stamp(folder, files)
    known = recall("fingerprints", key)
    if known is not None and known[0] == now:
        return str(known[1])
    digest = hashlib.sha256()
    for name in watched(files, len(files), f"reading {len(files):,} files of {folder} for their checksum"):
        with reading(folder / name) as file:
            content = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        digest.update(os.fsencode(name) + b"\0" + content)
    if last < begun - RACY_S and stamp(folder, files)[0] == now:
        remember("fingerprints", key, [now, digest.hexdigest()])
    return digest.hexdigest()
