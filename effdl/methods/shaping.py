"""What may be done to a layer's weights once they are found: chapter 7's proposals (§7.10), as pure functions."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from effdl.least_squares.normal_equations import Sums

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
        rank = min(max(len(inputs) - round(active * len(inputs)), 1), len(inputs))
        shifted[0, units] -= inputs.kthvalue(rank, 0).values
    return shifted


def most_telling(sums: Sums, biased: bool, count: int) -> Tensor:
    """Positions (count,), in their order, of the units each of whose absence raises the squared error of a linear fit most.

    Without unit i it rises by ‖w_i‖² / [(ZᵀZ)⁻¹]_ii, w_i being its row of Z⁺Y. Each is judged beside all others: of two that
    are equal neither is missed.

    Args:
        sums: of the units' features, a column of ones first where they are biased, and the targets.
    """
    gram = sums.gram.triu() + sums.gram.triu(1).T
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(len(gram) * torch.finfo(gram.dtype).eps * values[-1])
    inverse = (vectors / values) @ vectors.T
    rises = (inverse @ sums.cross).square().sum(1) / inverse.diagonal()
    kept: Tensor = rises[int(biased) :].topk(count).indices.sort().values
    return kept


def mixed_in(w: Tensor, other: Tensor, step: float) -> Tensor:
    """w mixed with so much of another solution, scaled to w's size; mixing P gives the same, as W is linear in P (eq. 7.2)."""
    mixed: Tensor = w + step * (w.norm() / other.norm()) * other
    return mixed
