"""What a packet holds of one layer: its bytes, or its levels with all that it takes to read them."""

import math
import struct
import zlib
from typing import Any

import torch
from torch import Tensor

from effdl.compression.coders import CODERS, Huffman, split, there
from effdl.compression.packing import pack, packed_bytes
from effdl.compression.quantisation import MOST_BITS, Quantised, level_type
from effdl.compression.reading import Reader

NUMBERS = tuple(CODERS)  # a coder's place is of the format
HEAD = "ddIBBB"
AUTO = "auto"
LONGER = 1.02  # than Huffman's codes: what `auto` takes of Zstandard, which is written and read several times as fast


def raw(tensor: Tensor) -> bytes:
    """The elements' own bytes, in order."""
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1).contiguous()
    found: bytes = flat.view(torch.uint8).cpu().numpy().tobytes() if len(flat) else b""
    return found


def from_raw(data: memoryview, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Raises ValueError where there are more or fewer bytes, or where one is no truth value and should be."""
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError("it has more or fewer bytes than its shape")
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
    if dtype == torch.bool and bool((flat > 1).any()):
        raise ValueError("it has truth values that are neither")
    return flat.view(dtype).view(shape)


def from_levels(quantised: Quantised, coder: str) -> tuple[str, bytes]:
    """The coder that was taken, and the content, of at least one level.

    coder: one of `CODERS`, in whose place plain numbers go where they are shorter: a table for few levels costs more than it
    spares. Or `auto`: Zstandard where it is installed and hardly longer than Huffman's codes, else these.
    """
    least = plain_bytes(quantised.levels.numel(), quantised.bits)
    if coder == AUTO:
        coder, content = _chosen(quantised)
    else:
        content = _coded(quantised, coder)
    return (coder, content) if len(content) < least else ("plain", _coded(quantised, "plain"))


def plain_bytes(count: int, bits: int) -> int:
    """Of the content of so many levels that no coder has shortened."""
    return struct.calcsize(f"<{HEAD}") + packed_bytes(count, bits)


def _chosen(quantised: Quantised) -> tuple[str, bytes]:
    if there("zstd"):
        above = min(quantised.bits, Huffman.most_bits)
        symbols, _ = split(quantised.levels.reshape(-1), quantised.bits, above)
        expected = Huffman().size(torch.bincount(symbols, minlength=2**above))
        expected += packed_bytes(len(symbols), quantised.bits - above)
        content = _coded(quantised, "zstd")
        if len(content) <= LONGER * expected:
            return "zstd", content
    return "huffman", _coded(quantised, "huffman")


def _coded(quantised: Quantised, coder: str) -> bytes:
    flat, bits, used = quantised.levels.reshape(-1), quantised.bits, CODERS[coder]
    above = min(bits, used.most_bits)
    symbols, below = split(flat, bits, above)
    head = struct.pack(f"<{HEAD}", quantised.low, quantised.high, _check(flat), bits, NUMBERS.index(coder), above)
    counts = torch.bincount(symbols, minlength=2**above)
    return b"".join([head, pack(below, bits - above), used.encode(symbols, counts)])


def to_levels(data: memoryview, shape: tuple[int, ...], device: torch.device) -> Quantised:
    """What `from_levels` was given. Raises ValueError where the content is of no levels of this shape."""
    reader, count = Reader(data), math.prod(shape)
    low, high, check, bits, number, above = reader.numbers(HEAD)
    if not (1 <= bits <= MOST_BITS and number < len(NUMBERS) and low < high and math.isfinite(high - low)):
        raise ValueError("it has no bins, or a coder that there is none of")
    coder = CODERS[NUMBERS[number]]
    if above != min(bits, coder.most_bits):
        raise ValueError("it is split as its coder splits no levels")
    levels = reader.unpacked(torch.empty(count, dtype=level_type(bits), device=device), bits - above)
    levels |= coder.decode(reader, count, above, device).to(levels.dtype) << (bits - above)
    if _check(levels) != check:
        raise ValueError("its levels are not those that were sent")
    return Quantised(levels.view(shape), low, high, bits)


def told(data: memoryview) -> tuple[str, int]:
    """The coder of levels, and how many bits these have. Raises ValueError."""
    *_, bits, number, _ = Reader(data).numbers(HEAD)
    if number >= len(NUMBERS):
        raise ValueError("packet: a layer's coder is none that there is")
    return NUMBERS[number], int(bits)


def _check(levels: Tensor) -> int:
    array: Any = levels.cpu().numpy()
    return zlib.crc32(array)
