"""Parity of digits (Demirbilek §2.1, after Daniely and Malach 2020): is the sum of k of them, side by side, odd?"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Dataset, Facts
from effdl.datasets.digits import Digits
from effdl.datasets.idx import Idx
from effdl.datasets.moments import Moments, moments, parts
from effdl.datasets.split import Samples, Split
from effdl.datasets.splitting import check_split
from effdl.errors import DataError
from effdl.setting import Count, Size, Switch, setting

VARIANTS: dict[str, Literal["MNIST", "FashionMNIST", "KMNIST"]] = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
}


def beside(images: int, k: int, seed: int) -> Tensor:
    """(k, images) which images of a pool stand in each sample, from left to right: first image i in sample i, then one out of
    each of k − 1 independent permutations of the pool. In a random order of samples the first is a permutation as well."""
    generator = Generator().manual_seed(seed)
    permutations = [torch.randperm(images, generator=generator) for _ in range(k - 1)]
    return torch.stack([torch.arange(images), *permutations])


def parity(digits: Tensor) -> Tensor:
    """Whether the sum of each column of (k, B) digits is odd: (B,) of 0 and 1."""
    return digits.sum(0) % 2


class SideBySide(Split):
    """As many samples as a pool has images, each of k of them in a row; ``y`` is 1 where the sum of their labels is odd.

    A batch is put together when it is asked for, where the pool lies, which takes no longer than to read it out of images that
    were stored in rows. With k > 1 each epoch has other rows of the same pool. What is taken of it is a pool of its own,
    whose images stand beside one another alone.

    Args:
        images: (N, C, H, W) of the pool. labels: (N,).
        k: how many images a sample has; it is (C, H, kW).
        in_order: where k is 1, every epoch goes through the pool in its own order.
        seed: of the permutations. Before `epoch` it is the same for all.
    """

    def __init__(self, images: Tensor, labels: Tensor, k: int, in_order: bool = False, seed: int = 0) -> None:
        self.images, self.labels, self.k, self.seed, self._in_order = images, labels, k, seed, in_order
        self.places = beside(len(labels), k, seed).to(labels.device)
        self.y = parity(labels[self.places])

    @property
    def input_shape(self) -> tuple[int, ...]:
        channels, height, width = self.images.shape[1:]
        return channels, height, self.k * width

    @property
    def strata(self) -> Tensor:
        return self.labels

    def singles(self) -> Samples:
        return Samples(self.images, self.labels)

    @property
    def in_order(self) -> bool:
        return self._in_order and self.k == 1

    @property
    def changes(self) -> bool:
        return self.k > 1

    def epoch(self, number: int, seed: int) -> "SideBySide":
        return SideBySide(self.images, self.labels, self.k, self._in_order, seed) if self.changes else self

    def take(self, index: Tensor) -> "SideBySide":
        """A pool of the images at these positions, in the order in which they are stored if that order counts."""
        if self.in_order and index.dtype != torch.bool:
            index = index.sort().values
        return SideBySide(self.images[index], self.labels[index], self.k, self._in_order)

    def to(self, device: torch.device) -> "SideBySide":
        return SideBySide(self.images.to(device), self.labels.to(device), self.k, self._in_order, self.seed)

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        for index in indices:
            yield Batch(self._rows(index), self.y[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        return self.gather(torch.arange(len(self), device=self.y.device).split(size) if len(self) else [])

    def moments(self, by_pixel: bool = False) -> Moments:
        """Those of the pool, whose every image stands once at each place."""
        found = moments(parts(self.images), by_pixel)
        if not by_pixel:
            return found
        return Moments(found.mean.repeat(1, 1, self.k), found.std.repeat(1, 1, self.k), found.highest)

    def reading_seconds(self, samples: int) -> float:
        return 0.0

    def tensors(self) -> Samples:
        return Samples(self._rows(torch.arange(len(self), device=self.y.device)), self.y)

    def _rows(self, index: Tensor) -> Tensor:
        """(B, C, H, kW): the samples at these positions."""
        return torch.cat([self.images.index_select(0, places) for places in self.places[:, index]], -1)


@setting
class Parity(Dataset):
    """k images of digits side by side; the class, on one logistic output, is the parity of the digits' sum (§2.1).

    There are as many samples as images, and each image stands once at each of the k places: samples come about by k independent
    permutations. Training and validation images are two parts of the set's training images, and neither stands beside one of
    the other, nor beside a test image. With k > 1

    - training samples are made anew in each epoch, from the run's seed and the epoch's number;
    - test samples are made anew for each measurement, as the author did: after an epoch from the run's seed, the segment and
      the epoch in it, and once more for the finished network from the run's seed alone, so that a run that was cut off measures
      the same, two methods with one seed are measured alike, and test/acc differs from the epoch's line by that draw;
    - validation samples, which the author had none of, are made once and stay: all choices are made by the same samples.

    k: the thesis has 1 and 3. digits: whose images: MNIST and its like (their ten classes count as digits) under ``root``, or
    "digits", those of scikit-learn, which need no file.
    order: of an epoch. "stored" keeps the set's own where k is 1, as the author's loader did; where k > 1 both are random.
    val_size: images held out, 5,000 by default and of scikit-learn's digits 242. root, download: see `Files`.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root", "download"})

    k: Count = 3
    digits: Literal["mnist", "fashion_mnist", "kmnist", "digits"] = "mnist"
    order: Literal["random", "stored"] = "random"
    val_size: Size | None = None  # type: ignore[assignment]  # a number as soon as it is made
    root: str | None = None
    download: Switch = False

    def __post_init__(self) -> None:
        if self.val_size is None:
            object.__setattr__(self, "val_size", type(self._pool()).val_size)
        if self.scaling == "mnist" and self.digits == "digits":
            raise ValueError(
                "dataset.scaling=mnist is for pixels from 0 to 255, scikit-learn's digits have 0 to 16: channel fits"
            )

    @property
    def test_size(self) -> int | None:
        return self._pool().test_size

    @property
    def draws(self) -> tuple[str, ...]:
        return (*super().draws, *(("samples of each epoch",) if self.k > 1 else ()))

    def facts(self) -> Facts:
        pool = self._pool().facts()
        channels, height, width = pool.input_shape
        train, val = self.split_sizes(pool.train)
        for count, which in ((train, "training"), (val, "validation"), (pool.test, "test")):
            if 0 < count < self.k:
                raise DataError(
                    f"dataset.k={self.k} images side by side are more than the {count} {which} images: dataset.k={count} at "
                    "most, or other dataset.val_size and dataset.train_limit"
                )
        shape = (channels, height, self.k * width)
        return Facts(shape, "classes", 1, train, val, pool.test, self.batch_size, changes=self.k > 1)

    def fingerprint(self) -> str:
        return self._pool().fingerprint()

    def load(self) -> tuple[SideBySide, SideBySide]:
        pool, in_order = self._pool(), self.order == "stored"
        train, test = pool.load()
        check_split(pool, pool.facts(), train, (train, train.take(train.y[:0]), test))
        return SideBySide(train.x, train.y, self.k, in_order), SideBySide(test.x, test.y, self.k, in_order)

    def _pool(self) -> Digits | Idx:
        """The set of single images, none of them held out."""
        if self.digits == "digits":
            return Digits(val_size=0)
        return Idx(variant=VARIANTS[self.digits], val_size=0, root=self.root, download=self.download)
