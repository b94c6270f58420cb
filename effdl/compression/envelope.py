"""The form of a packet: what is read before anything is made of it.

    "EFDC" | version u16 | 0 u16 | length of the body u64 | body | first 16 bytes of the SHA-256 of all before

The body is the number of layers, u32, and of each layer: its name (u16 length, UTF-8), type u8, kind u8, dimensions (u8 count,
u64 each), length of its content u64, and the content. Numbers are little-endian. The content of a kind:

- raw: the tensor's bytes; constant: those of one element;
- levels: w_min f64, w_max f64, CRC-32 of the levels u32, N u8, coder u8, bits of a symbol u8, the packed bits below these, and
  what the coder wrote.

A content has at least a byte for 256 elements, by zeros behind it where need be, so that nothing large comes out of little.
"""

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.compression.reading import Reader
from effdl.errors import shown

MAGIC, VERSION = b"EFDC", 1
HEAD, DIGEST = struct.Struct("<4sHHQ"), 16
KINDS = ("raw", "constant", "levels")
ELEMENTS_A_BYTE = 256
MOST_NAME, MOST_DIMENSIONS, MOST_ELEMENTS = 2**16 - 1, 64, 2**48
_NAMES = (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 "
    "float8_e4m3fn float8_e5m2 uint16 uint32 uint64"
)
TYPES: tuple[torch.dtype, ...] = tuple(getattr(torch, name) for name in _NAMES.split())  # a type's place is of the format


Packet = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Entry:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    content: memoryview
    bytes: int


def written(name: str, tensor: Tensor, kind: str, data: bytes) -> Iterator[bytes]:
    text = name.encode()
    if len(text) > MOST_NAME or tensor.dim() > MOST_DIMENSIONS:
        raise ValueError(f"{shown(name)[:80]}: its name or its shape is too long")
    yield struct.pack("<H", len(text)) + text
    yield struct.pack("<BBB", TYPES.index(tensor.dtype), KINDS.index(kind), tensor.dim())
    padding = bytes(max(0, -(-tensor.numel() // ELEMENTS_A_BYTE) - len(data)))
    yield struct.pack(f"<{tensor.dim()}QQ", *tensor.shape, len(data) + len(padding))
    yield from (data, padding)


def sealed(body: bytes) -> bytes:
    begun = HEAD.pack(MAGIC, VERSION, 0, len(body)) + body
    return begun + hashlib.sha256(begun).digest()[:DIGEST]


def _opened(packet: Packet) -> memoryview:
    """The body. Raises ValueError."""
    data = memoryview(packet).cast("B")
    if len(data) < HEAD.size + DIGEST or bytes(data[:4]) != MAGIC:
        raise ValueError("packet: not one of effdl's, or it ends too early")
    _, version, flags, length = HEAD.unpack(data[: HEAD.size])
    if version > VERSION or flags:
        raise ValueError(f"packet: of version {version}, this effdl reads up to {VERSION}; a newer effdl reads it")
    if version < 1 or length != len(data) - HEAD.size - DIGEST:
        raise ValueError("packet: more or fewer bytes than it says")
    if hashlib.sha256(data[:-DIGEST]).digest()[:DIGEST] != bytes(data[-DIGEST:]):
        raise ValueError("packet: damaged, its checksum is of other bytes; have it sent again")
    return data[HEAD.size : -DIGEST]


def entries(packet: Packet) -> Iterator[Entry]:
    """All layers as they stand. Raises ValueError."""
    reader, seen = Reader(_opened(packet)), set[str]()
    try:
        (layers,) = reader.numbers("I")
        for _ in range(layers):
            before = reader.left
            (length,) = reader.numbers("H")
            name = bytes(reader.take(length)).decode()
            dtype, kind, dimensions = reader.numbers("BBB")
            if name in seen or dtype >= len(TYPES) or kind >= len(KINDS) or dimensions > MOST_DIMENSIONS:
                raise ValueError("a layer is there twice, or of no type or kind that there is")
            seen.add(name)
            *shape, size = reader.numbers("Q" * (dimensions + 1))
            data = reader.take(size)
            elements = math.prod(shape)
            if math.prod(max(one, 1) for one in shape) > MOST_ELEMENTS or elements > ELEMENTS_A_BYTE * size:
                raise ValueError("a layer has more elements than so many bytes can be of")
            yield Entry(name, tuple(shape), TYPES[dtype], KINDS[kind], data, before - reader.left)
        if reader.left:
            raise ValueError("it goes on behind its last layer")
    except UnicodeDecodeError:
        raise ValueError("packet: a name in it is no text") from None
    except ValueError as error:
        raise ValueError(f"packet: {error}") from None
