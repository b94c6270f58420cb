"""Checksums of files, which are read again only once a file has changed."""

import hashlib
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdl.cache import alone, place, recall, remember
from effdl.datasets.reading import cannot_be_read, reading
from effdl.datasets.waiting import watched
from effdl.errors import shown

RACY_S = 2.0  # file systems' clocks tick in up to two seconds: a file so young may change once more without a trace


def stamp(folder: Path, files: Sequence[str]) -> tuple[str, float]:
    """A hash over name, size and times of files in a folder, which moves when one changes, and when the last one did.

    The time of the last change of a file's entry counts too: it moves even where a program puts back the time of writing.
    """
    digest, last = hashlib.sha256(), 0.0
    for name in files:
        try:
            found = os.stat(folder / name)
        except OSError as error:
            raise cannot_be_read(folder / name, error) from None
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0".encode(errors="surrogateescape"))
        last = max(last, found.st_mtime, found.st_ctime)
    return digest.hexdigest(), last


def checksum(path: Path) -> bytes:
    """SHA-256 of what a file has, unzipped where it is zipped; read again only once it changed.

    Raises DataError where it cannot be read.
    """
    key, begun = str(path.resolve()), time.time()
    known, (now, last) = recall("checksums", key), stamp(path.parent, [path.name])
    if known is None or known["stamp"] != now:
        with reading(path) as file:
            known = {"stamp": now, "digest": hashlib.file_digest(file, "sha256").hexdigest()}  # type: ignore[arg-type]
        if last < begun - RACY_S and stamp(path.parent, [path.name])[0] == now:
            remember("checksums", key, known)
    return bytes.fromhex(known["digest"])


def fingerprint(folder: Path, files: Sequence[str]) -> str:
    """SHA-256 over names, relative to ``folder``, and SHA-256 of files, in their order; read again only once one changed.

    Raises DataError where a file cannot be read.
    """
    return str(_known(folder, files)["digest"])


def twins(folder: Path, files: Sequence[str], train: int) -> Iterator[str]:
    """What to say of files with the same content, of which the first ``train`` are to train on; found with the fingerprint."""
    same = np.array(_known(folder, files)["same"], np.int64).reshape(-1, 2)
    across, within = (same[(same[:, 0] >= train) & (same[:, 1] < train)], same[same[:, 0] < train])

    def first(pairs: "np.ndarray[Any, np.dtype[np.int64]]") -> str:
        return " as ".join(shown(files[place]) for place in pairs[0])

    if len(across):
        yield (
            f"{len(across):,} of {len(files) - train:,} files to test on have the content of one to train on, first "
            f"{first(across)}: what is measured on them is not of new data"
        )
    if len(within):
        yield (
            f"{len(within):,} of {train:,} files of train have the content of another, first {first(within)}: "
            "of such pairs one may train and the other validate"
        )


def _known(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """Digest of the files, and the places of those that have the content of an earlier one, each with that one's."""
    key = f"{folder.resolve()}\0{len(files)}\0{files[0]}\0{files[-1]}"
    if (known := _unchanged(folder, files, key)) is not None:
        return known
    with alone(place("checksums", key)):
        return _unchanged(folder, files, key) or _hashed(folder, files, key)


def _unchanged(folder: Path, files: Sequence[str], key: str) -> dict[str, Any] | None:
    """What is remembered of the files as they are."""
    known: dict[str, Any] | None = recall("checksums", key)
    return known if known is not None and known["stamp"] == stamp(folder, files)[0] else None


def _hashed(folder: Path, files: Sequence[str], key: str) -> dict[str, Any]:
    begun, (now, last), digest = time.time(), stamp(folder, files), hashlib.sha256()
    words = array("Q")  # of each file's checksum the beginning, which of a million files takes 8 MB
    for name in watched(files, len(files), f"reading {len(files):,} files of {shown(folder)} for their checksum"):
        with reading(folder / name) as file:
            content = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        digest.update(os.fsencode(name) + b"\0" + content)
        words.frombytes(content[: words.itemsize])
    known = {"stamp": now, "digest": digest.hexdigest(), "same": _same(np.array(words)).tolist()}
    if last < begun - RACY_S and stamp(folder, files)[0] == now:
        remember("checksums", key, known)
    return known


def _same(words: "np.ndarray[Any, np.dtype[np.uint64]]") -> "np.ndarray[Any, np.dtype[np.int64]]":
    """(P, 2): each place whose value stands at an earlier one too, and the first such."""
    _, first, back = np.unique(words, return_index=True, return_inverse=True)
    pairs: np.ndarray[Any, np.dtype[np.int64]] = np.stack([np.arange(len(words)), first[back]], 1)
    repeated: np.ndarray[Any, np.dtype[np.int64]] = pairs[pairs[:, 0] != pairs[:, 1]]
    return repeated
