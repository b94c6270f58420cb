"""Least-squares distance of a representation to the targets (thesis §5.3.1, eq. 5.3)."""

from collections.abc import Iterator

import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor
from torch.nn.functional import one_hot

from effdl.least_squares.design import Rows
from effdl.least_squares.normal_equations import summed
from effdl.neighbours.given import Values, features, indices_of_classes

ROWS = 4096  # samples that are gone through at once
HEALTHY = {torch.float32: 1e-4, torch.float64: 1e-7}  # the least pivot of a Gram matrix with ones on its diagonal
SETTLED = 1e-12  # of |Y|², by which a distance may be above the least
STEPS = 8  # of refinement before the normal equations are given up


def least_squares_distance(z: Values, y: Values, *, bias: bool = False) -> float:
    """‖Y − ZZ⁺Y‖²_F / m, the LSD of thesis eq. 5.3: what is left of the targets when Z explains them linearly.

    Args:
        z: (m, ...) one representation of m samples, flattened to (m, n), of any real dtype.
        y: (m,) classes, which become one-hot targets, or real targets (m, k).
        bias: whether a column of ones joins Z, as in the listing of figure 7.3; eq. 5.3 as printed has none.

    Returns:
        From 0 to ‖Y‖²_F / m, which is 1 for classes: k times the mean squared error of the best linear outputs.

    Raises:
        ValueError: z or y is not finite, or their lengths differ.

    By a Cholesky factor of ZᵀZ with its columns scaled, less those that others make up, refined in float64 until the gradient
    says that the distance is the least; where columns are so nearly dependent that this cannot be said, by QR and a singular
    value decomposition in float64, in which singular values up to eps·max(m, n) of the largest count as 0.

    >>> import numpy as np
    >>> z = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    >>> least_squares_distance(z, np.array([[3.0], [4.0], [0.0], [2.0]]))
    1.0
    """
    x, targets = features(z), _targets(y)
    if len(x) != len(targets):
        raise ValueError(f"z has {len(x)} samples and y {len(targets)}: they must be as many")
    with torch.autocast(x.device.type, enabled=False), torch.no_grad():
        return _Fit(x, targets.to(x.device), bias).distance()


def _targets(y: Values) -> Tensor:
    given = torch.as_tensor(y)
    if given.dim() == 1 and not given.is_floating_point():
        return one_hot(indices_of_classes(y)).double()
    targets = given.reshape(len(given), -1).double()
    if not bool(torch.isfinite(targets).all()):
        raise ValueError("y has targets that are NaN or infinite: drop or mend these samples first")
    return targets


class _Fit:
    """Targets Y (m, k) on the columns of Z (m, n)."""

    def __init__(self, x: Tensor, y: Tensor, bias: bool) -> None:
        self.x, self.y, self.bias, self.features = x, y, bias, x.shape[1] + bias

    def parts(self, dtype: torch.dtype) -> Iterator[Rows]:
        """Features and targets of some samples after the other."""
        for z, y in zip(self.x.split(ROWS), self.y.split(ROWS), strict=True):
            z = z.to(dtype)
            yield torch.cat([z, z.new_ones(len(z), 1)], 1) if self.bias else z, y.to(dtype)

    def distance(self) -> float:
        m, energy = len(self.y), float(self.y.square().sum())
        precise = self.x.dtype in (torch.float64, torch.int32, torch.int64)
        for dtype in (torch.float64,) if precise else (torch.float32, torch.float64):
            found = self._by_cholesky(dtype, SETTLED * energy)
            if found is not None:
                return found / m
        return self._by_qr() / m

    def _by_cholesky(self, dtype: torch.dtype, settled: float) -> float | None:
        """‖Y − ZW‖² with W refined to be the solution; None where the factors do not say so.

        Columns of Z that others make up, by the pivots, are targets beside Y: if the others leave nothing of them, they
        add nothing.
        """
        n, k = self.features, self.y.shape[1]
        sums = summed(self.parts(dtype), n, k)
        squares = sums.gram.diagonal().clone()
        if not bool(torch.isfinite(squares).all()):
            if dtype == torch.float64:
                raise ValueError("z has features that are NaN, infinite, or beyond what float64 can square: mend or scale them")
            return None
        scale = squares.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        gram = sums.gram.triu() / scale[:, None] / scale
        chosen, factor = _independent(gram, HEALTHY[dtype])
        rest_of = torch.ones(n, dtype=torch.bool, device=chosen.device).index_fill_(0, chosen, False).nonzero()[:, 0]
        if len(rest_of) > n // 4 + 4 or not len(chosen):
            return None
        w = squares.new_zeros(n, k + len(rest_of))
        least = (torch.finfo(torch.float64).eps * max(len(self.x), n)) ** 2
        for _ in range(STEPS):
            errors, gradient = w.new_zeros(w.shape[1]), torch.zeros_like(w)
            for z, y in self.parts(torch.float64):
                rest = torch.addmm(torch.cat([y, z[:, rest_of] / scale[rest_of]], 1), z, w, alpha=-1)
                errors += rest.square().sum(0)
                gradient.addmm_(z.T, rest)
            down = gradient[chosen] / scale[chosen, None]
            step = torch.cholesky_solve(down, factor, upper=True)
            above = (down * step).sum(0)  # tr GᵀA⁻¹G, by which the errors are above the least
            if float(above[:k].sum()) <= settled and bool((errors[k:] <= least).all()):
                return float(errors[:k].sum())
            w[chosen] += step / scale[chosen, None]
        return None

    def _by_qr(self) -> float:
        """Of any rank: R of [Z | Y] has its inner products; of R the left singular vectors of Z's columns."""
        n = self.features
        scale = torch.stack([z.abs().amax(0) for z, _ in self.parts(torch.float64)]).amax(0)
        scale, r = torch.where(scale > 0, scale, 1.0), self.y.new_empty(0, n + self.y.shape[1])
        for z, y in self.parts(torch.float64):
            r = torch.linalg.qr(torch.cat([r, torch.cat([z / scale, y], 1)]), mode="r").R
        u, s, _ = torch.linalg.svd(r[:, :n], full_matrices=False)
        u = u[:, s > torch.finfo(s.dtype).eps * max(len(self.x), n) * s[0]]
        return float((r[:, n:] - u @ (u.T @ r[:, n:])).square().sum())


def _independent(gram: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Columns (r,), by a Cholesky factorisation with pivoting that ends at the least pivot, and the upper factor of these.

    gram (n, n): ones on its diagonal, or 0 where a column is; the upper triangle counts.
    """
    factor, pivots, rank, _ = dpstrf(gram.cpu().numpy(), tol=least, lower=0)
    chosen = torch.from_numpy(pivots[:rank].astype("int64") - 1)
    upper = torch.from_numpy(factor[:rank, :rank]).triu()
    return chosen.to(gram.device), upper.to(gram.device)
