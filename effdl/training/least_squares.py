"""Least squares: the solvers of chapter 7, and ours, which never holds more than two matrices of its own."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from effdl.errors import FitFailed
from effdl.setting import Count, NonNegative, Setting, setting

Fit = Callable[[Tensor], Tensor]  # targets (m, t) -> W (n, t)
BLOCKS = 8  # of columns, of which only the upper blocks of a Gram matrix are worked out


class Solver(Setting, ABC):
    """How W with ZW ≈ T is found."""

    @abstractmethod
    def factorise(self, z: Tensor) -> Fit:
        """What is worked out of features z (m, n) once, and then serves any targets: (m, t) -> W (n, t).

        Raises FitFailed, here or from what comes back, where the system cannot be solved.
        """


@setting
class Pinv(Solver):
    """W = Z⁺T with `torch.linalg.pinv` (§7.5): the least squares solution of least norm, Z⁺ from Z's SVD.

    tol: singular values up to it count as 0, an absolute bound as in §7.6.2. null is torch's own relative bound, eps·max(m, n)
        of the largest: 7e-3 of it for 60,000 samples in float32, which throws away directions that carry information.
    """

    tol: NonNegative | None = None

    def factorise(self, z: Tensor) -> Fit:
        try:
            inverse = torch.linalg.pinv(z) if self.tol is None else torch.linalg.pinv(z, atol=self.tol, rtol=0.0)
        except RuntimeError as error:
            raise failed("pinv", z, error) from None
        return lambda t: checked("pinv", z, inverse @ t)


@setting
class Lstsq(Solver):
    """W by `torch.linalg.lstsq` (§7.6.2), without a factorisation to be used again: each call does all the work.

    tol: singular values up to so much of the largest count as 0, a relative bound; null is torch's own, eps·max(m, n).
    driver: LAPACK's: "gelsy" (QR with pivoting), "gelsd" and "gelss" (SVD) take features of any rank, "gels" (QR) only of full
        rank. null is gelsy on a CPU and gels on a GPU, which has no other.
    """

    tol: NonNegative | None = None
    driver: Literal["gels", "gelsy", "gelsd", "gelss"] | None = None

    def __post_init__(self) -> None:
        if self.driver == "gels" and self.tol is not None:
            raise ValueError("method.solver.tol: the driver gels has none, leave it out or take gelsy")

    def factorise(self, z: Tensor) -> Fit:
        def solve(t: Tensor) -> Tensor:
            try:
                return checked("lstsq", z, torch.linalg.lstsq(z, t, rcond=self.tol, driver=self.driver).solution)
            except RuntimeError as error:
                raise failed("lstsq", z, error) from None

        return solve


@setting
class Solve(Solver):
    """W = (ZᵀZ + λI)⁻¹ZᵀT by `torch.linalg.solve`, the formula of §7.6.2 as it stands; fails where ZᵀZ + λI is singular.

    l2: λ ≥ 0, for all rows of W, the bias too.
    """

    l2: NonNegative = 0.01

    def factorise(self, z: Tensor) -> Fit:
        gram = z.T @ z
        gram.diagonal().add_(self.l2)

        def solve(t: Tensor) -> Tensor:
            try:
                return checked("solve", z, torch.linalg.solve(gram, z.T @ t))
            except RuntimeError as error:
                raise failed("solve", z, error) from None

        return solve


@setting
class Ridge(Solver):
    """W = (ZᵀZ + λI)⁻¹ZᵀT, or where there are fewer samples than features the same W = Zᵀ(ZZᵀ + λI)⁻¹T (ours).

    ZᵀZ is summed over chunks of samples, its upper blocks alone, and factorised once, by Cholesky. Where it is singular to
    rounding, an eigendecomposition leaves out the directions whose eigenvalues are at most eps·n of the largest entry of the
    diagonal, and W is the solution of least norm. Beside Z and T there are never more than two
    matrices of the smaller size squared.

    l2: λ ≥ 0, for all rows of W, the bias too. chunk: samples that are summed up at once.
    """

    l2: NonNegative = 0.01
    chunk: Count = 4096

    def factorise(self, z: Tensor) -> Fit:
        if len(z) < z.shape[1]:
            dual = self._inverse(z, gram(z.T, self.chunk))
            return lambda t: checked("ridge", z, product(z, dual(t), self.chunk))
        primal = self._inverse(z, gram(z, self.chunk))
        return lambda t: checked("ridge", z, primal(product(z, t, self.chunk)))

    def of_gram(self, gram: Tensor) -> Fit:
        """What makes ZᵀT (n, t) W, from ZᵀZ (n, n) whose upper triangle was summed elsewhere; gram stays as it is.

        Raises FitFailed where ZᵀZ is not finite.
        """
        if not torch.isfinite(gram.triu()).all():
            raise FitFailed("ridge failed on sums of which some are not finite: look at the data, or scale the weights down")
        return self._inverse(gram, gram.clone())

    def _inverse(self, z: Tensor, gram: Tensor) -> Fit:
        """What (gram + λI)⁻¹ makes of a matrix; gram's upper half counts."""
        least = len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal().max()
        gram.diagonal().add_(self.l2)
        if (regular := _cholesky(gram, least)) is not None:
            return regular
        try:
            values, vectors = torch.linalg.eigh(gram, UPLO="U")
        except RuntimeError as error:
            raise failed("ridge", z, error) from None
        inverse = torch.where(values > least, 1 / values, 0.0)
        return lambda t: vectors @ (inverse[:, None] * (vectors.T @ t))


