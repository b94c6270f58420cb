"""Toy problems of the theses, drawn from their formulas; inputs are left as they are drawn."""

import math
from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from effdl.datasets.dataset import Dataset, Facts, Scaling
from effdl.datasets.split import Regions, Samples
from effdl.rng import seed_for
from effdl.setting import Count, NonNegative, Positive, Share, setting

DRAW = 0  # the data are one fixed draw; the run's seed does not move them


@setting
class Toy(Dataset):
    """A problem that is a formula: as many test samples as training samples, drawn by themselves.

    samples: of each split, 5,000 in chapter 7, which prints training numbers; the test split is effdl's.
    """

    formula: ClassVar[str]

    samples: Count = 5000
    scaling: Scaling = "none"

    @property
    def test_size(self) -> int:
        return self.samples

    @abstractmethod
    def draw(self, generator: Generator) -> Samples:
        """``samples`` of them."""

    def fingerprint(self) -> str:
        return f"formula: {self.formula}, {self.samples} samples"

    def load(self) -> tuple[Samples, Samples]:
        def part(name: str) -> Samples:
            return self.draw(Generator().manual_seed(seed_for(DRAW, f"{self.snake_name()}-{name}")))

        return part("train"), part("test")


def two_classes(toy: Toy) -> Facts:
    """Two classes in the plane, told by the sign of one output (§7.2.3: y ∈ {−1, +1})."""
    return Facts((2,), "classes", 1, *toy.split_sizes(toy.samples), toy.samples, toy.batch_size)


def uniform(samples: int, low: float, high: float, generator: Generator) -> Tensor:
    """(samples, 2), uniform in a square."""
    return torch.rand(samples, 2, generator=generator) * (high - low) + low


@setting
class Sine(Toy):
    """y = sin 2πx, two periods with x uniform on (−1, 1) (thesis §7.5): real targets, shapes x (N, 1), y (N, 1)."""

    formula: ClassVar[str] = "sin 2 pi x"
    numerics_version: ClassVar[int] = 2  # of 1, inputs were standardised by default

    def facts(self) -> Facts:
        return Facts((1,), "vectors", 1, *self.split_sizes(self.samples), self.samples, self.batch_size, (-1.0, 1.0))

    def draw(self, generator: Generator) -> Samples:
        x = torch.rand(self.samples, 1, generator=generator) * 2 - 1
        return Samples(x, (2 * math.pi * x).sin())


@setting
class TwoSpirals(Toy):
    """Two spirals wound around each other, one class each (§7.6, fig. 7.8): points t(cos t, sin t) and their reflections.

    t lies between 0 and 2π·turns, such that points are evenly dense along both arms, and all is scaled into a disc.

    turns: of each arm. radius: of the disc. noise: standard deviation of what is added to both coordinates. The thesis prints
    none of them.
    """

    formula: ClassVar[str] = "two spirals, t (cos t, sin t)"

    turns: Positive = 2.25
    radius: Positive = 1.0
    noise: NonNegative = 0.0

    def facts(self) -> Facts:
        return two_classes(self)

    def draw(self, generator: Generator) -> Samples:
        t = 2 * math.pi * self.turns * torch.rand(self.samples, 1, generator=generator).sqrt()
        y = torch.arange(self.samples) % 2
        arms = torch.cat([t * t.cos(), t * t.sin()], 1) * (1 - 2 * y)[:, None]
        x = arms * (self.radius / (2 * math.pi * self.turns)) + self.noise * torch.randn(self.samples, 2, generator=generator)
        return Samples(x, y)


@setting
class Checkerboard(Toy):
    """The colour of the square of a board that a point lies on (§5.4.2, §7.7): points uniform on (−½, ½)², without noise.

    squares: along each side.
    """

    formula: ClassVar[str] = "checkerboard"

    squares: Count = 8

    def facts(self) -> Facts:
        return two_classes(self)

    def draw(self, generator: Generator) -> Samples:
        return self.coloured(uniform(self.samples, -0.5, 0.5, generator))

    def coloured(self, x: Tensor) -> Samples:
        """Points (N, 2) with the colours of their squares."""
        return Samples(x, colours(x, self.squares))


def colours(x: Tensor, squares: int) -> Tensor:
    """(N,) 0 or 1 by turns, of points (N, 2) of a board of side 1 around the origin with so many squares along each side."""
    return ((x + 0.5) * squares).long().clamp_max(squares - 1).sum(1) % 2


