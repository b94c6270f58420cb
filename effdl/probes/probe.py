"""Probes measure while a method runs, and leave no trace in what it computes."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from effdl.setting import Count, Setting, setting
from effdl.training.loop import reseed, switch_mode


@setting
class Probe(Setting, ABC):
    """A measurement at the ends of epochs. Its name, `Setting.snake_name`, is its key in a config and prefixes its numbers.

    every: measure after each so many epochs of a segment, and after its last.
    """

    every: Count = 1

    @abstractmethod
    def measure(self, blocks: nn.Sequential) -> dict[str, float]:
        """What is recorded, by key: "conv1" of the probe stable_rank becomes ``stable_rank/conv1``.

        Args:
            blocks: the named blocks that have just learned, in eval mode, in which they may be called; their weights and
                buffers are the network's own. No gradients are recorded unless switched on here, and none may be left.
                Random numbers come from torch's global generator, which is seeded for this measurement alone.

        A number that is not finite is recorded as null.
        """


def look(probe: Probe, blocks: nn.Sequential, seed: int) -> dict[str, float]:
    """Measure without a trace: modes and random streams are as before, and gradients are off unless the probe wants them."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    restore = switch_mode(blocks, False)
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            reseed(seed)
            return probe.measure(blocks)
    finally:
        restore()
