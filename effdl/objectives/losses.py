"""The losses of chapter 4, one sample at a time; each equation stands once, as a function on tensors."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from effdl.objectives.objective import Objective, TargetKind, kind_of
from effdl.setting import Real, Switch, setting


def one_hot(y: Tensor, like: Tensor, low: float, high: float) -> Tensor:
    """Targets as (B, K) in the dtype of ``like``: ``high`` at the class and ``low`` elsewhere; real targets pass through.

    One output, of which the sign tells two classes, gets ``low`` for the first and ``high`` for the second.
    """
    if kind_of(y) == "vectors":
        return y.to(like.dtype)
    if like.shape[1] == 1:
        return y[:, None].to(like.dtype).mul_(high - low).add_(low)
    return F.one_hot(y, like.shape[1]).to(like.dtype).mul_(high - low).add_(low)


def half_squared_error(y: Tensor, t: Tensor) -> Tensor:
    """½ Σ_k (y_k − t_k)², (B, K) -> (B,): for linear units its gradient is y − t (§4.3)."""
    return 0.5 * (y - t).square().sum(1)


@setting
class SoftmaxCe(Objective):
    """Softmax units with cross-entropy, −ln softmax(a)_c (§4.2)."""

    least_outputs: ClassVar[int] = 2

    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes"})

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, reduction="none")

    def units(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)


@setting
class LinearMse(Objective):
    """Linear units with the squared error ½‖a − t‖², whose gradient is a − t (§4.3); targets {low, high} for classes.

    A single output, of which the sign tells two classes, has targets ±high.
    """

    low: Real = 0.0
    high: Real = 1.0
    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes", "vectors"})
    is_least_squares: ClassVar[bool] = True

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return half_squared_error(outputs, self.coded(y, outputs))

    def units(self, outputs: Tensor) -> Tensor:
        return outputs

    def coded(self, y: Tensor, like: Tensor) -> Tensor:
        return one_hot(y, like, -self.high if like.shape[1] == 1 else self.low, self.high)


@setting
class SigmoidBce(Objective):
    """Sigmoid units with binary cross-entropy summed over outputs; real targets in [0, 1]. Gradient σ(a) − t (§4.3).

    bounded: σ(tanh a) in the place of σ(a), whose gradient has a factor 1 − tanh²a, as if a network of tanh layers had one as
        its output too: each output then costs a class target at least ln(1 + 1/e) = 0.3133, as in figure 7.9 it seems to.
    """

    bounded: Switch = False
    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes", "vectors"})
    target_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        t = one_hot(y, outputs, 0.0, 1.0)
        return F.binary_cross_entropy_with_logits(self._logits(outputs), t, reduction="none").sum(1)

    def units(self, outputs: Tensor) -> Tensor:
        return self._logits(outputs).sigmoid()

    def _logits(self, outputs: Tensor) -> Tensor:
        return outputs.tanh() if self.bounded else outputs


@setting
class TanhMse(Objective):
    """Tanh units with the squared error ½‖tanh(a) − t‖², gradient (y − t)(1 − y²) (§3.1, table 4.1); targets {low, high}.

    A single output, of which the sign tells two classes, has targets ±high.
    """

    low: Real = -1.0
    high: Real = 1.0
    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes", "vectors"})
    target_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return half_squared_error(outputs.tanh(), self.coded(y, outputs))

    def units(self, outputs: Tensor) -> Tensor:
        return outputs.tanh()

    def coded(self, y: Tensor, like: Tensor) -> Tensor:
        return one_hot(y, like, -self.high if like.shape[1] == 1 else self.low, self.high)