@setting
class CheckerboardOffDiagonals(Checkerboard):
    """A checkerboard without the points near its diagonals, "other strategies" in §5.4.2's words; uniform elsewhere.

    width: how far from a diagonal points begin, below 0.5 / √2.
    """

    formula: ClassVar[str] = "checkerboard off its diagonals"

    width: Annotated[float, Field(gt=0, le=0.3)] = 0.05

    def draw(self, generator: Generator) -> Samples:
        found, wanted = list[Tensor](), self.samples
        while wanted > 0:
            x = uniform(2 * self.samples, -0.5, 0.5, generator)
            away = torch.stack([x[:, 0] - x[:, 1], x[:, 0] + x[:, 1]]).abs().amin(0) / math.sqrt(2)
            found.append(x[away >= self.width][:wanted])
            wanted -= len(found[-1])
        return self.coloured(torch.cat(found))


@setting
class TwoFrequencyBoard(Toy):
    """A checkerboard of many squares in its left half and of few in its right one (§8.3.2): points in (−½, ½)², without noise.

    squares_left, squares_right: along each side of a board of that kind, of which a half is seen: even, so that no square is
        cut. The thesis has "many many" and "very few".
    left_share: of the samples that lie left, uniform there, as the others are in the right half: 0.5 is the same density
        everywhere; with squares_left² / (squares_left² + squares_right²) each square has as many.

    Its regions are "left" and "right".
    """

    formula: ClassVar[str] = "checkerboard of two frequencies"

    squares_left: Annotated[Count, Field(multiple_of=2)] = 16
    squares_right: Annotated[Count, Field(multiple_of=2)] = 4
    left_share: Share = 0.5

    def facts(self) -> Facts:
        return two_classes(self)

    def draw(self, generator: Generator) -> Samples:
        x = uniform(self.samples, -0.5, 0.5, generator)
        left = torch.arange(self.samples) < round(self.samples * self.left_share)
        x[:, 0] = torch.where(left, -1, 1) * x[:, 0].abs()
        return self.coloured(x[torch.randperm(self.samples, generator=generator)])

    def coloured(self, x: Tensor) -> Samples:
        """Points (N, 2) with the colours of their squares and the halves that they lie in; the line between is the right's."""
        right = x[:, 0] >= 0
        y = torch.where(right, colours(x, self.squares_right), colours(x, self.squares_left))
        return Samples(x, y, regions=Regions(("left", "right"), right.long()))


@setting
class Separable(Toy):
    """Two classes on both sides of a line through the origin, points uniform in the unit disc (fig. 7.12).

    angle: of the line's normal, in degrees. margin: how far from the line all points are.
    """

    formula: ClassVar[str] = "separable by a line in the unit disc"

    angle: NonNegative = 30.0
    margin: NonNegative = 0.1

    def facts(self) -> Facts:
        return two_classes(self)

    def draw(self, generator: Generator) -> Samples:
        radius = torch.rand(self.samples, generator=generator).sqrt()
        turn = 2 * math.pi * torch.rand(self.samples, generator=generator)
        x = torch.stack([radius * turn.cos(), radius * turn.sin()], 1)
        normal = torch.tensor([math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))])
        side = (x @ normal).sign()
        return Samples(x + self.margin * side[:, None] * normal, (side > 0).long())


@setting
class Sinusoidal(Toy):
    """Two classes above and below a sine curve, points uniform on (−1, 1)² (fig. 7.13).

    amplitude, periods: of the curve amplitude·sin(π·periods·x₁). flipped: how likely a label is the other one, up to 0.5; of
    such labels the entropy given the point is known, h(flipped) bits.
    """

    formula: ClassVar[str] = "separable by a sine curve"

    amplitude: Positive = 0.4
    periods: Positive = 2.0
    flipped: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    def facts(self) -> Facts:
        return two_classes(self)

    def draw(self, generator: Generator) -> Samples:
        x = uniform(self.samples, -1.0, 1.0, generator)
        above = x[:, 1] > self.amplitude * (math.pi * self.periods * x[:, 0]).sin()
        if self.flipped > 0:
            above = above != (torch.rand(self.samples, generator=generator) < self.flipped)
        return Samples(x, above.long())
