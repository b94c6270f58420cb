"""Probes measure while a method runs, and leave no trace in what it computes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.probes.sample import View
from effdl.setting import Count, Setting, Size, setting
from effdl.training.look import Look
from effdl.training.loop import reseed, switch_mode


@setting
class Probe(Setting, ABC):
    """A measurement at the ends of epochs. Its name, `Setting.snake_name`, is its key in a config and prefixes its numbers.

    every: measure after each so many epochs of a segment, and after its last.
    at: measure after so many epochs of a segment and at no other time, 0 being before its first; every does not count then.

    ``begins``: whether it measures before a segment's first epoch too, which is recorded as epoch -1.
    """

    begins: ClassVar[bool] = False

    every: Count = 1
    at: Annotated[tuple[Size, ...], Field(min_length=1)] | None = None

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        """Raise a ConfigError for data or a network of which it cannot measure anything; called before any data are read."""
        return

    def asks(self, look: Look) -> Sequence[View]:
        """What it will ask to see of layers at this look, so that one pass through the network serves all probes."""
        return ()

    @abstractmethod
    def measure(self, look: Look) -> Mapping[str, Any]:
        """What is recorded, by key: "conv1" of the probe stable_rank becomes ``stable_rank/conv1``.

        A value is a number, or a list of them, of what is to be drawn point by point: the first of each list stand in one line
        of metrics.jsonl, the second in the next.

        Args:
            look: its blocks have just learned, and are in eval mode, in which they may be called; the rule beside them too. No
                gradients are recorded unless switched on here, and none may be left. Random numbers come from torch's global
                generator, which is seeded for this measurement alone.

        A number that is not finite is recorded as null.
        """

    def networks(self, look: Look) -> Iterator[tuple[Sequence[str], nn.Module]]:
        """Networks, from stored inputs to logits, that the run is to measure on the test split where it measures its own after
        this epoch; each under names, recorded as ``<probe>/<name>/test/acc``. Nobody is told what came of it.

        One network at a time: it may be changed when the next one is asked for. Called as `measure` is.
        """
        yield from ()

    def is_due(self, epoch: int, last: bool) -> bool:
        """Whether it measures after this epoch of a segment, -1 before the first."""
        if self.at is not None:
            return epoch + 1 in self.at
        return self.begins if epoch < 0 else last or (epoch + 1) % self.every == 0


def measured(probe: Probe, look: Look, seed: int) -> dict[str, Any]:
    """Measure without a trace, see `untraced`; random numbers are from this seed."""
    with untraced(look, seed):
        return dict(probe.measure(look))


@contextmanager
def untraced(look: Look, seed: int = 0) -> Iterator[None]:
    """Within, evaluation mode and no gradients, unless switched on; afterwards modes and random streams are as before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    restore = switch_mode(look.module, False)
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            reseed(seed)
            yield
    finally:
        restore()


def not_finite(found: Mapping[str, Any]) -> str:
    """Which of the numbers are not finite, in words; "" where all are."""
    keys = [key for key, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(keys[:3])}{more} {'is no finite number' if len(keys) == 1 else 'are no finite numbers'}" if keys else ""


def in_lines(found: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """What a probe measured, as lines of metrics.jsonl: one of all numbers, then one for each place in lists."""
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    if len(lists) < len(found) or not lists:
        yield {key: value for key, value in found.items() if key not in lists}
    for place in zip_longest(*lists.values()):
        yield {key: value for key, value in zip(lists, place, strict=True) if value is not None}
