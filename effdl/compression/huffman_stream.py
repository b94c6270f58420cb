"""Streams of Huffman codes, written and read many at a time, on any device.

Symbols go two and two. A lane is some pairs that follow one another; lanes follow lanes without a gap, and what is sent beside
says how long each is. So many pairs are written by a few operations, as a code begins where the lengths before it sum up to,
and all lanes are read side by side, a pair of each at a time. Bits fill words from the lowest on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from effdl.compression.huffman import canonical

MOST_SYMBOLS = 1024
PART = 2**25  # symbols that are written or read at a time, which bounds the memory that this takes
MOST_ROWS = 256
AT_ONCE = 2**17  # pairs that are written at a time: what they need stays in a core's cache
TOGETHER = 16  # rows that are put in their places at a time
LENGTH = 5  # bits of a table's entry that say how many bits a pair has


def longest(symbols: int) -> int:
    """Bits that a code of so many symbols may have: where symbols are bytes, a table of all beginnings stays in a core's cache;
    elsewhere two codes that begin within a word still end within the next."""
    return 12 if symbols <= 256 else 14


@dataclass(frozen=True)
class Book:
    """Canonical codes from their lengths, uint8 (s,), of s from 2 to 1024 symbols.

    Raises ValueError where a code were longer than `longest`, or where lengths are of no such code, see `canonical`.
    """

    lengths: Tensor

    def __post_init__(self) -> None:
        if not 2 <= len(self.lengths) <= MOST_SYMBOLS or self.longest > longest(len(self.lengths)):
            raise ValueError("its code book has too few or too many codes, or too long ones")
        _ = self._canonical

    @cached_property
    def _canonical(self) -> tuple[Tensor, Tensor]:
        return canonical(self.lengths)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    @property
    def short(self) -> bool:
        """Whether a symbol is a byte."""
        return len(self.lengths) <= 256

    @cached_property
    def entries(self) -> Tensor:
        """code · 2^5 + length of each symbol, or of each pair of bytes, int32; a code's first bit is its lowest."""
        length = self.lengths.int()
        code = _reversed(self._canonical[0], self.longest).int() >> (self.longest - length)
        if self.short:
            code, length = _padded(code), _padded(length)
            code = (code | (code[:, None] << length)).flatten()
            length = (length + length[:, None]).flatten()
        return (code << LENGTH) | length

    @cached_property
    def readings(self) -> tuple[Tensor, Tensor]:
        """symbol · 2^5 + length of the code that bits begin with, int32 (2^longest,), for a pair's first and second symbol."""
        begun = torch.arange(2**self.longest, device=self.lengths.device)
        symbol = self._canonical[1][_reversed(begun, self.longest)]
        length = self.lengths.long()[symbol]
        later = 8 if self.short else 16
        return ((symbol << LENGTH) | length).int(), ((symbol << (LENGTH + later)) | length).int()


def _reversed(codes: Tensor, width: int) -> Tensor:
    """The lowest ``width`` bits in opposite order."""
    turned = torch.zeros_like(codes)
    for bit in range(width):
        turned |= ((codes >> bit) & 1) << (width - 1 - bit)
    return turned


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, 256 - len(values)))


