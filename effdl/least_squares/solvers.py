"""Least squares: the solvers of chapter 7, and ours, which never needs all features at once."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from effdl.errors import FitFailed, IllConditionedWarning
from effdl.least_squares.design import Design, Rows
from effdl.least_squares.normal_equations import Inverse, Sums, above_least, cholesky, of_any_rank, of_full_rank, summed
from effdl.setting import NonNegative, Setting, setting

Rule = Callable[[Tensor], Tensor]
LOST = 32  # times eps of a diagonal entry: what rounding of products may be of a pivot
ROWS = 4096  # samples that are gone through at once
LOOKED_AT, TOLERATED = 16, 0.01  # targets of a solution whose error is worked out anew, and its share of the least to pass over


class Fit(ABC):
    """Least squares on one design (Z, Y), worked out once for all targets."""

    @abstractmethod
    def __call__(self, targets: Tensor) -> Tensor:
        """W (n, t) with ZW ≈ T for targets T (m, t). Raises FitFailed."""

    @property
    @abstractmethod
    def decision(self) -> Tensor:
        """Z⁺Y (n, k): the linear layer that comes closest to the design's own targets. Raises FitFailed."""

    @abstractmethod
    def mixture(self, p_z: Tensor, p_y: Tensor, y: Tensor | None = None) -> Tensor:
        """W (n, t) for T = ZP_Z + YP_Y, P_Z (n, t), P_Y (k, t); y (m, k): in the place of the design's Y. Raises FitFailed."""


@dataclass(eq=False)
class OfTargets(Fit):
    """A fit by a rule for targets alone, T (m, t) -> W (n, t)."""

    design: Design
    solve: Rule

    def __call__(self, targets: Tensor) -> Tensor:
        return self.solve(targets)

    @cached_property
    def decision(self) -> Tensor:
        return self.solve(self.design.whole()[1])

    def mixture(self, p_z: Tensor, p_y: Tensor, y: Tensor | None = None) -> Tensor:
        return self.solve(mixed(self.design, p_z, p_y, y))


class Together(OfTargets):
    """A fit that does all its work anew at each call: the design's own targets are solved for beside the first others."""

    def mixture(self, p_z: Tensor, p_y: Tensor, y: Tensor | None = None) -> Tensor:
        targets = mixed(self.design, p_z, p_y, y)
        if "decision" in self.__dict__:
            return self.solve(targets)
        found = self.solve(torch.cat([targets, self.design.whole()[1]], 1))
        self.__dict__["decision"] = found[:, targets.shape[1] :]
        return found[:, : targets.shape[1]]


class Solver(Setting, ABC):
    """How W with ZW ≈ T is found. by_rows: it goes through the features in parts and never needs them all at once."""

    by_rows: ClassVar[bool] = False

    @abstractmethod
    def factorise(self, design: Design) -> Fit:
        """The fit of a design, once for all targets. Where it cannot be solved, this or the fit itself raises FitFailed."""

    def memory(self, samples: int, features: int, itemsize: int) -> int:
        """Bytes of the square matrices that it works with, at least; itemsize: of an entry of Z."""
        return 0


@setting
class Pinv(Solver):
    """W = Z⁺T with Z⁺ as `torch.linalg.pinv` makes it of Z's SVD (§7.5): the least squares solution of least norm.

    tol: singular values up to it count as 0, an absolute bound as in §7.6.2. null is torch's own relative bound, eps·max(m, n)
        of the largest: 7e-3 of it for 60,000 samples in float32, which throws away directions that carry information.
    """

    tol: NonNegative | None = None

    def factorise(self, design: Design) -> Fit:
        z, _ = design.whole()
        with failing("pinv", design):
            u, s, vh = torch.linalg.svd(z, full_matrices=False)
        bound = relative_bound(design) * s[:1] if self.tol is None else self.tol
        return FromSvd(design, u, torch.where(s > bound, 1 / s, 0.0), vh)


