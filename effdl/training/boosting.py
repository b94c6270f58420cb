"""Telescoping sum boosting, BoostResNet (Huang, Ash, Langford and Schapire 2018): residual blocks as weak learners."""

import torch
from torch import Tensor, nn

from effdl.datasets.dataset import Facts
from effdl.objectives.objective import at_least_float32
from effdl.setting import setting
from effdl.training.local_loss import LocalLoss, Position, Seen, Term, check_classes


def exponential_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Σ_{l ≠ y} exp(s_l − s_y), for scores s (B, K) and classes y (B,) -> (B,): AdaBoost.MM's (Mukherjee and Schapire 2013)."""
    right = scores.gather(1, y[:, None])
    return (scores - right).exp().sum(1) - 1


class Boosted(Term):
    """`exponential_loss` of α times the hypothesis o = softmax(logits), α > 0 learning with it."""

    def __init__(self) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def forward(self, seen: Seen) -> Tensor:
        hypothesis = at_least_float32(seen.logits).softmax(1)
        return exponential_loss(self.log_alpha.exp() * hypothesis, seen.y)


@setting
class Boosting(LocalLoss):
    """What a residual block minimises with its auxiliary classifier w and scale α in BoostResNet, in the place of the decision
    block's loss.

    The weak classifier is h_t = α_{t+1} o_{t+1} − α_t o_t, o_{t+1} the hypothesis on g_{t+1} = f_t(g_t) + g_t. As weights of
    samples, D_t ∝ exp(−Σ_{τ<t} h_τ), have the sum of all before, which telescopes to α_t o_t, the oracle's weighted loss is the
    plain exponential loss of α_{t+1} o_{t+1} but for a factor (their equation 6; for several classes their appendix F, with o
    within the simplex). Networks are measured by the problem's own objective of the logits, whose greatest is that of α o.

    Not here: "while γ_t > γ", which ends the network where edges are small (`Segmentwise.grow_patience` ends it by validation).
    """

    def check(self, problem: Facts) -> None:
        check_classes(self, problem)

    def share(self, place: Position) -> float:
        return 0.0

    def build(self, feature_shape: tuple[int, ...], problem: Facts, place: Position) -> Term | None:
        return Boosted()