def parts(symbols: int) -> Iterator[tuple[int, int, int]]:
    """How many symbols each part has of so many, the pairs of a lane, and the lanes: shorter ones of fewer symbols."""
    for start in range(0, symbols, PART):
        count = min(PART, symbols - start)
        rows = min(MOST_ROWS, max(16, 2 ** int(count**0.5).bit_length() // 4))
        yield count, rows, -(-count // (2 * rows))


def write(symbols: Tensor, book: Book, rows: int, lanes: int) -> tuple[Tensor, Tensor]:
    """One part's codes.

    Args:
        symbols: uint8 (n,) where the book is of bytes, else int16; each has a code. n ≤ 2 · rows · lanes.

    Returns:
        the bits of each lane, int32 (lanes,), and the words, int32.
    """
    missing = 2 * rows * lanes - len(symbols)
    if missing:
        likeliest = int(book.lengths.where(book.lengths > 0, 255).argmin())
        symbols = torch.nn.functional.pad(symbols, (0, missing), value=likeliest)
    bits, written, over = list[Tensor](), list[Tensor](), 0
    begun = torch.zeros(1, dtype=torch.int32, device=symbols.device)  # the last word, of which ``over`` bits are written
    for pairs in symbols.view(torch.uint16 if book.short else torch.int32).split(AT_ONCE):
        code, length = _looked_up(pairs, book)
        end = length.cumsum(0, dtype=torch.int32).add_(over)
        full, over = divmod(int(end[-1]), 32)
        words = _words(code, end - length, full + 1)
        words[0] |= begun[0]
        bits.append(length.view(-1, rows).sum(1, dtype=torch.int32))
        written.append(words[:full])
        begun = words[full:]
    return torch.cat(bits), torch.cat([*written, begun] if over else written)


def _words(codes: Tensor, at: Tensor, count: int) -> Tensor:
    """So many words, int32, in which each code begins at its bit."""
    cells = torch.zeros(count + 1, dtype=torch.int64, device=codes.device)  # a word each, and above it what the next one takes
    cells.scatter_add_(0, (at >> 5).long(), codes.long() << (at & 31).long())  # no two have a bit in common
    halves = cells.view(torch.int32).view(-1, 2)
    words = halves[:count, 0].clone()
    words[1:] |= halves[: count - 1, 1]
    return words


def _looked_up(pairs: Tensor, book: Book) -> tuple[Tensor, Tensor]:
    """Code and length of each pair, int32 (n,)."""
    if book.short:
        entry = torch.index_select(book.entries, 0, pairs.int())
        return entry >> LENGTH, entry & (2**LENGTH - 1)
    first = torch.index_select(book.entries, 0, pairs & 0xFFFF)
    second = torch.index_select(book.entries, 0, pairs >> 16)
    length = first & (2**LENGTH - 1)
    return (first >> LENGTH) | (second >> LENGTH << length), length + (second & (2**LENGTH - 1))


def read(bits: Tensor, words: Tensor, book: Book, rows: int) -> Tensor:
    """The symbols of one part, uint8 (2 · rows · lanes,) or int16; what was padded is at the end.

    Raises ValueError where a lane does not end where the next one begins.
    """
    lanes, end = len(bits), bits.long().cumsum(0)
    if not len(words) * 32 - 32 < int(end[-1]) <= len(words) * 32 <= 2**31:
        raise ValueError("the lanes of a part have more or fewer bits than there are")
    at = (end - bits).int()
    windows, mask = _windows(words, rows * 2 * book.longest // 32 + 2), 2**book.longest - 1
    first, second = book.readings
    pairs = torch.empty(lanes, rows, dtype=torch.int16 if book.short else torch.int32, device=words.device)
    some = torch.empty(TOGETHER, lanes, dtype=pairs.dtype, device=words.device)
    for start in range(0, rows, TOGETHER):
        for row in some:
            window = torch.index_select(windows, 0, at >> 5) >> (at & 31).long()
            entry = torch.index_select(first, 0, window & mask)
            window >>= (entry & (2**LENGTH - 1)).long()
            entry += torch.index_select(second, 0, window & mask)
            at += entry & (2**LENGTH - 1)
            row.copy_(entry >> LENGTH)
        pairs[:, start : start + TOGETHER] = some.t()
    if not torch.equal(at.long(), end):
        raise ValueError("a lane of codes does not end where the next one begins")
    return pairs.view(-1).view(torch.uint8 if book.short else torch.int16)


def _windows(words: Tensor, beyond: int) -> Tensor:
    """Each word with the next one above it, int64; then so many of zeros, as far as a lane could read."""
    cells = torch.empty(len(words) + beyond, 2, dtype=torch.int32, device=words.device)
    cells[: len(words), 0] = words
    cells[: len(words) - 1, 1] = words[1:]
    cells[len(words) - 1 :, 1] = 0
    cells[len(words) :, 0] = 0
    return cells.view(torch.int64).view(-1)
