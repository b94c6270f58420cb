"""What a segment may descend beside its decision block's loss, or in its place: the local losses of the literature (§6.3.1)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.setting import Setting


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step of a segment shows to a local loss.

    activations: what the segment gets, (B, ...), behind its dropout, and what each of its blocks puts out, from the bottom up.
    logits: (B, K), of its decision block. y: the batch's targets. inputs: (B, *input), the samples as they are stored, of a
    loss that wants them.
    """

    activations: Sequence[Tensor]
    logits: Tensor
    y: Tensor
    inputs: Tensor | None = None


class Position(NamedTuple):
    """Which segment, from 0, of how many."""

    segment: int = 0
    of: int = 1

    @property
    def is_top(self) -> bool:
        """Whether it ends with the network's last block."""
        return self.segment == self.of - 1

    def between(self, first: float, last: float) -> float:
        """From ``first`` in the lowest segment to ``last`` in the one below the top, linearly; ``first`` where that is one."""
        share = self.segment / (self.of - 2) if self.of > 2 else 0.0
        return first + (last - first) * min(share, 1.0)


class Term(nn.Module, ABC):
    """A local loss at work in one segment, with what it learns for itself and is thrown away with it."""

    @abstractmethod
    def forward(self, seen: Seen) -> Tensor:
        """(B,): added to each sample's loss."""


class LocalLoss(Setting, ABC):
    """A local loss; its config is `configs/method/loss/<name>.yaml`.

    ``wants_inputs``: see `Rule.wants_inputs`.
    """

    wants_inputs: ClassVar[bool] = False

    def check(self, problem: Facts) -> None:
        """Raise a ConfigError for data that it cannot take; called before any are read."""
        return

    @abstractmethod
    def share(self, place: Position) -> float:
        """By what the loss of a segment's decision block is multiplied; 0 and it is without."""

    @abstractmethod
    def build(self, feature_shape: tuple[int, ...], problem: Facts, place: Position) -> Term | None:
        """The freshly drawn term of a segment that puts out (B, *feature_shape); None where it has none.

        Raises ConfigError for features that it cannot take.
        """


def check_classes(loss: LocalLoss, problem: Facts) -> None:
    """Raise a ConfigError unless targets are classes, two or more with an output each."""
    if problem.targets != "classes" or problem.outputs < 2:
        raise ConfigError(
            f"method/loss={loss.snake_name()}: is of classes with an output each, and these are {problem.outputs} outputs for "
            f"{problem.targets}; say method/loss=none"
        )
