"""An embedding of samples in few dimensions that brings none farther apart, for cheap lower bounds of their distances."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.neighbours.points import DOUBLE, TINY, Points

DIMENSIONS = 96
SAMPLED = 2048  # of which the principal directions are found
ROUNDS = 2  # of subspace iteration


@dataclass(frozen=True, eq=False)
class Embedding:
    """``left[i] @ right[j]`` is at most the squared distance of samples i and j, in any precision's rounding."""

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, points: Points, step: int) -> "Embedding":
        """Of samples in the points' order, made ``step`` at a time.

        v = (Qᵀx, |x − QQᵀx|) with orthonormal Q (d, 96), about the principal directions, so that |vᵢ − vⱼ| ≤ |xᵢ − xⱼ|; with
        d ≤ 192, x itself. What rounding may add to a squared distance is taken off the squared norms: a share of both.
        """
        n, d = points.x.shape
        basis = principal_directions(points) if d > 2 * DIMENSIONS else None
        width = d if basis is None else DIMENSIONS + 1
        left, right = (points.x.new_empty(n, width + 2, dtype=points.dtype) for _ in range(2))
        # of v to dtype, and of the residual's norm, a difference of squares, in float64
        rounded = points.unit + (8 * d * DOUBLE) ** 0.5 if basis is not None else points.unit
        share = 2.2 * (width + 8) * points.unit + 4.1 * rounded
        for start in range(0, n, step):
            here = slice(start, min(start + step, n))
            v = _embedded(points, here, basis).to(points.dtype)
            squares = (v.double().square().sum(1) - share * points.squares[here] - TINY).to(points.dtype)
            left[here, :width], right[here, :width] = v, v
            left[here, :width] *= -2
            left[here, width], right[here, width] = squares, 1
            left[here, width + 1], right[here, width + 1] = 1, squares
        return cls(left, right)


def _embedded(points: Points, places: slice, basis: Tensor | None) -> Tensor:
    x = points.wide(places)
    if basis is None:
        return x
    along = x @ basis
    rest = (points.squares[places] - along.square().sum(1)).clamp_min(0).sqrt()
    return torch.cat([along, rest[:, None]], 1)


def principal_directions(points: Points) -> Tensor:
    """About the first principal directions (d, 96) of some samples, orthonormal, by subspace iteration from a fixed start.

    How near they are decides how many pairs their bounds rule out, not whether the bounds hold.
    """
    n, d = points.x.shape
    some = points.values(torch.linspace(0, n - 1, min(n, SAMPLED), device=points.x.device).long())
    start = torch.randn(d, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = start.to(points.x.device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr((some.T @ (some @ basis.to(some))).double()).Q
    return basis
