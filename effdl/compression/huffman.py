"""Huffman codes (Algorithm 1, HuffmanCodebook): the best lengths up to a bound, and canonical codes of given lengths."""

import torch
from torch import Tensor


def code_lengths(counts: Tensor, longest: int) -> Tensor:
    """The code lengths with the least Σ counts · length of all prefix codes whose codes have at most ``longest`` bits.

    Package-merge: `longest` rounds of pairing neighbours and sorting, each over all symbols at once; where no bound is met the
    lengths are Huffman's.

    Args:
        counts: how often each symbol occurs, integers (s,) from 0; the sum of all below 2^62 / s.

    Returns:
        uint8 (s,): 0 for a symbol that does not occur, 1 for one that occurs alone.

    Raises:
        ValueError: more symbols occur than codes of so many bits can tell apart.
    """
    there = counts.nonzero().flatten()
    if len(there) > 2**longest:
        raise ValueError(f"{len(there)} symbols have no codes of at most {longest} bits")
    lengths = torch.zeros(len(counts), dtype=torch.uint8, device=counts.device)
    if len(there) < 2:
        lengths[there] = 1
        return lengths
    weights, order = counts[there].long().sort(stable=True)
    packages, rounds = weights[:0], list[Tensor]()
    for _ in range(longest):
        merged, place = torch.cat([weights, packages]).sort(stable=True)
        rounds.append((place < len(weights)).cumsum(0))  # how many of the first so many are symbols
        packages = merged[: len(merged) // 2 * 2].view(-1, 2).sum(1)
    found, taken = torch.zeros_like(weights), 2 * len(weights) - 2
    for symbols in reversed(rounds):
        if taken == 0:
            break
        alone = int(symbols[taken - 1])  # always those that occur least
        found[:alone] += 1
        taken = 2 * (taken - alone)
    lengths[there[order]] = found.to(torch.uint8)
    return lengths


def canonical(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in the order of (length, symbol), which follow from the lengths alone.

    Args:
        lengths: uint8 (s,), 0 for a symbol without a code.

    Returns:
        codes, int64 (s,), each of its length in bits; and the symbols that a string of as many bits as the longest code begins
        with, int64 (2^longest,).

    Raises:
        ValueError: the lengths are of no code of at least two symbols in which every string of bits has a meaning.
    """
    longest = int(lengths.max()) if len(lengths) else 0
    length, order = lengths.long().sort(stable=True)
    first = int((length == 0).sum())
    length, order = length[first:], order[first:]
    spans = 2 ** (longest - length)
    if len(order) < 2 or longest > 30 or int(spans.sum()) != 2**longest:
        raise ValueError("the code lengths are those of no complete prefix code")
    codes = torch.zeros_like(lengths, dtype=torch.int64)
    codes[order] = (spans.cumsum(0) - spans) // spans
    return codes, order.repeat_interleave(spans)
