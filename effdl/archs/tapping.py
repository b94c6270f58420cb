"""Heads that look at what several blocks put out, not at the last block's outputs alone (hypercolumns, §4.13)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn


class Tapping(nn.Module, ABC):
    """A head that is given what the blocks at the places ``taps``, from 0 and rising, put out.

    Networks with such a head learn as one segment: a segment of their own has no place for what lies above it.
    """

    taps: tuple[int, ...]

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], at: Tensor | None = None) -> Tensor:
        """Outputs of the problem, of maps (B, C, h, w) in the order of ``taps``. at: (B, P), which pixels alone are asked for,
        row by row; then outputs are (B, K, P, 1)."""

    @abstractmethod
    def drawn(self, y: Tensor) -> Tensor | None:
        """Which pixels a training step learns from, (B, P), of targets (B, H, W); None for all. Draws from torch's global
        generator."""


def tapped(head: Tapping, activations: Iterable[Tensor]) -> list[Tensor]:
    """Of what all blocks put out, from the bottom up, what the head asks for."""
    return [z for place, z in enumerate(activations) if place in head.taps]


def through(blocks: nn.Sequential, head: nn.Module, x: Tensor) -> Tensor:
    """head(blocks(x)), and of a head that taps the blocks, what it makes of these."""
    if not isinstance(head, Tapping):
        return cast(Tensor, head(blocks(x)))
    maps: list[Tensor] = []
    for place, block in enumerate(blocks):
        x = block(x)
        if place in head.taps:
            maps.append(x)
    return cast(Tensor, head(maps))


def of_drawn(head: Tapping, maps: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a training step: (B, K, P, 1) and (B, P, 1) of those pixels that the head draws, or of all."""
    if (at := head.drawn(y)) is None:
        return head(maps), y
    return head(maps, at), y.flatten(1).gather(1, at).unsqueeze(2)
