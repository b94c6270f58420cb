"""What a method may ask of the run that carries it. `records.Run` is one; methods never import records."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from effdl.training.memory import Memory
from effdl.training.optim import Schedule


@dataclass(frozen=True, slots=True)
class SegmentCost:
    """What one segment will cost: counted bytes, and seconds measured on one batch.

    steps, val_steps: batches of an epoch and of the validation set. feed_s: the whole frozen prefix forward; step_s: one
    training step without it. kept: features are stored, not fed. idle_bytes: weights of the network that this segment does not
    need, which lie in memory all the same. kept_bytes: features stored while it trains.
    """

    epochs: int
    steps: int
    val_steps: int
    feed_s: float
    step_s: float
    kept: bool
    memory: Memory
    idle_bytes: int = 0
    kept_bytes: int = 0


class RunHandle(Protocol):
    """An open run."""

    @property
    def schedule(self) -> Schedule | None:
        """Learning rate by epoch; restarts with every segment."""

    def seed(self, stream: str, *counters: int) -> int:
        """Seed of a random stream at a point of this run, see `rng.seed_for`."""

    def optimizer(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        """The configured optimizer over these parameters, its base values scaled."""

    def expect(self, costs: list[SegmentCost]) -> None:
        """Say beforehand what the run will cost."""

    def progress(self, segment: int, segments: int, epoch: int, epochs: int, step: int, steps: int) -> bool:
        """Show how far it is, and return whether something was shown; called every step, costs next to nothing."""

    def record(self, segment: int, epoch: int, **metrics: float) -> None:
        """Write one line of metrics, keys like ``train_loss`` becoming ``train/loss``."""

    def test(self, model: nn.Module, segment: int, epoch: int, last: bool) -> None:
        """Let the run measure a network on the test split; nothing comes back, so nothing can be chosen by it."""

    def note(self, **facts: Any) -> None:
        """Facts for the summary, keys like ``segment_chosen`` becoming ``segment/chosen``; JSON values; survive a resume."""

    def timer(self, name: str) -> AbstractContextManager[None]:
        """Adds the seconds spent within to ``time/<name>_s``."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Offer a checkpoint: everything needed to go on from here. The run may skip it."""

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint's state, or None in a fresh run."""
