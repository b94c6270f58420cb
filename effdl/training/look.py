"""Look: what a probe is shown of a segment."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from effdl.datasets.batch import Batch
from effdl.objectives.objective import Objective
from effdl.training.rule import Rule


@dataclass(frozen=True, slots=True)
class Learning:
    """How blocks learn.

    rule: theirs. objective: of the problem. epoch: how many epochs they have learned. sample: makes a batch of training
    samples as the segment gets it, through the blocks below as they are now: the first batch of the first epoch, the same at
    each look. It costs what feeding one batch does.
    """

    rule: Rule
    objective: Objective
    epoch: int
    sample: Callable[[], Batch]


@dataclass(frozen=True, slots=True)
class Look:
    """Named blocks that learn, with weights and buffers that are the network's own, and how they do, where it is known.

    The engine always says so.
    """

    blocks: nn.Sequential
    learning: Learning | None = None

    @property
    def module(self) -> nn.Module:
        """The blocks with all that learns beside them."""
        return self.blocks if self.learning is None else self.learning.rule