@dataclass(eq=False)
class FromSvd(Fit):
    """Z = U diag(s) Vᵀ, given 1/s with 0 where s counts as 0. Z⁺ is made when it is first asked for."""

    design: Design
    u: Tensor
    reciprocal: Tensor
    vh: Tensor

    @cached_property
    def inverse(self) -> Tensor:
        return (self.vh.T * self.reciprocal) @ self.u.T

    def __call__(self, targets: Tensor) -> Tensor:
        return checked("pinv", self.design, self.inverse @ targets)

    @cached_property
    def decision(self) -> Tensor:
        y = self.design.whole()[1]
        return checked("pinv", self.design, self.vh.T @ (self.reciprocal[:, None] * (self.u.T @ y)))

    def mixture(self, p_z: Tensor, p_y: Tensor, y: Tensor | None = None) -> Tensor:
        return self(mixed(self.design, p_z, p_y, y))


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

    def factorise(self, design: Design) -> Fit:
        z, _ = design.whole()
        bound = relative_bound(design) if self.tol is None else self.tol

        def solve(t: Tensor) -> Tensor:
            with failing("lstsq", design):
                return checked("lstsq", design, torch.linalg.lstsq(z, t, rcond=bound, driver=self.driver).solution)

        return Together(design, solve)


@setting
class Solve(Solver):
    """W = (ZᵀZ + λI)⁻¹ZᵀT by `torch.linalg.solve`, the formula of §7.6.2 as it stands; fails where ZᵀZ + λI is singular.

    In float32 it warns with IllConditionedWarning where its weights leave over 1% more than the least error, as they do where
    the features' means are 1,000 times their deviations; of many targets the first 16 are looked at.

    l2: λ ≥ 0, for all rows of W, the bias too.
    """

    l2: NonNegative = 0.01

    def factorise(self, design: Design) -> Fit:
        z, _ = design.whole()
        gram = z.T @ z
        gram.diagonal().add_(self.l2)

        def solve(t: Tensor) -> Tensor:
            with failing("solve", design):
                w = checked("solve", design, torch.linalg.solve(gram, z.T @ t))
            if z.dtype == torch.float32:
                self._look_at(design, t[:, :LOOKED_AT], w[:, :LOOKED_AT])
            return w

        return OfTargets(design, solve)

    def memory(self, samples: int, features: int, itemsize: int) -> int:
        return 2 * features**2 * itemsize  # ZᵀZ + λI and its factors

    def _look_at(self, design: Design, targets: Tensor, w: Tensor) -> None:
        """Warn where rounding has made the error more than it need be."""
        z, _ = design.whole()
        rows = zip(z.split(ROWS), targets.split(ROWS), strict=True)
        if above_least(rows, w, self.l2, TOLERATED) > TOLERATED:
            warnings.warn(
                f"solve: on {design.samples:,} samples of {design.features:,} features float32 leaves more than the least "
                f"error; take {_remedies('solve', design)}",
                IllConditionedWarning,
                stacklevel=2,
            )


@setting
class Ridge(Solver):
    """W = (ZᵀZ + λI)⁻¹ZᵀT, or where there are fewer samples than features the same W = Zᵀ(ZZᵀ + λI)⁻¹T (ours).

    ZᵀZ and ZᵀY are summed over parts of the samples, of ZᵀZ the upper blocks alone, and ZᵀZ + λI is factorised once, by
    Cholesky. Products are of Z's own precision, sums and all that follows in float64; where features in float32 are so nearly
    dependent that a pivot is lost in the rounding of products, these are in float64 too. Where ZᵀZ + λI is singular even so, an
    eigendecomposition leaves out the directions whose eigenvalues are at most n·eps of the largest entry of the diagonal, and W
    is the solution of least norm. In memory this takes, beside a part of Z, two square matrices of the smaller size, and for an
    eigendecomposition two more.

    l2: λ ≥ 0, for all rows of W, the bias too.
    """

    by_rows: ClassVar[bool] = True

    l2: NonNegative = 0.01

    def factorise(self, design: Design) -> Fit:
        if design.samples < design.features:
            z, _ = design.whole()
            dual, _ = self._inverse(design, lambda: [(z.T, z.T[:, :0])], design.samples, 0)
            return OfTargets(design, lambda t: checked("ridge", design, z.T @ dual(t.double()).to(z)))
        inverse, cross = self._inverse(design, design.rows, design.features, design.targets)
        return FromSums(design, inverse, cross, self.l2)

    def memory(self, samples: int, features: int, itemsize: int) -> int:
        return 2 * min(samples, features) ** 2 * torch.float64.itemsize  # the sums and their factor

    def decision(self, sums: Sums) -> Tensor:
        """(ZᵀZ + λI)⁻¹ZᵀY (n, k) of sums made elsewhere, which stay as they are, in float64. Raises FitFailed."""
        if not all(bool(torch.isfinite(one).all()) for one in (sums.gram.triu(), sums.cross)):
            raise FitFailed("ridge failed on sums of which some are not finite: look at the data, or scale the weights down")
        gram = sums.gram.clone()
        gram.diagonal().add_(self.l2)
        factor = cholesky(gram, torch.finfo(gram.dtype).eps * len(gram))
        return (of_any_rank(gram) if factor is None else of_full_rank(factor))(sums.cross)

    def _inverse(self, design: Design, rows: Callable[[], Iterable[Rows]], n: int, k: int) -> tuple[Inverse, Tensor]:
        """(ZᵀZ + λI)⁻¹, and ZᵀY."""
        sums = summed(rows(), n, k)
        sums.gram.diagonal().add_(self.l2)
        rough = design.like.dtype != torch.float64
        factor = cholesky(sums.gram, LOST * torch.finfo(design.like.dtype).eps if rough else n * torch.finfo(torch.float64).eps)
        if factor is None and rough and finite(design):
            sums = summed(((z.double(), y.double()) for z, y in rows()), n, k)
            sums.gram.diagonal().add_(self.l2)
            factor = cholesky(sums.gram, n * torch.finfo(torch.float64).eps)
        if factor is not None:
            return of_full_rank(factor), sums.cross
        with failing("ridge", design):
            return of_any_rank(sums.gram), sums.cross


