"""Tensors in a file, mapped into memory: computed with as they are read, and known to be what was written."""

import hashlib
import mmap
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdl.errors import RecordError, disk_errors

ALIGNED = 64  # bytes, as torch's own memory, so that kernels round alike
PIECE = 8 * 2**20  # bytes that are written or read at a time

_mappings: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()


class TensorFile:
    """Storages one after another in a file, written whole and renamed; it goes with this object.

    Args:
        storages: each as its bytes, uint8 (n,), on any device.

    Raises:
        RecordError: the disk is full, or not to be written to; there is no file then.
    """

    def __init__(self, path: Path, storages: Sequence[Tensor]) -> None:
        self._path = path
        self._spans, end = list[tuple[int, int]](), 0
        for data in storages:
            self._spans.append((end, len(data)))
            end += -(-len(data) // ALIGNED) * ALIGNED
        with disk_errors(path):
            self._digest = _written(path, storages)
        self._ends = weakref.finalize(self, _unlink, path, os.getpid())
        self._seen, self._storages = self._stamp(), self._mapped(end)

    def storages(self) -> list[Tensor]:
        """The mapped file. Whoever changes these changes copies of pages, which `release` forgets."""
        return self._storages

    def read(self) -> list[Tensor]:
        """Copies in memory of what was written. Raises RecordError where it is not."""
        sha, read = hashlib.sha256(), [torch.empty(length, dtype=torch.uint8) for _, length in self._spans]
        with disk_errors(self._path), self._path.open("rb") as file:
            for data in read:
                whole = _bytes(data)
                for start in range(0, len(whole), PIECE):
                    piece = whole[start : start + PIECE]
                    file.readinto(piece)
                    sha.update(piece)
                sha.update(file.read(-len(whole) % ALIGNED))
        self._compare(sha.hexdigest())
        return read

    def look(self) -> None:
        """`check`, where somebody has touched the file since it was compared last; in 2 µs where nobody has."""
        if self._stamp() != self._seen:
            self.check()

    def check(self) -> None:
        """Raise a RecordError where it is not what was written."""
        with disk_errors(self._path), self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._compare(digest)
        self._seen = self._stamp()

    def release(self) -> None:
        """Let go of the pages that were read."""
        if self._map is not None:
            _release(self._map)

    def _stamp(self) -> tuple[int, int, int]:
        with disk_errors(self._path):
            found = self._path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino

    def _compare(self, digest: str) -> None:
        if digest != self._digest:
            raise RecordError(
                f"{self._path} is damaged: it is not what was put away there; run the same command again, which goes on from "
                "the last checkpoint"
            )

    def _mapped(self, length: int) -> list[Tensor]:
        self._map = None
        if not self._spans:
            return []
        with disk_errors(self._path), self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)
        _mappings.add(self._map)
        return [torch.frombuffer(self._map, dtype=torch.uint8, count=count, offset=start) for start, count in self._spans]


def release_pages() -> None:
    """Let go of what was read of all mapped files, for whoever goes through many of them, as a checkpoint does."""
    for mapping in list(_mappings):
        _release(mapping)


def _release(mapping: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _written(path: Path, storages: Sequence[Tensor]) -> str:
    """Write and rename; the digest. Raises OSError, and leaves nothing behind then."""
    part, sha = path.with_name(path.name + ".part"), hashlib.sha256()
    try:
        with part.open("wb") as file:
            for data in storages:
                whole = _bytes(data.cpu())
                padding = memoryview(bytes(-len(whole) % ALIGNED))
                for piece in (*(whole[start : start + PIECE] for start in range(0, len(whole), PIECE)), padding):
                    file.write(piece)
                    sha.update(piece)
                    release_pages()  # what is copied may be a mapped file itself
        os.replace(part, path)
    except BaseException:
        _unlink(part, os.getpid())
        raise
    return sha.hexdigest()


def _bytes(data: Tensor) -> memoryview:
    array: Any = data.numpy()
    return memoryview(array)


def _unlink(path: Path, owner: int) -> None:
    """owner: the process that wrote it; a forked one that ends has no say."""
    if os.getpid() == owner:
        with suppress(OSError):
            path.unlink()
