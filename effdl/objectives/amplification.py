"""Gradient amplification: output units that do not saturate, with the gradient y − t all the same (thesis §4.4 to §4.8).

What lies beyond the dtype of the outputs is its largest number, and their loss is too, so that both are finite and never fall
as an output rises further; nothing else is changed. Half precision is worked out in float32.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from effdl.objectives.coded import Coded, Targets, correlation, less_targets
from effdl.objectives.objective import at_least_float32, kind_of
from effdl.setting import NonNegative, Positive, setting

LN_2 = math.log(2)


def log2_exponential(x: Tensor, alpha: float, most: float) -> Tensor:
    """log₂(αe^x) = x log₂e + log₂α, held a rounding error below that of ``most``; x in float32 or float64.

    torch raises 2 to a power in a third of the time that it takes for e, and just as exactly as in log-softmax.
    """
    highest = math.log2(most) * (1 - torch.finfo(x.dtype).eps)
    return torch.add(torch.tensor(math.log2(alpha), dtype=x.dtype), x, alpha=1 / LN_2).clamp_max_(highest)


def cubic(x: Tensor, alpha: float, most: float) -> Tensor:
    """αx³, within ±most."""
    return F.hardtanh_(x.pow(3).mul_(alpha), -most, most)  # clamp_ cannot be mapped by torch.func


@setting
class ExpGa(Coded):
    """Exponential units y = αe^a with the sparse cross-entropy loss Σ_k (|y_k| − t_k ln y_k), whose gradient is αe^a − t
    (§4.5, §4.6): exp-GA. The largest output is the class; divided by their sum, which may wait until after training (§4.2),
    units are probabilities, those of a softmax.

    alpha: α > 0; 0.1 in §4.5, 0.5 and 1 in tables 4.2 to 4.4.
    targets: from 0, since units are positive; {0, 16} and {0, 6} in figures 4.1 and 4.2, {0, 2} and {0, 3} in the tables. Real
        targets are from 0, too.
    """

    alpha: Positive = 0.1
    targets: Targets = (0.0, 6.0)
    target_range: ClassVar[tuple[float, float] | None] = (0.0, math.inf)
    least_outputs: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.targets[0] < 0:
            raise ValueError(f"objective.targets={list(self.targets)}: exponential units are positive, so targets are from 0")

    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        log2_units = log2_exponential(x, self.alpha, most)
        log2_correlation = correlation(log2_units, y, *self.targets)
        units = log2_units.exp2_()
        losses = units.sum(1).sub_(log2_correlation, alpha=LN_2)
        return losses, less_targets(units, y, *self.targets)

    def units(self, outputs: Tensor) -> Tensor:
        x = at_least_float32(outputs)
        return log2_exponential(x, self.alpha, torch.finfo(outputs.dtype).max).exp2().to(outputs.dtype)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)


@setting
class Pow3Ga(Coded):
    """Cubic units y = αa³ + β with the negative correlation loss Σ_k (¼αa_k⁴ + βa_k − t_k a_k), whose gradient is αa³ + β − t
    (§4.7, §4.8): pow3-GA. The largest output is the class; probabilities are the closest ones to (y − low) / (high − low).

    alpha: α > 0; 0.001 in §4.7 and table 4.2, 0.0007 and 0.001 in tables 4.3 and 4.4.
    beta: β ≥ 0; 0.4 in §4.7 and figures 4.1 to 4.3, 0 in the tables.
    targets: {0, 10} in figure 4.1a, {−2, 10} in 4.1b, {0, 2} and {−1, 1} in the tables.
    """

    alpha: Positive = 0.001
    beta: NonNegative = 0.4
    targets: Targets = (-2.0, 10.0)
    least_outputs: ClassVar[int] = 2

    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        cubes = cubic(x, self.alpha, most)
        low, high = self.targets[0] - self.beta, self.targets[1] - self.beta  # which is less work than β added
        y = y - self.beta if kind_of(y) == "vectors" else y
        losses = (x * cubes).sum(1).mul_(0.25).sub_(correlation(x, y, low, high))
        return losses, less_targets(cubes, y, low, high)

    def units(self, outputs: Tensor) -> Tensor:
        x = at_least_float32(outputs)
        most = torch.finfo(outputs.dtype).max
        return cubic(x, self.alpha, most).add(self.beta).clamp(-most, most).to(outputs.dtype)
