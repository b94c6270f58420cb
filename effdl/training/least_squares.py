"""Least squares: the solvers of chapter 7, and ours, which never needs all features at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from effdl.errors import FitFailed
from effdl.setting import NonNegative, Setting, setting
from effdl.training.design import Design, Rows

Rule = Callable[[Tensor], Tensor]
BLOCKS = 8  # of columns, of which only the upper blocks of a Gram matrix are worked out


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
    """From a rule for targets alone, T (m, t) -> W (n, t)."""

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
    """The same where each call does all the work anew: the design's own targets are solved for beside the first others."""

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
        """What is worked out of a design once. Raises FitFailed, here or from what comes back, where it cannot be solved."""


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
        bound = torch.finfo(z.dtype).eps * max(z.shape) * s[:1] if self.tol is None else self.tol
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

        def solve(t: Tensor) -> Tensor:
            with failing("lstsq", design):
                return checked("lstsq", design, torch.linalg.lstsq(z, t, rcond=self.tol, driver=self.driver).solution)

        return Together(design, solve)


@setting
class Solve(Solver):
    """W = (ZᵀZ + λI)⁻¹ZᵀT by `torch.linalg.solve`, the formula of §7.6.2 as it stands; fails where ZᵀZ + λI is singular.

    l2: λ ≥ 0, for all rows of W, the bias too.
    """

    l2: NonNegative = 0.01

    def factorise(self, design: Design) -> Fit:
        z, _ = design.whole()
        gram = z.T @ z
        gram.diagonal().add_(self.l2)

        def solve(t: Tensor) -> Tensor:
            with failing("solve", design):
                return checked("solve", design, torch.linalg.solve(gram, z.T @ t))

        return OfTargets(design, solve)


@setting
class Ridge(Solver):
    """W = (ZᵀZ + λI)⁻¹ZᵀT, or where there are fewer samples than features the same W = Zᵀ(ZZᵀ + λI)⁻¹T (ours).

    ZᵀZ and ZᵀY are summed over parts of the samples, of ZᵀZ the upper blocks alone, and ZᵀZ + λI is factorised once, by
    Cholesky. Products are of Z's own precision, sums and all that follows in float64. Where ZᵀZ + λI is singular to the rounding
    of float64, an eigendecomposition leaves out the directions whose eigenvalues are at most n·eps of the largest entry of the
    diagonal, and W is the solution of least norm. Beside a part of Z there are never more than two matrices of the smaller size
    squared.

    l2: λ ≥ 0, for all rows of W, the bias too.
    """

    by_rows: ClassVar[bool] = True

    l2: NonNegative = 0.01

    def factorise(self, design: Design) -> Fit:
        if design.samples < design.features:
            z, _ = design.whole()
            dual = self._inverse(design, sums([(z.T, z.T[:, :0])], design.samples, 0)[0])
            return OfTargets(design, lambda t: checked("ridge", design, z.T @ dual(t.double()).to(z)))
        gram, cross = sums(design.rows(), design.features, design.targets)
        return FromSums(design, self._inverse(design, gram), cross, self.l2)

    def _inverse(self, design: Design, gram: Tensor) -> "Inverse":
        """(gram + λI)⁻¹; gram's upper half counts, and is given up."""
        least = len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal().max()
        gram.diagonal().add_(self.l2)
        if (factor := _cholesky(gram)) is not None:
            return Inverse(lambda t: torch.cholesky_solve(t, factor, upper=True))
        with failing("ridge", design):
            values, vectors = torch.linalg.eigh(gram, UPLO="U")
        kept = values > least
        vectors, values = vectors[:, kept], values[kept, None]
        return Inverse(lambda t: vectors @ ((vectors.T @ t) / values), lambda t: vectors @ (vectors.T @ t))


@dataclass(eq=False)
class Inverse:
    """What (ZᵀZ + λI)⁻¹ makes of a matrix, and what is left of one in the directions that Z has."""

    solve: Rule
    project: Rule = lambda t: t

    def __call__(self, t: Tensor) -> Tensor:
        return self.solve(t)


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


def _cholesky(gram: Tensor) -> Tensor | None:
    """The upper factor; None where gram is singular, or nothing but rounding is left of a diagonal entry in its pivot."""
    least = len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal()
    factor, info = torch.linalg.cholesky_ex(gram, upper=True)
    regular = info == 0 and bool((factor.diagonal().square() > least).all())
    return factor if regular else None


def sums(rows: Iterable[Rows], features: int, targets: int) -> tuple[Tensor, Tensor]:
    """ZᵀZ (n, n), its upper triangle with something else below, and ZᵀY (n, k), in float64, over parts of the samples."""
    step = -(-features // BLOCKS)
    gram: Tensor | None = None
    for z, y in rows:
        if gram is None:
            gram, cross = (z.new_zeros(features, columns, dtype=torch.float64) for columns in (features, targets))
        for i in range(0, features, step):
            gram[i : i + step, i:] += z[:, i : i + step].T @ z[:, i:]
        cross += z.T @ y
    assert gram is not None, "a design has samples"
    return gram, cross


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
    remedies = ["method.precision=float64"] if design.like.dtype == torch.float32 else []
    remedies += ["a larger method.solver.l2"] if solver in ("solve", "ridge") else []
    remedies += ["method/solver=ridge"] if solver != "ridge" else []
    return FitFailed(f"{where} ({reason}); try {' or '.join(remedies)}")


def finite(design: Design) -> bool:
    """Whether all features are."""
    return all(bool(torch.isfinite(z).all()) for z, _ in design.rows())
