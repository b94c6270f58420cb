"""Sync: what weights go through on their way between processes, or as if there were others (thesis chapter 3)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.setting import Setting
from effdl.training.hardware import Hardware
from effdl.training.ranks import Ranks
from effdl.training.rule import Rule

Seed = Callable[[int], int]  # of an epoch, the same in all processes


class Syncing:
    """A `Sync` at work for one learner; this one has every step take the gradients of all processes, as without any.

    ``needs_gradients``: whether it looks at ``.grad`` after an update. ``stacks``: whether it does nothing but at the ends of
    epochs, so that its learner can be one of a stack. ``told``: what there is to say of the last epoch, by "sync/...".
    """

    needs_gradients = False
    stacks = False

    def __init__(self, rule: Rule, ranks: Ranks) -> None:
        self.rule, self.ranks = rule, ranks
        self.told: dict[str, float] = {}

    def begin_epoch(self) -> None:
        """Before the first step of an epoch."""
        return

    def exchange(self, parameters: Iterable[nn.Parameter], batch: Batch) -> None:
        """Between a step and its update, of several processes."""
        self.ranks.exchange(parameters, batch)

    def updated(self) -> None:
        """After an update, while its gradients are there."""
        return

    def end_epoch(self, epoch: int) -> None:
        """After the last update of an epoch, counted from 0: all processes end with the same weights and buffers."""
        self.ranks.synchronise(self.rule)

    def state_dict(self) -> dict[str, Any]:
        """Between epochs, in all processes where one asks for it: what it needs to go on that the rule does not hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError, RuntimeError or ValueError for what is no state of it."""
        return


class Sync(Setting, ABC):
    """A choice of the group: how processes agree, and what they send. None: each step takes the gradients of all, as they are.

    ``stacks``: whether runs with it can be trained as one, see `Syncing.stacks`. ``has_parts``: whether each process has a part
    of its state, so that a checkpoint is made by all of them together.
    """

    has_parts: ClassVar[bool] = False

    @property
    def stacks(self) -> bool:
        return False

    def check(self, hardware: Hardware) -> None:
        """Raise a ConfigError for a machine that it cannot work on."""
        return

    @abstractmethod
    def begin(self, rule: Rule, optimizer: torch.optim.Optimizer, ranks: Ranks, seed: Seed) -> Syncing:
        """At work for a learner.

        Args:
            seed: of what it draws in an epoch.
        """


def matrices(rule: Rule) -> dict[str, Tensor]:
    """The weights of two dimensions and more that learn, kernels too, by their layers.

    A block with one matrix gives it its name, of several each is <block>.<parameter>; what makes the segment's outputs of its
    blocks is "output". Probes name layers so.
    """
    found = dict[str, Tensor]()
    layers: list[tuple[str, Mapping[str, Tensor]]] = [
        (name, dict(block.named_parameters())) for name, block in rule.blocks.named_children()
    ]
    own = {name: p for name, p in rule.named_parameters() if not name.startswith("blocks.")}
    for layer, parameters in (*layers, ("output", own)):
        here = {name: p for name, p in parameters.items() if p.dim() >= 2 and p.requires_grad and p.is_floating_point()}
        found |= {layer if len(here) == 1 else f"{layer}.{name}": p for name, p in here.items()}
    return found
