"""How a chain of blocks is cut into segments: windows that slide (thesis §6.5), or partitions of equal depth (§6.8)."""

from itertools import pairwise

Span = tuple[int, int]  # blocks [start, stop)


def windows(blocks: int, size: int, overlap: int = 0) -> list[Span]:
    """Segments of ``size`` blocks from the bottom, each beginning with the last ``overlap`` of the one below; overlap < size.

    The last one ends with the last block, and is shorter where the windows do not come out even: none lies within another.
    """
    spans = [(0, min(size, blocks))]
    while spans[-1][1] < blocks:
        start = spans[-1][1] - overlap
        spans.append((start, min(start + size, blocks)))
    return spans


def evenly(blocks: int, parts: int) -> list[Span]:
    """Partitions whose numbers of blocks differ by one at most, the longer ones at the top; parts ≤ blocks."""
    stops = [i * blocks // parts for i in range(parts + 1)]
    return list(pairwise(stops))
