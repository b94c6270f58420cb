"""Bytes that somebody else wrote, read in order: nothing is taken that is not there."""

import struct
import zlib
from typing import Any

from effdl.compression.packing import packed_bytes, unpack


class Reader:
    """Goes through bytes once. Every method raises ValueError where what it asks for is not there."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= self.left:
            raise ValueError("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """As `struct` reads them, from little-endian bytes."""
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def unpacked(self, out: Any, bits: int) -> Any:
        """A tensor (n,) of whole numbers of so many bits, as `pack` wrote them."""
        return unpack(self.take(packed_bytes(len(out), bits)), len(out), bits, out)

    def deflated(self, most: int) -> bytes:
        """What `deflated` wrote, which has at most so many bytes."""
        (count,) = self.numbers("H")
        stream = zlib.decompressobj()
        try:
            found = stream.decompress(self.take(count), most)
        except zlib.error:
            raise ValueError("its table is damaged") from None
        if not stream.eof or stream.unused_data:
            raise ValueError("its table is damaged")
        return found


def deflated(table: bytes) -> bytes:
    """A short table, shorter; at most 64 KiB then."""
    content = zlib.compress(table, 9)
    return struct.pack("<H", len(content)) + content
