"""Random data on which rules of learning are told apart (Demirbilek §1.2 and §3.2): clusters, and a linear map."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from effdl.datasets.dataset import Dataset, Facts, Scaling
from effdl.datasets.split import Samples
from effdl.datasets.toy import Toy
from effdl.rng import seed_for
from effdl.setting import Count, NonNegative, Size, Switch, setting


def centres(side: int) -> Tensor:
    """(side², 2): the grid whose points have coordinates Δ(1 + 3p) − ½ on both axes, p = 0 … side − 1, Δ = 1/(3·side − 1)."""
    delta = 1 / (3 * side - 1)
    along = delta * (1 + 3 * torch.arange(side)) - 0.5
    return torch.cartesian_prod(along, along)


def labels(side: int, generator: Generator) -> Tensor:
    """(side²,) of 0 and 1: half of the clusters, drawn at random, rounded down, are of class 0."""
    y = torch.ones(side**2, dtype=torch.long)
    y[torch.randperm(side**2, generator=generator)[: side**2 // 2]] = 0
    return y


@setting
class Clusters(Dataset):
    """Discs on a grid in two of d dimensions, each of one class; the class on one logistic output.

    x = (1, centre + r (cos t, sin t), d − 3 numbers uniform on (−½, ½)) with t uniform on [0, 2π), r uniform on [0, Δ], and
    `centres` and Δ as there; each sample's cluster is drawn uniformly. Source: Chizat, Oyallon and Bach 2019, experiments with
    random data, as Demirbilek set them up for §3.2, which his text leaves out: 3×3 clusters, 4,000 test samples, full batches,
    error against n from 32 to 512 where d = 15, and against d from 5 to 25 where n = 256.

    samples: n, to train on; ``val_size`` more are drawn to choose by. test_samples: to measure on. dimensions: d.
    side: of the grid. balanced: as many clusters of each class, which an odd number of them cannot have; the author has four
    of nine in class 0.
    data_seed: another one draws all anew, which cluster has which class too; the run's seed does not move them.
    """

    samples: Count = 256
    test_samples: Count = 4000
    dimensions: Annotated[int, Field(strict=True, ge=3)] = 15
    side: Annotated[int, Field(strict=True, ge=2)] = 3
    balanced: Switch = False
    data_seed: Size = 0
    batch_size: Count = 256
    scaling: Scaling = "none"

    def __post_init__(self) -> None:
        if self.balanced and self.side % 2:
            raise ValueError(
                f"dataset.balanced: {self.side}×{self.side} are an odd number of clusters, of which no half has one class: "
                "an even dataset.side, or dataset.balanced=false"
            )

    @property
    def test_size(self) -> int:
        return self.test_samples

    def facts(self) -> Facts:
        train, val = self.split_sizes(self.samples + self.val_size)
        return Facts((self.dimensions,), "classes", 1, train, val, self.test_samples, self.batch_size)

    def fingerprint(self) -> str:
        return "formula: clusters on a grid"

    def load(self) -> tuple[Samples, Samples]:
        y = labels(self.side, self._stream("labels"))
        sizes = {"train": self.samples + self.val_size, "test": self.test_samples}
        train, test = (self._drawn(count, y, self._stream(part)) for part, count in sizes.items())
        return train, test

    def _stream(self, part: str) -> Generator:
        return Generator().manual_seed(seed_for(self.data_seed, f"clusters-{part}"))

    def _drawn(self, count: int, y: Tensor, generator: Generator) -> Samples:
        cluster = torch.randint(len(y), (count,), generator=generator)
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        radius = torch.rand(count, generator=generator) / (3 * self.side - 1)
        point = centres(self.side)[cluster] + radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        spurious = torch.rand(count, self.dimensions - 3, generator=generator) - 0.5
        return Samples(torch.cat([torch.ones(count, 1), point, spurious], 1), y[cluster])


@setting
class LinearMap(Toy):
    """y = T x for a matrix T uniform on (−1, 1) and x of independent normal numbers, with as many outputs as T has rows.

    The linear problem on which feedback alignment was first shown (Lillicrap et al. 2016, there 30 inputs and 10 outputs, and
    a network with 20 linear units between them); §1.2 of Demirbilek says that there it is as good as backpropagation.

    inputs, targets: columns and rows of T. noise: standard deviation of what is added to each target. data_seed: another one
    draws another T.
    """

    formula: ClassVar[str] = "linear map"

    inputs: Count = 30
    targets: Count = 10
    noise: NonNegative = 0.0
    data_seed: Size = 0

    def facts(self) -> Facts:
        sizes = self.split_sizes(self.samples)
        return Facts((self.inputs,), "vectors", self.targets, *sizes, self.samples, self.batch_size)

    def draw(self, generator: Generator) -> Samples:
        of_map = Generator().manual_seed(seed_for(self.data_seed, "linear-map"))
        t = 2 * torch.rand(self.targets, self.inputs, generator=of_map) - 1
        x = torch.randn(self.samples, self.inputs, generator=generator)
        return Samples(x, x @ t.T + self.noise * torch.randn(self.samples, self.targets, generator=generator))
