"""Images that are decoded when they are needed, by worker processes; whole beforehand where they fit in memory."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effdl.datasets.batch import Batch
from effdl.datasets.decoding import Pixels
from effdl.datasets.moments import Moments, moments
from effdl.datasets.split import Samples, Split
from effdl.datasets.waiting import watched
from effdl.errors import DataError, one_line

CHUNK = 64  # images that a worker decodes at once where nothing else says how many
# Named, since in a sweep's process the default is another, with which each worker takes seconds to import torch anew.
FORK = "fork" if sys.platform == "linux" else None
SOME = 16  # images that tell how long decoding takes
CPU = torch.device("cpu")

Unreadable = tuple[int, str]  # an image's position in its source, and what is wrong with it


class Lost(str):
    """Why a file did not come off the disk, which says nothing about what is in it: the next time it may."""

    __slots__ = ()


class Source(Protocol):
    """Image files by position; goes to worker processes, so it is small or shared, and can be pickled."""

    def read(self, position: int) -> bytes:
        """The bytes of an image file."""

    def name(self, position: int) -> str:
        """What to call it in an error."""


class Decodes(Protocol):
    """From the bytes of a file to values of one shape; goes to worker processes too."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what it makes."""

    def __call__(self, data: bytes) -> Pixels:
        """Raises ValueError, or whatever its library does, for bytes that are no whole file of the kind."""


