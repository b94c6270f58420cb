"""The normal equations (ZᵀZ + λI)W = ZᵀY: their sums over samples, their factors, their condition."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.least_squares.design import Rows

Rule = Callable[[Tensor], Tensor]
BLOCKS = 8  # of columns, of which only the upper blocks of a Gram matrix are worked out
NARROWEST = 64  # columns of a block: narrower ones cost more in calls than they save in products


@dataclass(frozen=True)
class Sums:
    """All that a linear layer in closed form needs of samples: gram = ZᵀZ (n, n), of which the upper triangle counts, and
    cross = ZᵀY (n, k), in float64."""

    gram: Tensor
    cross: Tensor

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.cross + other.cross)


def summed(rows: Iterable[Rows], features: int, targets: int) -> Sums:
    """The sums over all parts of the samples; products are in the parts' own precision."""
    step = max(-(-features // BLOCKS), NARROWEST)
    sums: Sums | None = None
    for z, y in rows:
        if sums is None:
            sums = Sums(*(z.new_zeros(features, columns, dtype=torch.float64) for columns in (features, targets)))
        for i in range(0, features, step):
            sums.gram[i : i + step, i:] += z[:, i : i + step].T @ z[:, i:]
        sums.cross.add_(z.T @ y)
    assert sums is not None, "a design has samples"
    return sums


@dataclass(eq=False)
class Inverse:
    """What (ZᵀZ + λI)⁻¹ makes of a matrix, and what is left of one in the directions that Z has."""

    solve: Rule
    project: Rule = lambda t: t

    def __call__(self, t: Tensor) -> Tensor:
        return self.solve(t)


def cholesky(gram: Tensor, least: float) -> Tensor | None:
    """The upper Cholesky factor; None where gram is singular, or a pivot keeps less than so much of its diagonal entry."""
    factor, info = torch.linalg.cholesky_ex(gram, upper=True)
    regular = info == 0 and bool((factor.diagonal().square() > least * gram.diagonal()).all())
    return factor if regular else None


def of_full_rank(factor: Tensor) -> Inverse:
    """The inverse by a Cholesky factor."""
    return Inverse(lambda t: torch.cholesky_solve(t, factor, upper=True))


def of_any_rank(gram: Tensor) -> Inverse:
    """The inverse by the eigenvectors whose eigenvalues are not lost in rounding; gram's upper triangle counts."""
    values, vectors = torch.linalg.eigh(gram, UPLO="U")
    kept = values > len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal().max()
    vectors, values = vectors[:, kept], values[kept, None]
    return Inverse(lambda t: vectors @ ((vectors.T @ t) / values), lambda t: vectors @ (vectors.T @ t))


def condition(gram: Tensor, l2: float) -> float:
    """The condition number of ZᵀZ + λI, its diagonal scaled to ones; of gram = ZᵀZ (n, n) the upper triangle counts.

    So scaled it bounds the error of a Cholesky factor, whatever units the features have (Demmel 1989; Higham, Accuracy and
    Stability of Numerical Algorithms, §10.1), and a feature that is always 0 does no harm. Infinite where gram is singular
    to rounding. Costs 4/3 n³ operations; `condition_bound` says without them whether it can be large.
    """
    scale = (gram.diagonal().double() + l2).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    scaled = scale[:, None] * gram.double() * scale
    scaled.diagonal().fill_(1.0)
    values = torch.linalg.eigvalsh(scaled, UPLO="U")
    return (values[-1] / values[0]).item() if values[0] > 0 else math.inf


def condition_bound(squares: Tensor, l2: float) -> float:
    """What `condition` is at most, from the diagonal (n,) of ZᵀZ alone: n (1 + max/λ), for the trace is n and λI adds λ."""
    return len(squares) * (1 + squares.max().item() / l2) if l2 > 0 else math.inf


def above_least(rows: Iterable[Rows], w: Tensor, l2: float, share: float) -> float:
    """How far ‖T − ZW‖² + λ‖W‖² is above its least, as a share of the least; or something below ``share`` if it is below.

    For weights W (n, t) of any origin, in float64: with the gradient G = Zᵀ(T − ZW) − λW it is tr GᵀA⁻¹G, A = ZᵀZ + λI. A
    itself, which costs mn² operations, is needed only where the diagonal of A leaves the answer open. What is below eps of
    W's precision of the variation of T counts as nothing: rounding of T alone leaves that.

    rows: (z, t) of some samples after the other.
    """
    parts, precise = list(rows), w.double()
    n, k = w.shape
    gradient, error, squares = -l2 * precise, l2 * precise.square().sum(), torch.full_like(precise[:, 0], l2)
    total, moment = precise.new_zeros(2, k)
    for z, t in parts:
        rest = t.double() - z.double() @ precise
        gradient += z.double().T @ rest
        error += rest.square().sum()
        squares += z.double().square().sum(0)
        total, moment = total + t.double().sum(0), moment + t.double().square().sum(0)
    nothing = torch.finfo(w.dtype).eps * (moment - total.square() / sum(len(t) for _, t in parts)).sum()
    scaled = gradient.square().sum(1) / squares.clamp_min(torch.finfo(torch.float64).tiny)
    most = (scaled.sum() * squares.max() / l2).item() if l2 > 0 else math.inf
    if most <= nothing or most <= share * (error - most):
        return 0.0 if most <= nothing else most / (error - most).item()
    gram = summed(((z.double(), z[:, :0].double()) for z, _ in parts), n, 0).gram
    gram.diagonal().add_(l2)
    factor = cholesky(gram, torch.finfo(gram.dtype).eps * n)
    above = (gradient * (of_any_rank(gram) if factor is None else of_full_rank(factor))(gradient)).sum()
    return 0.0 if above <= nothing else (above / (error - above).clamp_min(nothing)).item()