def _cholesky(gram: Tensor, least: Tensor) -> Fit | None:
    """What gram⁻¹ makes of a matrix; None where gram is singular, or a pivot is no larger than rounding."""
    factor, info = torch.linalg.cholesky_ex(gram, upper=True)
    if info == 0 and factor.diagonal().square().min() > least:
        return lambda t: torch.cholesky_solve(t, factor, upper=True)
    return None


def gram(z: Tensor, chunk: int) -> Tensor:
    """zᵀz (n, n) of z (m, n), summed over chunks of rows; its upper triangle, with something else below."""
    n = z.shape[1]
    step = -(-n // BLOCKS)
    total = z.new_zeros(n, n)
    for rows in z.split(chunk):
        for i in range(0, n, step):
            total[i : i + step, i:].addmm_(rows[:, i : i + step].T, rows[:, i:])
    return total


def product(z: Tensor, t: Tensor, chunk: int) -> Tensor:
    """zᵀt, summed over chunks of rows."""
    total = z.new_zeros(z.shape[1], t.shape[1])
    for rows, targets in zip(z.split(chunk), t.split(chunk), strict=True):
        total.addmm_(rows.T, targets)
    return total


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


def checked(solver: str, z: Tensor, w: Tensor) -> Tensor:
    """The weights. Raises FitFailed where one is not finite."""
    if not torch.isfinite(w).all():
        raise failed(solver, z, None)
    return w


def failed(solver: str, z: Tensor, error: RuntimeError | None) -> FitFailed:
    """One line on what could not be solved, and what to do."""
    where = f"{solver} failed on {len(z):,} samples of {z.shape[1]:,} features"
    if not torch.isfinite(z).all():
        return FitFailed(f"{where}, of which some are not finite: look at the data, or scale the weights down")
    said = str(error).split(":", 1)[-1].split(".")[0].strip() if error else "the solution is not finite"
    remedies = ["method.precision=float64"] if z.dtype == torch.float32 else []
    remedies += ["a larger method.solver.l2"] if solver in ("solve", "ridge") else []
    remedies += ["method/solver=ridge"] if solver != "ridge" else []
    return FitFailed(f"{where} ({said}); try {' or '.join(remedies)}")
