"""A split whose inputs lie in a file, a row a sample: no more of them is in memory than is asked for."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.moments import Moments, moments
from effdl.datasets.split import Samples, Split
from effdl.errors import RecordError, disk_errors

CHUNK = 256  # rows that are read at a time where all are


class Rows(Split):
    """Inputs (N, *input) in a file without a name, which goes with this object, or with its process however that ends.

    Args:
        folder: on the disk where it is to lie.
        like: (1, *input), of the kind, layout and device that inputs have.
        chunks: of them, in order, (n, *input) each.
        y: (N,) or (N, K) targets.

    Raises:
        RecordError: the disk is full, or not to be written to; nothing is left there then.
    """

    def __init__(self, folder: Path, like: Tensor, chunks: Iterable[Tensor], y: Tensor) -> None:
        self.y, self._device, self._dtype, self._path = y, like.device, like.dtype, folder / "features"
        self._last = like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
        self._form = tuple(self._as_stored(like).shape[1:])
        self._row = like[0].numel() * like.element_size()
        self._at = torch.arange(len(y))  # the row of each sample
        with disk_errors(self._path):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        for chunk in chunks:
            data = _bytes(self._as_stored(chunk).detach().cpu().flatten().view(torch.uint8))
            with disk_errors(self._path):
                self._file.write(data)
        with disk_errors(self._path):
            self._file.flush()

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return len(self._at) * self._row

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self._form[-1], *self._form[:-1]) if self._last else self._form

    def take(self, index: Tensor) -> "Rows":
        taken = copy(self)
        taken.y, taken._at = self.y[index], self._at[index.cpu()]
        return taken

    def to(self, device: torch.device) -> "Rows":
        moved = copy(self)
        moved.y, moved._device = self.y.to(device), device
        return moved

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        for index in indices:
            yield Batch(self._read(self._at[index.cpu()]), self.y[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        return self.gather(torch.arange(len(self), device=self.y.device).split(size) if len(self) else ())

    def moments(self, by_pixel: bool = False) -> Moments:
        return moments((batch.x for batch in self.batches(CHUNK)), by_pixel)

    def reading_seconds(self, samples: int) -> float:
        return 0.0

    def tensors(self) -> Samples:
        return Samples(torch.cat([batch.x for batch in self.batches(CHUNK)]), self.y)

    def forget_copies(self) -> None:
        """Write all to the disk itself, and ask the system to forget what it has of it in memory."""
        with disk_errors(self._path):
            os.fsync(self._file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _as_stored(self, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) if self._last else x).contiguous()

    def _read(self, at: Tensor) -> Tensor:
        """The inputs of these rows, on the device."""
        data = torch.empty(len(at) * self._row, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        whole, place = _bytes(data), 0
        for first, count in _runs(at.tolist()):
            self._fill(whole[place : place + count * self._row], first * self._row)
            place += count * self._row
        x = data.view(self._dtype).view(len(at), *self._form).to(self._device)
        return x.permute(0, 3, 1, 2) if self._last else x

    def _fill(self, view: memoryview, start: int) -> None:
        while len(view):
            with disk_errors(self._path):
                read = os.preadv(self._file.fileno(), [view], start)
            if not read:
                raise RecordError(f"{self._path}: features that were kept on disk are cut off; run the same command again")
            view, start = view[read:], start + read


def _bytes(data: Tensor) -> memoryview:
    array: Any = data.numpy()
    return memoryview(array)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, how many) of consecutive ones, in their order."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[start], place - start
            start = place