@dataclass(eq=False)
class FromSums(Fit):
    """From ZᵀZ and cross = ZᵀY; for mixtures of Z and Y nothing else is needed of the samples."""

    design: Design
    inverse: Inverse
    cross: Tensor
    l2: float

    def __call__(self, targets: Tensor) -> Tensor:
        return self._weights(self.inverse(self._cross(targets)))

    @cached_property
    def decision(self) -> Tensor:
        return self._weights(self.inverse(self.cross))

    def mixture(self, p_z: Tensor, p_y: Tensor, y: Tensor | None = None) -> Tensor:
        """(ZᵀZ + λI)⁻¹Zᵀ(ZP_Z + YP_Y) = P_Z + (ZᵀZ + λI)⁻¹(ZᵀYP_Y − λP_Z), eq. 7.2 with a penalty."""
        p_z, p_y = p_z.double(), p_y.double()
        pulled = torch.addmm(p_z, self.cross if y is None else self._cross(y), p_y, beta=-self.l2)
        return self._weights(self.inverse.project(p_z) + self.inverse(pulled))

    def _cross(self, targets: Tensor) -> Tensor:
        """ZᵀT, over parts of the samples."""
        total = self.cross.new_zeros(self.design.features, targets.shape[1])
        start = 0
        for z, _ in self.design.rows():
            total += z.T @ targets[start : start + len(z)]
            start += len(z)
        return total

    def _weights(self, w: Tensor) -> Tensor:
        return checked("ridge", self.design, w.to(self.design.like.dtype))


def relative_bound(design: Design) -> float:
    """Torch's own: singular values up to eps·max(m, n) of the largest count as 0."""
    return torch.finfo(design.like.dtype).eps * max(design.samples, design.features)


def mixed(design: Design, p_z: Tensor, p_y: Tensor, y: Tensor | None) -> Tensor:
    """ZP_Z + YP_Y (m, t), with y in the place of the design's own Y where it is given."""
    z, own = design.whole()
    return z @ p_z + (own if y is None else y) @ p_y


def checked(solver: str, design: Design, w: Tensor) -> Tensor:
    """The weights. Raises FitFailed where one is not finite."""
    if not torch.isfinite(w).all():
        raise failed(solver, design, "the solution is not finite")
    return w


@contextmanager
def failing(solver: str, design: Design) -> Iterator[None]:
    """What linear algebra cannot solve becomes a FitFailed."""
    try:
        yield
    except RuntimeError as error:
        singular = isinstance(error, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
        if not singular and finite(design):  # too little memory, or a bug
            raise
        raise failed(solver, design, str(error).split(":", 1)[-1].split(".")[0].strip()) from None


def failed(solver: str, design: Design, reason: str) -> FitFailed:
    """One line on what could not be solved, and what to do."""
    where = f"{solver} failed on {design.samples:,} samples of {design.features:,} features"
    if not finite(design):
        return FitFailed(f"{where}, of which some are not finite: look at the data, or scale the weights down")
    return FitFailed(f"{where} ({reason}); try {_remedies(solver, design)}")


def _remedies(solver: str, design: Design) -> str:
    found = ["method.precision=float64"] if design.like.dtype == torch.float32 else []
    found += ["a larger method.solver.l2"] if solver in ("solve", "ridge") else []
    found += ["method/solver=ridge"] if solver != "ridge" else []
    return " or ".join(found)


def finite(design: Design) -> bool:
    """Whether all features are."""
    return all(bool(torch.isfinite(z).all()) for z, _ in design.rows())
