"""Learner: a rule at work, with its optimizer, schedule, epochs and scores; it knows nothing of other segments."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from effdl.datasets.batch import Batch
from effdl.errors import Diverged, EffdlError, FitFailed
from effdl.training.dense import Dense
from effdl.training.loop import switch_mode, train_epoch
from effdl.training.optim import Schedule, set_epoch
from effdl.training.products import TakesProducts, into_products, linear_layers
from effdl.training.ranks import Ranks
from effdl.training.rule import Rule, checked
from effdl.training.sync import Syncing


class Learner:
    """A segment in training.

    Args:
        rule: what a step does.
        optimizer: over the rule's parameters.
        seed: (epoch, step) -> seed of the global generator for that step.
        epochs: how many epochs the schedule spans.
        schedule: learning rate by epoch, constant where None.
        ranks: processes that train it together, each on its own part of every batch.

    ``epoch``: how many it has learned from. ``history``: after each of them its score on validation samples. ``syncing``: how
    weights go from process to process, and whether they are sent at all; None where every step has the gradients of all.
    """

    def __init__(
        self,
        rule: Rule,
        optimizer: torch.optim.Optimizer,
        *,
        seed: Callable[[int, int], int],
        epochs: int = 1,
        schedule: Schedule | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.rule, self.optimizer = rule, optimizer
        self.seed, self.epochs, self.schedule = seed, epochs, schedule
        self.ranks = ranks or Ranks()
        self.epoch = 0
        self.history: list[float] = []
        self.syncing: Syncing | None = None
        self._to_check = False
        self._linear: list[nn.Linear] | None = None  # of products, found in the first step
        self._dense: Dense | None = None

    def train_epoch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Learn from one epoch of batches and yield what the blocks put out, detached, as they learn.

        What comes out is the training forward pass: from before the batch's own update, batch normalisation in training
        mode, dropouts inside (§6.2.2, §6.8.3). The epoch counts when the iterator is drained. Of several processes each yields
        the outputs of its own part.
        """
        epoch = self.epoch
        restore = self.begin_epoch()
        try:
            step, exchange = (self.step, None) if self.ranks.alone else (self._part, self._exchange)
            updated = None if self.syncing is None else self.syncing.updated
            yield from train_epoch(batches, step, self.optimizer, lambda step: self.seed(epoch, step), exchange, updated)
        finally:
            restore()
        self.end_epoch()

    def begin_epoch(self) -> Callable[[], None]:
        """Learning rate and mode of the epoch; the returned function puts back the mode that was."""
        set_epoch(self.optimizer, self.schedule, self.epoch, self.epochs)
        if self.syncing is not None:
            self.syncing.begin_epoch()
        return switch_mode(self.rule, True)

    def end_epoch(self) -> None:
        """All steps of an epoch are made: processes agree, and the epoch counts."""
        if self.syncing is None:
            self.ranks.synchronise(self.rule)
        else:
            self.syncing.end_epoch(self.epoch)
        self.epoch += 1

    @property
    def told(self) -> dict[str, float]:
        """What there is to say of the last epoch's weights, as they were sent."""
        return {} if self.syncing is None else self.syncing.told

    def step(self, batch: Batch) -> Batch:
        """Forward and backward for one batch, without the update; gradients stay in ``.grad``, or wait as products."""
        dense = self.ranks.alone and not self.rule._compiled and not (self.syncing and self.syncing.needs_gradients)
        if isinstance(self.optimizer, TakesProducts) and dense:
            if self._linear is None:
                self._linear = linear_layers(self.rule, self.optimizer)
                self._dense = None if self.rule.hardware.precision == "bf16" else self.rule.dense()
            if self._dense is not None:
                return self._dense.learn(batch, self.optimizer.waiting, self.rule.yields)
            with into_products(self._linear, self.optimizer):
                return self._learn(batch)
        return self._learn(batch)

    def _learn(self, batch: Batch) -> Batch:
        if self._to_check:
            self._to_check = False
            return checked(self.rule, self._has_products)(batch, self.epoch)
        return self.rule.learn(batch, self.epoch)

    def _has_products(self) -> bool:
        return isinstance(self.optimizer, TakesProducts) and any(self.optimizer.waiting.values())

    def check_next_step(self) -> None:
        """Hold the rule to what it promises in the next step, see `rule.checked`."""
        self._to_check = True

    def _part(self, batch: Batch) -> Batch:
        """A step on one rank's part; what a single rank meets there is no end that all could record."""
        try:
            return self.step(batch)
        except (Diverged, FitFailed) as error:
            raise EffdlError(str(error)) from error

    def _exchange(self, batch: Batch) -> None:
        exchange = self.ranks.exchange if self.syncing is None else self.syncing.exchange
        exchange((p for group in self.optimizer.param_groups for p in group["params"]), batch)

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned and that its blocks, which are the network's, do not hold."""
        own = {name: tensor for name, tensor in self.rule.state_dict().items() if not name.startswith("blocks.")}
        optimizer = self.optimizer.state_dict()
        syncing = {} if self.syncing is None else {"syncing": self.syncing.state_dict()}
        return {"rule": own, "optimizer": optimizer, "epoch": self.epoch, "history": list(self.history), **syncing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError or RuntimeError for what is no state of it."""
        if not len(state["history"]) == state["epoch"] <= self.epochs:
            raise ValueError("no such epoch")
        blocks = {f"blocks.{name}": tensor for name, tensor in self.rule.blocks.state_dict().items()}
        self.rule.load_state_dict({**blocks, **state["rule"]})
        self.optimizer.load_state_dict(state["optimizer"])
        if self.syncing is not None:
            self.syncing.load_state_dict(state["syncing"])
        self.epoch, self.history = state["epoch"], list(map(float, state["history"]))
