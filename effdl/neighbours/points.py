"""Points: samples whose Euclidean distances are exact where it matters, and bounded where a matrix product is enough.

Everywhere here the distance of two samples is that of their features as float64 gives it: differences of the stored values,
their squares, summed in one fixed order, so that equal differences have equal distances on any machine. Of equal distances the
sample with the lower index is the nearer.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DOUBLE = 2.0**-53  # unit roundoff of float64
LARGEST = 1e150  # squares of more do not add up in float64
TINY = 1e-30  # of squared distances at scale 1: what is lost where numbers are too small for float32, many times over
NUMBERS = 2**16  # in float64 that are worked on at once: they stay in a processor's cache


@dataclass(frozen=True, eq=False)
class Points:
    """n samples of d features in an order, moved to their middle and scaled by a power of two: huge offsets cost no digits.

    x (n, d): as stored. order (n,): the sample at each place; all else is by place. middle (d,), scale: x is seen as
    (x − middle) / scale. squares (n,): |x|² of that, float64. held: it, in ``dtype``, where memory allows; else it is made when
    asked for.
    """

    x: Tensor
    order: Tensor
    middle: Tensor
    scale: float
    squares: Tensor
    dtype: torch.dtype
    held: Tensor | None

    @classmethod
    def of(cls, x: Tensor, memory: int, order: Tensor | None = None) -> "Points":
        """memory: bytes that may be held beyond x. Raises ValueError where a feature is not finite."""
        n, d = x.shape
        order = torch.arange(n, device=x.device) if order is None else order
        least, most, total = _extremes_and_sum(x)
        middle = (total / n).clamp(least, most)
        spread = float((most - least).max())
        scale = 2.0 ** math.ceil(math.log2(spread)) if spread > 0 else 1.0
        dtype = torch.float32 if _single_is_enough(d) else torch.float64
        held = x.new_empty(n, d, dtype=dtype) if n * d * dtype.itemsize <= memory // 2 else None
        points = cls(x, order, middle, scale, x.new_empty(n, dtype=torch.float64), dtype, held)
        step = _rows(d)
        for start in range(0, n, step):
            part = slice(start, start + step)
            wide = points.wide(part)
            torch.linalg.vecdot(wide, wide, out=points.squares[part])
            if held is not None:
                held[part] = wide
        return points

    def __len__(self) -> int:
        return len(self.x)

    @property
    def unit(self) -> float:
        return torch.finfo(self.dtype).eps / 2

    @property
    def slack(self) -> float:
        """β: |x̃ᵢ|² + |x̃ⱼ|² − 2x̃ᵢ·x̃ⱼ, by a matrix product in ``dtype``, is off by β (|xᵢ|² + |xⱼ|²) at most.

        The product's own error is γ_d |xᵢ||xⱼ| in any order of summation (Higham, Accuracy and Stability of Numerical
        Algorithms, §3.1), rounding of x̃ changes a distance by u(|xᵢ| + |xⱼ|), that of norms and sums adds a few units more.
        """
        terms = (self.x.shape[1] + 10) * self.unit
        return 2 * terms / (1 - terms)

    def wide(self, places: Tensor | slice) -> Tensor:
        """Moved and scaled samples in float64."""
        return (self.x[self.order[places]].double() - self.middle) / self.scale

    def values(self, places: Tensor | slice) -> Tensor:
        """The same in ``dtype``."""
        return self.wide(places).to(self.dtype) if self.held is None else self.held[places]

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances (p,) of pairs of places i, j (p,), in float64, of x as stored."""
        found, step = [self.squares.new_empty(0)], max(1, NUMBERS // self.x.shape[1])
        for a, b in zip(self.order[i].split(step), self.order[j].split(step), strict=True):
            found.append(self._folded(self.x[a].double() - self.x[b].double()))
        return torch.cat(found)

    @staticmethod
    def _folded(differences: Tensor) -> Tensor:
        """Sums of squares by halves: additions of whole columns, whose order does not depend on how many pairs there are."""
        squared = differences.square_()
        width = squared.shape[1]
        while width > 1:
            half = (width + 1) // 2
            squared[:, : width - half] += squared[:, half:width]
            width = half
        return squared[:, 0]


def _extremes_and_sum(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least, greatest and sum of each feature, (d,) float64."""
    least = x.new_full(x.shape[1:], torch.inf, dtype=torch.float64)
    most, total = -least, torch.zeros_like(least)
    for part in x.split(_rows(x.shape[1])):
        wide = part.double()
        least, most, total = torch.minimum(least, wide.amin(0)), torch.maximum(most, wide.amax(0)), total + wide.sum(0)
    if not bool(torch.isfinite(most - least).all()):
        raise ValueError("x has features that are NaN or infinite: drop or mend these samples first")
    if float(torch.maximum(most, -least).max()) > LARGEST:
        raise ValueError(f"x has features beyond {LARGEST:g}, whose distances are beyond float64: scale them down")
    return least, most, total


def _rows(features: int) -> int:
    return max(1, NUMBERS // features)


def _single_is_enough(features: int) -> bool:
    """Whether float32 bounds say anything; where products may be of less than float32, they do not hold."""
    return features < 2**17 and torch.get_float32_matmul_precision() == "highest"


def lower(dots: Tensor, first: Tensor, second: Tensor, slack: float) -> Tensor:
    """Lower bounds (a, b) of squared distances from inner products, which it overwrites, and squared norms (a,), (b,)."""
    a, b = (((1 - slack) * squares - TINY).to(dots.dtype) for squares in (first, second))
    return dots.mul_(-2).add_(a[:, None]).add_(b)


def upper(bounds: Tensor, first: Tensor, second: Tensor, slack: float) -> Tensor:
    """Upper bounds of squared distances from `lower` ones, in float64; all of one shape, or as they broadcast."""
    return bounds.double() + 2.1 * slack * (first + second) + 4 * TINY
