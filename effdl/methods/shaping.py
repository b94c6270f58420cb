"""What may be done to a layer's weights once they are found: chapter 7's proposals (§7.10), as pure functions."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

UNITS = 256  # whose inputs over all samples lie in memory at once


def low_rank(w: Tensor, rank: int) -> Tensor:
    """The matrix of at most that rank that is nearest to weights (n, width) (Eckart and Young 1936)."""
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    nearest: Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
    return nearest


def aligned(w: Tensor, rows: Callable[[], Iterable[Tensor]], active: float) -> Tensor:
    """Weights (n, width) whose biases, the first row, are such that each unit's input is positive on a share of the samples.

    So an activation that bends at 0 filters the samples that a weight vector has sorted (§7.10.1).

    Args:
        rows: goes through the features, the column of ones first.
        active: the share, in (0, 1).
    """
    shifted = w.clone()
    for units in torch.arange(w.shape[1]).split(UNITS):
        inputs = torch.cat([z @ w[:, units] for z in rows()])
        rank = min(max(math.floor((1 - active) * len(inputs)), 1), len(inputs))
        shifted[0, units] -= inputs.kthvalue(rank, 0).values
    return shifted


def most_telling(decision: Tensor, variances: Tensor, count: int) -> Tensor:
    """Positions (count,), in their order, of the units that add most to the decision layer's variance.

    Args:
        decision: weights (n, k) of the linear layer on the units.
        variances: (n,) of the units over the samples.
    """
    return (decision.square().sum(1) * variances).topk(count).indices.sort().values


def variances(rows: Iterable[Tensor], samples: int) -> Tensor:
    """(n,) of columns, gone through by rows, in float64."""
    total, squares = torch.zeros(()), torch.zeros(())
    for z in rows:
        z = z.double()
        total, squares = total.to(z) + z.sum(0), squares.to(z) + z.square().sum(0)
    return squares / samples - (total / samples).square()


def mixed_in(w: Tensor, other: Tensor, step: float) -> Tensor:
    """w with so much of another solution, scaled to w's size: what P would be mixed to, for W is linear in P (eq. 7.2)."""
    mixed: Tensor = w + step * (w.norm() / other.norm()) * other
    return mixed
