"""Objectives whose output units learn real targets: two values for classes and for pixels, or reals (thesis §4.3)."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor

from effdl.objectives.objective import Objective, TargetKind, kind_of
from effdl.objectives.simplex import onto_simplex
from effdl.objectives.slopes import with_slopes
from effdl.setting import Real


def _ascending(targets: tuple[float, float]) -> tuple[float, float]:
    if targets[0] >= targets[1]:
        raise ValueError("two ascending values, what other outputs and what the class's own are to be, such as [0, 2]")
    return targets


Targets = Annotated[tuple[Real, Real], AfterValidator(_ascending)]


class Coded(Objective, ABC):
    """A loss that is a sum over outputs a, each with a target t and a slope ∂ℓ/∂a of its own.

    targets: (low, high), what other outputs and what the class's own are to be. Where the slope is y − t, units y come to the
        mean of their targets, which is low + (high − low) times the class's probability.
    """

    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes", "vectors", "pixels"})
    targets: tuple[float, float]

    @abstractmethod
    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        """Losses (B, ...) and slopes ∂ℓ/∂x, new, of outputs x (B, K, ...) in float32 or float64 and targets y (B, ...) or
        (B, K). most: of the dtype in which slopes will be kept the largest number. Called without gradients."""

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        """∂ℓ/∂a (B, K, ...), to be differentiated: y − t, the canonical gradient (§4.3)."""
        return self.units(outputs) - self.targets_of(y, outputs)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if kind_of(y) == "pixels":
            return self.of_images(with_slopes(self, outputs, y), y)
        return self.of_samples(outputs, y)

    def of_samples(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss where outputs are (B, K)."""
        return with_slopes(self, outputs, y)

    def low_high(self, outputs: Tensor) -> tuple[float, float]:
        """The targets of so many outputs: a single one, of which the sign tells two classes, has ±high."""
        low, high = self.targets
        return (-high, high) if outputs.shape[1] == 1 else (low, high)

    def targets_of(self, y: Tensor, like: Tensor) -> Tensor:
        """The targets of the output units, (B, K, ...) in the dtype of ``like``."""
        return one_hot(y, like, *self.low_high(like))

    def coded(self, y: Tensor, like: Tensor) -> Tensor | None:
        return self.targets_of(y, like)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The closest point of the simplex to (y − low) / (high − low), see `targets`."""
        low, high = self.low_high(outputs)
        found = (self.units(outputs) - low) / (high - low)
        if found.shape[1] == 1:
            return torch.cat([1 - found.clamp(0, 1), found.clamp(0, 1)], 1)
        return onto_simplex(found)


def one_hot(y: Tensor, like: Tensor, low: float, high: float) -> Tensor:
    """Targets, (B, K, ...) in the dtype of ``like``: ``high`` at the class and ``low`` elsewhere; real targets pass through.

    One output, of which the sign tells two classes, gets ``low`` for the first and ``high`` for the second. Pixels that are
    ignored are as those of the first class.
    """
    if kind_of(y) == "vectors":
        return y.to(like.dtype)
    if kind_of(y) == "pixels":
        y = y.masked_fill(y == Objective.ignore_index, 0)
    if like.shape[1] == 1:
        return y.unsqueeze(1).to(like.dtype).mul_(high - low).add_(low)
    if kind_of(y) == "pixels":
        return torch.full_like(like, low, requires_grad=False).scatter(1, y.unsqueeze(1), high)
    return F.one_hot(y, like.shape[1]).to(like.dtype).mul_(high - low).add_(low)


def correlation(v: Tensor, y: Tensor, low: float, high: float) -> Tensor:
    """Σ_k t_k v_k of values v (B, K, ...), (B, ...), for targets as `one_hot` makes them, which takes no tensor of these."""
    if kind_of(y) == "vectors" or v.shape[1] == 1:
        return (one_hot(y, v, low, high) * v).sum(1)
    found = v.gather(1, y.unsqueeze(1)).squeeze(1).mul_(high - low)
    return found if low == 0 else found.add_(v.sum(1), alpha=low)


def less_targets(units: Tensor, y: Tensor, low: float, high: float) -> Tensor:
    """y − t of units (B, K, ...), in their place."""
    if kind_of(y) == "vectors" or units.shape[1] == 1:
        return units.sub_(one_hot(y, units, low, high))
    index = y.unsqueeze(1)
    less = units.new_full((1,) * units.dim(), low - high).expand_as(index)
    return (units if low == 0 else units.sub_(low)).scatter_add_(1, index, less)
