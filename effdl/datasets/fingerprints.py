"""Checksums of files, which are read again only once a file has changed."""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from effdl.cache import alone, place, recall, remember
from effdl.datasets.files import reading
from effdl.datasets.waiting import watched

RACY_S = 2.0  # file systems' clocks tick in up to two seconds: a file so young may change once more without a trace


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
    with alone(place("fingerprints", key)):
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
