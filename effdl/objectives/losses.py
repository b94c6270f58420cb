"""The losses of chapter 4, one sample at a time; each equation stands once, as a function on tensors."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from effdl.objectives.coded import Coded, Targets, less_targets
from effdl.objectives.objective import Objective, TargetKind, kind_of
from effdl.setting import Probability, Switch, setting


def half_squared_error(y: Tensor, t: Tensor) -> Tensor:
    """½ Σ_k (y_k − t_k)², (B, K) -> (B,): for linear units its gradient is y − t (§4.3)."""
    return half_squares(y - t)


def half_squares(e: Tensor) -> Tensor:
    """½ Σ_k e_k², (B, K, ...) -> (B, ...)."""
    return 0.5 * e.square().sum(1)


@setting
class SoftmaxCe(Objective):
    """Softmax units with cross-entropy, −ln softmax(a)_c (§4.2).

    label_smoothing: s, in [0, 1): targets are (1 − s) one-hot + s / K (Szegedy et al. 2016), 0.1 there and in most recipes
        since; a yardstick of ours, 0 in the thesis.
    """

    label_smoothing: Probability = 0.0
    least_outputs: ClassVar[int] = 2
    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes", "pixels"})

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        if kind_of(y) == "pixels":
            ignored = self.ignore_index
            losses = F.cross_entropy(outputs, y, reduction="none", ignore_index=ignored, label_smoothing=smoothing)
            return self.of_images(losses, y)
        return F.cross_entropy(outputs, y, reduction="none", label_smoothing=smoothing)

    def units(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return self.units(outputs)


@setting
class LinearMse(Coded):
    """Linear units with the squared error ½‖a − t‖², whose gradient is a − t (§4.3); targets {low, high} for classes.

    targets: {0, 1}; {−1, 1} in table 4.2. A single output, of which the sign tells two classes, has targets ±high.
    """

    targets: Targets = (0.0, 1.0)
    is_least_squares: ClassVar[bool] = True

    def of_samples(self, outputs: Tensor, y: Tensor) -> Tensor:
        return half_squared_error(outputs, self.targets_of(y, outputs))

    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        e = less_targets(x.clone(), y, *self.low_high(x))
        return half_squares(e), e

    def units(self, outputs: Tensor) -> Tensor:
        return outputs


@setting
class SigmoidBce(Coded):
    """Sigmoid units with binary cross-entropy summed over outputs; real targets in [0, 1]. Gradient σ(a) − t (§4.3).

    targets: in [0, 1]; also those of a single output, of which the sign tells two classes.
    bounded: σ(tanh a) in the place of σ(a), whose gradient has a factor 1 − tanh²a, as if a network of tanh layers had one as
        its output too: each output then costs a class target at least ln(1 + 1/e) = 0.3133, as in figure 7.9 it seems to.
    """

    targets: Targets = (0.0, 1.0)
    bounded: Switch = False
    target_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.targets[0] < self.targets[1] <= 1:
            raise ValueError(f"objective.targets={list(self.targets)}: a sigmoid reaches values between 0 and 1 alone")

    def of_samples(self, outputs: Tensor, y: Tensor) -> Tensor:
        t = self.targets_of(y, outputs)
        return F.binary_cross_entropy_with_logits(self._logits(outputs), t, reduction="none").sum(1)

    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        t, logits = self.targets_of(y, x), self._logits(x)
        losses = F.binary_cross_entropy_with_logits(logits, t, reduction="none").sum(1)
        slopes = logits.sigmoid().sub_(t)
        return losses, slopes.mul_(1 - logits.square()) if self.bounded else slopes

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        slope = super().slope(outputs, y)
        return slope * (1 - outputs.tanh().square()) if self.bounded else slope

    def units(self, outputs: Tensor) -> Tensor:
        return self._logits(outputs).sigmoid()

    def low_high(self, outputs: Tensor) -> tuple[float, float]:
        return self.targets

    def coded(self, y: Tensor, like: Tensor) -> Tensor | None:
        return None if kind_of(y) != "vectors" else y.to(like.dtype)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of several classes the shares that their units have of the sum of all."""
        if outputs.shape[1] == 1:
            return super().probabilities(outputs)
        return F.logsigmoid(self._logits(outputs)).softmax(1)

    def _logits(self, outputs: Tensor) -> Tensor:
        return outputs.tanh() if self.bounded else outputs


@setting
class TanhMse(Coded):
    """Tanh units with the squared error ½‖tanh(a) − t‖², gradient (y − t)(1 − y²) (§3.1, table 4.1); targets {low, high}.

    A single output, of which the sign tells two classes, has targets ±high.
    """

    targets: Targets = (-1.0, 1.0)
    target_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)

    def of_samples(self, outputs: Tensor, y: Tensor) -> Tensor:
        return half_squared_error(outputs.tanh(), self.targets_of(y, outputs))

    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        units = x.tanh()
        e = less_targets(units.clone(), y, *self.low_high(x))
        losses = half_squares(e)
        return losses, e.mul_(units.square_().neg_().add_(1))

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        return super().slope(outputs, y) * (1 - outputs.tanh().square())

    def units(self, outputs: Tensor) -> Tensor:
        return outputs.tanh()
