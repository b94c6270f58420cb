"""Blocks are to move samples as little as they can: TRGL (Karkar, Ayed, de Bézenac and Gallinari 2023, Module-wise Training of
Neural Networks via the Minimizing Movement Scheme)."""

from itertools import pairwise

from torch import Tensor

from effdl.datasets.dataset import Facts
from effdl.objectives.objective import at_least_float32
from effdl.setting import NonNegative, setting
from effdl.training.local_loss import LocalLoss, Position, Seen, Term


def displacement(x: Tensor, z: Tensor) -> Tensor:
    """‖z − x‖² of each sample, (B,), for what a block gets and puts out; 0 where it changes the shape."""
    if z.shape != x.shape:
        return at_least_float32(x.new_zeros(len(x)))
    return at_least_float32(z - x).flatten(1).square().sum(1)


class Transport(Term):
    """``weight`` times the `displacement` of each block of a segment, summed up."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, seen: Seen) -> Tensor:
        moved = [displacement(x, z) for x, z in pairwise(seen.activations)]
        return self.weight * sum(moved[1:], moved[0])


@setting
class TransportPenalty(LocalLoss):
    """The decision block's loss and the kinetic energy of the blocks: the squared distance that each moves a sample, of those
    that keep the shape, such as residual blocks.

    weight: 1 / (2τ) there; of squared distances that are sums over all features. With 0 it is the decision block's loss.
    """

    weight: NonNegative = 1e-6

    def share(self, place: Position) -> float:
        return 1.0

    def build(self, feature_shape: tuple[int, ...], problem: Facts, place: Position) -> Term | None:
        return Transport(self.weight) if self.weight > 0 else None
