"""Image bytes in one file of the user's cache folder, from which any of them can be read at once."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdl.cache import alone, cache_folder
from effdl.datasets.waiting import watched
from effdl.errors import DataError, shown


@dataclass(frozen=True)
class Unpacked:
    """Images one after another in a file.

    offsets: (N + 1,), where each begins and the last ends. origins, firsts: for errors, the files that they came from and the
    position of the first image of each.
    """

    path: str
    offsets: "np.ndarray[Any, np.dtype[np.int64]]"
    origins: tuple[str, ...]
    firsts: tuple[int, ...]

    def read(self, position: int) -> bytes:
        start, stop = (int(offset) for offset in self.offsets[position : position + 2])
        if start == stop:
            raise ValueError("there are no image bytes in this row")
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def name(self, position: int) -> str:
        origin = bisect_right(self.firsts, position) - 1
        return f"{shown(self.origins[origin])}, row {position - self.firsts[origin]}"


def unpacked(
    what: str, stamp: str, images: Callable[[], Iterable[bytes]], origins: Sequence[str], rows: Sequence[int]
) -> Unpacked:
    """Images as they lie in the cache folder, written there first where they are not yet.

    Args:
        what: names the set, so that images of an older state of it go.
        stamp: of the files that they come from.
        images: reads them from there, in order.
        origins, rows: those files, and how many images each has.

    Raises:
        DataError: they cannot be written.
    """
    known = hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()[:16]
    folder = cache_folder() / "unpacked"
    content, index = (folder / f"{known}-{stamp[:16]}.{end}" for end in ("bytes", "npy"))
    if not _is_whole(content, index):
        with _writing(folder, sum(map(os.path.getsize, origins))), alone(folder / known):
            folder.mkdir(parents=True, exist_ok=True)
            if not _is_whole(content, index):  # another process may have written it in the meantime
                for old in folder.glob(f"{known}-*"):  # of an older state, and what a killed process has left
                    old.unlink(missing_ok=True)
                _write(content, index, images(), sum(rows), shown(Path(origins[0]).parent))
    firsts = tuple(int(first) for first in np.cumsum([0, *rows[:-1]]))
    return Unpacked(str(content), np.load(index), tuple(origins), firsts)


def _is_whole(content: Path, index: Path) -> bool:
    """Whether both are there, and all images; a cache may be swept."""
    try:
        return content.stat().st_size == int(np.load(index)[-1])
    except (OSError, ValueError):
        return False


def _write(content: Path, index: Path, images: Iterable[bytes], total: int, origin: str) -> None:
    """The index last: where it is, all is there."""
    offsets = [0]
    parts = [path.with_name(f"{path.name}.{os.getpid()}") for path in (content, index)]
    try:
        with parts[0].open("wb") as file:
            for image in watched(images, total, f"copying {total:,} images out of {origin} to {content.parent}"):
                file.write(image)
                offsets.append(offsets[-1] + len(image))
        with parts[1].open("wb") as file:
            np.save(file, np.array(offsets, np.int64))
        for part, path in zip(parts, (content, index), strict=True):
            os.replace(part, path)
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink()


@contextmanager
def _writing(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: {error.strerror or error}; images out of Parquet are copied there, about {size / 2**30:.2g} GiB: "
            "XDG_CACHE_HOME names another place"
        ) from None
