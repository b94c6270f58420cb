"""Look: what a probe is shown of a segment."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.objectives.objective import Objective
from effdl.training.rule import Rule


@dataclass(frozen=True, slots=True)
class Learning:
    """How blocks learn.

    rule: theirs. objective: of the problem. epoch: how many epochs they have learned. sample: makes a batch of training
    samples as the segment gets it, through the blocks below as they are now: the first batch of the first epoch, the same at
    each look. It costs what feeding one batch does.

    problem: training and validation data; the test split is nobody's but the run's. below: what is called before the blocks,
    the input block first. local: from there to logits. names: of all blocks of the network, from the bottom up, those that do
    not learn now among them. The engine gives all four.
    """

    rule: Rule
    objective: Objective
    epoch: int
    sample: Callable[[], Batch]
    problem: Problem | None = None
    below: tuple[nn.Module, ...] = ()
    local: nn.Module | None = None
    names: tuple[str, ...] = ()

    @property
    def network(self) -> nn.Module | None:
        """From stored inputs to logits, None where it is not known."""
        return None if self.local is None else nn.Sequential(*self.below, self.local)


@dataclass(frozen=True, slots=True)
class Look:
    """Named blocks that learn, with weights and buffers that are the network's own, and how they do, where it is known.

    The engine always says so.

    kept: what was found out for one probe and serves others at this look, see `probes.sample`.
    """

    blocks: nn.Sequential
    learning: Learning | None = None
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def module(self) -> nn.Module:
        """The blocks with all that learns beside them."""
        return self.blocks if self.learning is None else self.learning.rule
