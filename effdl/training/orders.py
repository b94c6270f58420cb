"""In which order segments learn: turns, by Algorithms 3 and 4 of the thesis."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """A segment learns for so many epochs, and then it is another's turn."""

    segment: int
    epochs: int


def bottom_up(epochs: Sequence[int]) -> Iterator[Turn]:
    """Algorithm 3: each segment once, to its end. epochs: of each."""
    for segment, count in enumerate(epochs):
        yield Turn(segment, count)


def robin(epochs: Sequence[int], rounds: int, permuted: Callable[[int], Sequence[int]] | None = None) -> Iterator[Turn]:
    """Algorithm 4: in each round every segment for a few epochs, from the bottom up or in a random order.

    Args:
        epochs: of each segment in a round.
        permuted: round -> the order of the segments in it ("IsRandom = True").
    """
    for number in range(rounds):
        for segment in permuted(number) if permuted else range(len(epochs)):
            yield Turn(segment, epochs[segment])
