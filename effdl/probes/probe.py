"""Probes measure while a method runs, and leave no trace in what it computes."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from effdl.setting import Count, Setting, setting
from effdl.training.look import Look
from effdl.training.loop import reseed, switch_mode


@setting
class Probe(Setting, ABC):
    """A measurement at the ends of epochs. Its name, `Setting.snake_name`, is its key in a config and prefixes its numbers.

    every: measure after each so many epochs of a segment, and after its last.

    ``begins``: whether it measures before a segment's first epoch too, which is recorded as epoch -1.
    """

    begins: ClassVar[bool] = False

    every: Count = 1

    @abstractmethod
    def measure(self, look: Look) -> dict[str, float]:
        """What is recorded, by key: "conv1" of the probe stable_rank becomes ``stable_rank/conv1``.

        Args:
            look: its blocks have just learned, and are in eval mode, in which they may be called; the rule beside them too. No
                gradients are recorded unless switched on here, and none may be left. Random numbers come from torch's global
                generator, which is seeded for this measurement alone.

        A number that is not finite is recorded as null.
        """

    def is_due(self, epoch: int, last: bool) -> bool:
        """Whether it measures after this epoch of a segment, -1 before the first."""
        return self.begins if epoch < 0 else last or (epoch + 1) % self.every == 0


def measured(probe: Probe, look: Look, seed: int) -> dict[str, float]:
    """Measure without a trace: modes and random streams are as before, and gradients are off unless the probe wants them."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    restore = switch_mode(look.module, False)
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            reseed(seed)
            return probe.measure(look)
    finally:
        restore()
