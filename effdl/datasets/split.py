"""Samples of a data set: a split of them, and one that lies whole in memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from typing import Any, Self

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.checks import as_labels, check_finite, check_same
from effdl.datasets.moments import Moments, moments, parts

# Positions (B,) of each batch of an epoch, and all targets of that epoch -> positions of each batch that is wanted.
Choose = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Named parts of what inputs may be, such as the halves of a board, and where each sample lies.

    names: of the regions. of: (N,) int64, of each sample the position in ``names`` of its region.
    """

    names: tuple[str, ...]
    of: Tensor

    def take(self, index: Tensor) -> "Regions":
        return Regions(self.names, self.of[index])

    def to(self, device: torch.device) -> "Regions":
        return Regions(self.names, self.of.to(device))


class Split(ABC):
    """Some samples of a data set and their targets ``y``, (N,) or (N, K); how inputs come about, each kind knows by itself.

    regions: where the data set parts its inputs by name, in which part each sample lies; by which probes tell them apart.
    """

    y: Tensor
    regions: Regions | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @abstractmethod
    def take(self, index: Tensor) -> Self:
        """Those at these positions, or where a mask is true."""

    @abstractmethod
    def to(self, device: torch.device) -> "Split":
        """The same with its data on a device; ready to be gone through again and again."""

    @property
    def changes(self) -> bool:
        """Whether its samples are made anew in each epoch: where its class says how, in ``epoch``."""
        return type(self).epoch is not Split.epoch

    @property
    def strata(self) -> Tensor:
        """(N,) of what kind each is, by which splits are drawn class by class: its target, where nothing finer is known."""
        return self.y

    def singles(self) -> "Split":
        """The single images that its samples are put together of, each with what it shows; itself, where they are not."""
        return self

    @property
    def in_order(self) -> bool:
        """Whether every epoch goes through its samples in their own order, and not in a random one of the epoch's own."""
        return False

    def epoch(self, number: int, seed: int) -> "Split":
        """What takes its place in an epoch, as many samples; itself, unless they are made anew from this seed.

        Of test samples that are made anew, each measurement has its own.
        """
        return self

    def check(self, where: str) -> None:
        """Raise a DataError for samples that are others each time that they are gone through. where: "training"."""
        if len(self) and not self.changes:
            once, again = (next(self.gather([torch.zeros(1, dtype=torch.long)])) for _ in range(2))
            for a, b in ((once.x, again.x), (once.y, again.y)):
                check_same(a, b, type(self).__name__, where)

    @abstractmethod
    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """The same each time: one batch for each tensor of positions, in this order; holds no batch that it has yielded."""

    def first(self) -> Tensor:
        """Inputs of the first sample, (1, *input)."""
        return next(self.gather([torch.zeros(1, dtype=torch.long)])).x

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in their own order, for evaluation."""

    @abstractmethod
    def moments(self, by_pixel: bool = False) -> Moments:
        """Of all inputs, see `datasets.moments`."""

    def find_out(self, agree: Callable[[Callable[[], Any]], Any], by_pixel: bool = False) -> None:
        """Learn beforehand what each of several processes would else go through all of it for.

        agree: what one process finds out, on all (`Ranks.agree`). by_pixel: which `moments` will be asked for.
        """
        return

    @abstractmethod
    def reading_seconds(self, samples: int) -> float:
        """What it takes to have so many inputs at hand; 0 where they lie in memory."""

    @abstractmethod
    def tensors(self) -> "Samples":
        """The same, whole in memory. Raises DataError where it does not fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples(Split):
    """A split that lies whole in memory: x (N, *input) and y (N,) or (N, K). Raises DataError where they are not as many."""

    x: Tensor
    y: Tensor
    regions: Regions | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", as_labels(self.x, self.y))

    def check(self, where: str) -> None:
        check_finite(parts(self.x) if len(self) else (), where)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def take(self, index: Tensor) -> "Samples":
        return Samples(self.x[index], self.y[index], regions=self.regions and self.regions.take(index))

    def to(self, device: torch.device) -> "Samples":
        return Samples(self.x.to(device), self.y.to(device), regions=self.regions and self.regions.to(device))

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        x, y = rows_of(self.x), rows_of(self.y)
        for index in indices:
            yield Batch(x(index), y(index), index)

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            index = torch.arange(start, stop, device=self.y.device)
            yield Batch(self.x[start:stop], self.y[start:stop], index)

    def moments(self, by_pixel: bool = False) -> Moments:
        return moments(parts(self.x), by_pixel)

    def reading_seconds(self, samples: int) -> float:
        return 0.0

    def tensors(self) -> "Samples":
        return self


def rows_of(x: Tensor) -> Callable[[Tensor], Tensor]:
    """positions (B,) -> x[positions], the same numbers in the same strides; of samples in plain order copied row by row, which
    takes a half to a fifth of the time."""
    if x.stride() == _plain_strides(x.shape):
        return lambda index: x.index_select(0, index.to(x.device))
    return lambda index: x[index]  # channels last, and stays so


def _plain_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a contiguous tensor; `is_contiguous` overlooks dimensions of size 1, by whose strides layouts are told."""
    return tuple(accumulate((max(1, size) for size in reversed(shape[1:])), mul, initial=1))[::-1]
