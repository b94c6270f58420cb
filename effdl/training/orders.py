"""In which order segments learn: turns, by Algorithms 3 and 4 of the thesis."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from effdl.rng import seed_for


@dataclass(frozen=True, slots=True)
class Turn:
    """A segment learns for so many epochs, and then it is another's turn."""

    segment: int
    epochs: int


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


def permuted(seed: int, segments: int, number: int, ordered: int = 0) -> list[int]:
    """The segments in a random order, round by round another; so many first rounds are from the bottom up."""
    if number < ordered:
        return list(range(segments))
    generator = torch.Generator().manual_seed(seed_for(seed, "robin", number))
    return torch.randperm(segments, generator=generator).tolist()
