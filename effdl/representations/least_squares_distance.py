"""Least-squares distance of a representation to the targets (thesis §5.3.1, eq. 5.3)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from effdl.least_squares.design import Rows
from effdl.least_squares.normal_equations import cholesky, summed
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

    By a Cholesky factor of ZᵀZ with its columns scaled, and refined in float64 until the gradient says that the distance is the
    least; where columns are so nearly dependent that this cannot be said, by QR and a singular value decomposition in float64,
    in which singular values up to eps·max(m, n) of the largest count as 0.

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
    """Targets Y (m, k) on scaled columns of Z."""

    def __init__(self, x: Tensor, y: Tensor, bias: bool) -> None:
        self.x, self.y, self.bias = x, y, bias
        self.used, self.scale = torch.ones(x.shape[1] + bias, dtype=torch.bool, device=x.device), None
        most = torch.stack([z.abs().amax(0) for z, _ in self.parts(torch.float64)]).amax(0)
        if not bool(torch.isfinite(most).all()):
            raise ValueError("z has features that are NaN or infinite: drop or mend these samples first")
        self.used, top = most > 0, most[most > 0]
        squares = sum(((z / top).square().sum(0) for z, _ in self.parts(torch.float64)), torch.zeros_like(top))
        self.scale = top * squares.sqrt()

    def parts(self, dtype: torch.dtype) -> Iterator[Rows]:
        """Columns that are not all 0, of length 1 once their scale is known, and targets, of some samples after the other."""
        every = bool(self.used.all())
        for z, y in zip(self.x.split(ROWS), self.y.split(ROWS), strict=True):
            z = z.double()
            z = torch.cat([z, z.new_ones(len(z), 1)], 1) if self.bias else z
            z = z if every else z[:, self.used]
            yield (z if self.scale is None else z / self.scale).to(dtype), y.to(dtype)

    def distance(self) -> float:
        m, energy = len(self.y), float(self.y.square().sum())
        if not bool(self.used.any()) or energy == 0:
            return energy / m
        precise = self.x.dtype in (torch.float64, torch.int32, torch.int64)
        for dtype in (torch.float64,) if precise else (torch.float32, torch.float64):
            found = self._by_cholesky(dtype, SETTLED * energy)
            if found is not None:
                return found / m
        return self._by_qr() / m

    def _by_cholesky(self, dtype: torch.dtype, settled: float) -> float | None:
        """‖Y − ZW‖² with W refined to be the solution; None where the factor does not say so."""
        n, k = int(self.used.sum()), self.y.shape[1]
        sums = summed(self.parts(dtype), n, k)
        factor = cholesky(sums.gram, HEALTHY[dtype])
        if factor is None:
            return None
        w = torch.cholesky_solve(sums.cross, factor, upper=True)
        for _ in range(STEPS):
            error, gradient = w.new_zeros(()), torch.zeros_like(w)
            for z, y in self.parts(torch.float64):
                rest = torch.addmm(y, z, w, alpha=-1)
                error += rest.square().sum()
                gradient.addmm_(z.T, rest)
            step = torch.cholesky_solve(gradient, factor, upper=True)
            if float((gradient * step).sum()) <= settled:  # tr GᵀA⁻¹G, by which the error is above the least
                return float(error)
            w = w + step
        return None

    def _by_qr(self) -> float:
        """Of any rank: R of [Z | Y] has its inner products; of R the left singular vectors of Z's columns."""
        n, r = int(self.used.sum()), None
        for z, y in self.parts(torch.float64):
            rows = torch.cat([z, y], 1)
            r = torch.linalg.qr(rows if r is None else torch.cat([r, rows]), mode="r").R
        assert r is not None, "there are samples"
        u, s, _ = torch.linalg.svd(r[:, :n], full_matrices=False)
        u = u[:, s > torch.finfo(s.dtype).eps * max(len(self.x), n) * s[0]]
        return float((r[:, n:] - u @ (u.T @ r[:, n:])).square().sum())
