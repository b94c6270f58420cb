"""What a layer in closed form gets, and how well a linear layer would do on it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from effdl.least_squares.design import Design
from effdl.least_squares.solvers import Fit, Solver


@dataclass(frozen=True)
class Features:
    """Features Z (m, n) and coded targets Y (m, k), gone through by rows, and least squares on them.

    biased: whether the first column of Z is of ones. reduced: for one of several tries, the few rows that stand for all samples
    (see `judged`); `fit` then takes only mixtures of Z and Y.
    """

    design: Design
    solver: Solver
    biased: bool
    reduced: Design | None = None

    @cached_property
    def fit(self) -> Fit:
        """Worked out when it is first asked for: rules without targets never do."""
        return self.solver.factorise(self.reduced or self.design)

    @cached_property
    def errors(self) -> Tensor:
        """(m,) squared errors ‖y_j − ŷ_j‖² of the linear layer that comes closest to the targets."""
        decision = self.fit.decision
        return torch.cat([(y - z @ decision).square().sum(1) for z, y in self.design.rows()])

    @cached_property
    def distance(self) -> float:
        """The least squares distance (1/m)‖Y − ZZ⁺Y‖²_F (eq. 5.3), the solver's cut-offs and penalties included."""
        if self.reduced is None:
            return self.errors.double().mean().item()
        z, y = self.reduced.whole()
        return self._mean(y - z @ self.fit.decision)

    @property
    def least(self) -> float:
        """A lower bound of the distance, where one is known beforehand: the part of Y outside of Z's columns."""
        return 0.0 if self.reduced is None else self._mean(self.reduced.whole()[1][self.design.features :])

    def judged(self) -> "Features":
        """The same features as one of several tries, of which the losers should cost little.

        R of a QR decomposition of [Z | Y] stands for all samples (`Design.reduced`): a solver that needs all features at once
        gets it in their place, here and, if the try wins, for the layer above. Solvers that sum over rows judge as they fit.
        """
        return self if self.solver.by_rows or self.reduced else replace(self, reduced=self.design.reduced())

    @property
    def width(self) -> int:
        """Features without the column of ones."""
        return self.design.features - self.biased

    def plain(self, z: Tensor) -> Tensor:
        """Rows of Z without the column of ones."""
        return z[:, 1:] if self.biased else z

    def unbiased(self, w: Tensor) -> Tensor:
        """Weights (width, t) as weights (n, t), their bias 0."""
        return torch.cat([w.new_zeros(1, w.shape[1]), w]) if self.biased else w

    def _mean(self, left: Tensor) -> float:
        return left.double().square().sum().item() / self.design.samples


Fitted = tuple[Tensor, Features]  # a layer's weights, and what they make of the features below


def closest(made: Iterable[Fitted]) -> Fitted:
    """The one of several whose features have the least distance from the targets; of equals, the earlier.

    A single one is not judged. After several, the fit below the next layer is of `judged` features.
    """
    made = iter(made)
    weights, best = next(made)
    for w, above in made:
        best, rival = best.judged(), above.judged()
        if rival.least >= best.distance:
            continue
        if rival.distance < best.distance:
            weights, best = w, rival
    return weights, best
