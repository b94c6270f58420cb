"""In which order segments learn: turns, by Algorithms 3 and 4 of the thesis, or all at once (§6.8.3)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import _disable_current_modes

from effdl.rng import seed_for


@dataclass(frozen=True, slots=True)
class Turn:
    """A segment learns for so many epochs, and then it is another's turn.

    above: so many segments above it learn at once with it, each from what the one below puts out as it learns (§6.8.3).
    """

    segment: int
    epochs: int
    above: int = 0

    @property
    def segments(self) -> range:
        """All that learn, from the bottom up."""
        return range(self.segment, self.segment + 1 + self.above)


def bottom_up(epochs: Sequence[int]) -> Iterator[Turn]:
    """Algorithm 3: each segment once, to its end. epochs: of each."""
    for segment, count in enumerate(epochs):
        yield Turn(segment, count)


def robin(epochs: Sequence[int], rounds: int, order: Callable[[int], Sequence[int]] | None = None) -> Iterator[Turn]:
    """Algorithm 4: in each round every segment for a few epochs, from the bottom up or in a random order.

    Args:
        epochs: of each segment in a round.
        order: round -> the segments in the order of their turns, such as `permuted` ("IsRandom = True").
    """
    for number in range(rounds):
        for segment in order(number) if order else range(len(epochs)):
            yield Turn(segment, epochs[segment])


def together(epochs: int, segments: int) -> Iterator[Turn]:
    """All segments learn at once, in one pass through the data an epoch, as they would on a device each (§6.8.3)."""
    yield Turn(0, epochs, segments - 1)


def permuted(seed: int, segments: int, number: int, ordered: int = 0) -> list[int]:
    """The segments in a random order, round by round another; so many first rounds are from the bottom up."""
    if number < ordered:
        return list(range(segments))
    generator = torch.Generator().manual_seed(seed_for(seed, "robin", number))
    with _disable_current_modes():  # a plan asks for it among fake tensors, which have no numbers
        return torch.randperm(segments, generator=generator).tolist()