@dataclass(frozen=True)
class Images(Dataset[tuple[Tensor, list[Unreadable]]]):
    """Image files and what is made of them; what a worker has. advice: what to do where some cannot be read."""

    source: Source
    decoder: Decodes
    only_check: bool = False
    advice: str = "mend or delete what is damaged, or dataset.unreadable=skip leaves it out"

    def __getitem__(self, positions: "np.ndarray") -> tuple[Tensor, list[Unreadable]]:
        """Images at these positions (N, C, H, W), none where they are only checked, and those that cannot be read."""
        pixels = np.empty((0 if self.only_check else len(positions), *self.decoder.shape), np.uint8)
        unreadable: list[Unreadable] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, which warns of images that it decodes all the same
            for place, position in enumerate(positions.tolist()):
                found = self._decoded(position, unreadable)
                if found is not None and not self.only_check:
                    pixels[place] = found
        return torch.from_numpy(pixels), unreadable

    def _decoded(self, position: int, unreadable: list[Unreadable]) -> "np.ndarray | None":
        """The pixels of one image, else why there are none."""
        content = None
        try:
            content = self.source.read(position)
            return self.decoder(content)
        except MemoryError:
            raise
        except Exception as error:  # of a damaged file Pillow may raise anything
            of_disk = content is None and isinstance(error, OSError)
            unreadable.append((position, Lost(one_line(error)) if of_disk else one_line(error)))
            return None

    def decoded(
        self, parts: Sequence["np.ndarray"], workers: int, pinned: bool = False
    ) -> Iterator[tuple[Tensor, list[Unreadable]]]:
        """What `__getitem__` gives for each part, in this order, by worker processes that run ahead by two parts each."""
        workers = min(workers, len(parts)) if len(parts) > 1 else 0
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=parts,
                num_workers=workers,
                multiprocessing_context=FORK if workers else None,
                generator=torch.Generator(),  # else it would draw from the global one
                worker_init_fn=_begin,
                pin_memory=pinned,
            )
        )

    def unreadable(self, positions: Sequence[int], workers: int, what: str) -> list[Unreadable]:
        """Those that cannot be decoded, after a look at each. Raises DataError for files that the disk does not give."""
        parts = np.array_split(np.asarray(positions), max(1, -(-len(positions) // CHUNK)))
        found = Images(self.source, self.decoder, only_check=True).decoded(parts, workers)
        bad = [one for _, some in watched(found, len(parts), f"looking through {len(positions):,} {what}") for one in some]
        self._refuse_lost(bad)
        return bad

    def _refuse_lost(self, unreadable: Sequence[Unreadable]) -> None:
        if lost := [one for one in unreadable if isinstance(one[1], Lost)]:
            raise DataError(f"{self.source.name(lost[0][0])} cannot be read: {lost[0][1]} (and {len(lost) - 1:,} more)")

    def refuse(self, unreadable: Sequence[Unreadable], among: int) -> None:
        """Raise a DataError for images that cannot be read, if there are any."""
        self._refuse_lost(unreadable)
        if unreadable:
            position, reason = unreadable[0]
            advice = self.advice
            if len(unreadable) == among:
                advice = "there is no image to train on; are these images, with their bytes and not with paths to them?"
            first = f"first {self.source.name(position)} ({reason})"
            raise DataError(f"{len(unreadable):,} of {among:,} images cannot be read, {first}: {advice}")


class Streamed(Split):
    """Images of a source, decoded anew each time that they are gone through.

    Args:
        images: the source and the rule of decoding.
        positions: (N,) places in the source, on the CPU.
        y: (N,) labels.
        workers: processes that decode, 0 for this one. Nothing but speed depends on it.
        fits: `to` puts all of it into memory, decoded once.
        device: where batches come out.
    """

    def __init__(
        self, images: Images, positions: Tensor, y: Tensor, *, workers: int, fits: bool, device: torch.device = CPU
    ) -> None:
        self.images, self.positions, self.y = images, positions, y.to(device)
        self.workers, self.fits, self.device = workers, fits, device
        self._moments: dict[bool, Moments] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.images.decoder.shape

    def take(self, index: Tensor) -> "Streamed":
        index = index.cpu()
        taken = self.positions[index], self.y.cpu()[index]
        return Streamed(self.images, *taken, workers=self.workers, fits=self.fits, device=self.device)

    def to(self, device: torch.device) -> Split:
        if self.fits:
            return self._whole().to(device)
        return Streamed(self.images, self.positions, self.y, workers=self.workers, fits=False, device=device)

    def check(self, where: str) -> None:
        """Bytes that are decoded by a fixed rule are finite and the same each time."""

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        found = self.images.decoded([self.positions[index.cpu()].numpy() for index in indices], self.workers, self._pinned)
        for index in indices:
            yield Batch(self._arrived(*next(found)), self.y[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        return self.gather(torch.arange(len(self), device=self.device).split(size))

    def moments(self, by_pixel: bool = False) -> Moments:
        """Of all images, which takes a pass through them, once."""
        if by_pixel not in self._moments:
            count = -(-len(self) // CHUNK)
            batches = watched(self.batches(CHUNK), count, f"mean and deviation of {len(self):,} images")
            self._moments[by_pixel] = moments((batch.x for batch in batches), by_pixel)
        return self._moments[by_pixel]

    def find_out(self, agree: Callable[[Callable[[], Moments]], Moments], by_pixel: bool = False) -> None:
        self._moments[by_pixel] = agree(lambda: self.moments(by_pixel))

    def reading_seconds(self, samples: int) -> float:
        tried = self.positions[:SOME].numpy()
        start = time.perf_counter()
        self.images[tried]
        return (time.perf_counter() - start) / len(tried) * samples / max(1, self.workers)

    def tensors(self) -> Samples:
        raise DataError(
            f"this method needs its {len(self):,} training images in memory at once, which do not fit "
            "dataset.memory_mib: raise it, or lower dataset.train_limit or dataset.size"
        )

    def _whole(self) -> Samples:
        """All of it, decoded; every image that cannot be read counts before one is complained of."""
        out = torch.empty(len(self), *self.input_shape, dtype=torch.uint8)
        parts = self.positions.split(CHUNK)
        found = self.images.decoded([part.numpy() for part in parts], self.workers)
        unreadable: list[Unreadable] = []
        for part in watched(out.split(CHUNK), len(parts), f"decoding {len(self):,} images"):
            pixels, some = next(found)
            part.copy_(pixels)
            unreadable += some
        self.images.refuse(unreadable, len(self))
        return Samples(out, self.y)

    def _arrived(self, pixels: Tensor, unreadable: list[Unreadable]) -> Tensor:
        self.images.refuse(unreadable, len(pixels))
        return pixels.to(self.device, non_blocking=self._pinned)

    @property
    def _pinned(self) -> bool:
        return self.device.type == "cuda"


def _begin(worker: int) -> None:
    """A worker leaves an interrupt to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
