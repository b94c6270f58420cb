"""Lossless coders of quantised weights (thesis §3.4): Huffman's, asymmetric numeral systems, Zstandard.

Levels of more bits than a coder's symbols have are split: what is above is coded, what is below, which is hardly anything but
noise, goes as it is. `plain` sends all of it so.
"""

import struct
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from effdl.compression import huffman_stream
from effdl.compression.huffman import code_lengths
from effdl.compression.packing import pack
from effdl.compression.reading import Reader, deflated

ANS_TOTAL = 2**16
ZSTD_LEVEL = 1  # literals are all there is to find: higher ones are slower, not shorter


class Coder(Protocol):
    most_bits: int  # of a symbol

    def encode(self, symbols: Tensor, counts: Tensor) -> bytes:
        """symbols: (n,), at least one, of `symbol_type`; counts: how often each of 2^bits symbols occurs, int64."""

    def decode(self, data: Reader, count: int, bits: int, device: torch.device) -> Tensor:
        """The same symbols. Raises ValueError where the data hold no so many."""


def symbol_type(bits: int) -> torch.dtype:
    return torch.uint8 if bits <= 8 else torch.int16


class Plain:
    most_bits = 0

    def encode(self, symbols: Tensor, counts: Tensor) -> bytes:
        return b""

    def decode(self, data: Reader, count: int, bits: int, device: torch.device) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8, device=device)


class Huffman:
    """Own, on tensors, on any device; see `huffman_stream`."""

    most_bits = 10

    def lengths(self, counts: Tensor) -> Tensor:
        return code_lengths(_two_at_least(counts), huffman_stream.longest(len(counts)))

    def size(self, counts: Tensor) -> float:
        """How many bytes it takes, without writing them."""
        lengths, count = self.lengths(counts), int(counts.sum())
        lanes = sum(2 * lanes for *_, lanes in huffman_stream.parts(count))
        return float((counts * lengths).sum()) / 8 + len(deflated(_bytes(lengths))) + lanes

    def encode(self, symbols: Tensor, counts: Tensor) -> bytes:
        book = huffman_stream.Book(self.lengths(counts))
        content, at = [deflated(_bytes(book.lengths))], 0
        for count, rows, lanes in huffman_stream.parts(len(symbols)):
            bits, words = huffman_stream.write(symbols[at : at + count], book, rows, lanes)
            least = int(bits.min())
            width = (int(bits.max()) - least).bit_length()
            content += [struct.pack("<HBI", least, width, len(words)), pack(bits - least, width), _bytes(words)]
            at += count
        return b"".join(content)

    def decode(self, data: Reader, count: int, bits: int, device: torch.device) -> Tensor:
        lengths = torch.frombuffer(bytearray(data.deflated(2**bits)) or bytearray(1), dtype=torch.uint8)
        if len(lengths) != 2**bits or count > 8 * data.left:
            raise ValueError("its table is of other symbols, or they are too few")
        book, symbols = huffman_stream.Book(lengths.to(device)), torch.empty(count, dtype=symbol_type(bits), device=device)
        at = 0
        for some, rows, lanes in huffman_stream.parts(count):
            least, width, words = data.numbers("HBI")
            if width > 16:
                raise ValueError("its lanes are longer than they can be")
            of_lanes = data.unpacked(torch.empty(lanes, dtype=torch.int32, device=device), width) + least
            written = _tensor(data.take(4 * words), torch.int32, device)
            symbols[at : at + some] = huffman_stream.read(of_lanes, written, book, rows)[:some]
            at += some
        return symbols


class Ans:
    """Asymmetric numeral systems, by the library constriction, on the CPU: as short as can be, and slower."""

    most_bits = 10

    def encode(self, symbols: Tensor, counts: Tensor) -> bytes:
        shares = frequencies(_two_at_least(counts), ANS_TOTAL)
        stack = _library("ans", "constriction").stream.stack.AnsCoder()
        stack.encode_reverse(symbols.cpu().int().numpy(), self._model(shares))
        words = stack.get_compressed()
        table = deflated(_bytes((shares & 255).to(torch.uint8)) + _bytes((shares >> 8).to(torch.uint8)))
        return b"".join([table, struct.pack("<I", len(words)), words.tobytes()])

    def decode(self, data: Reader, count: int, bits: int, device: torch.device) -> Tensor:
        constriction = _library("ans", "constriction")
        table = torch.frombuffer(bytearray(data.deflated(2 * 2**bits)) or bytearray(1), dtype=torch.uint8).long()
        if len(table) != 2 * 2**bits:
            raise ValueError("its table is of other symbols")
        shares = table[: 2**bits] + 256 * table[2**bits :]
        if int(shares.sum()) != ANS_TOTAL or int((shares > 0).sum()) < 2:
            raise ValueError("its table has no shares of a whole")
        (words,) = data.numbers("I")
        stack = constriction.stream.stack.AnsCoder(_tensor(data.take(4 * words), torch.int32).numpy().view("uint32"))
        symbols = torch.from_numpy(stack.decode(self._model(shares), count))
        if int(symbols.amax()) >= 2**bits or int(symbols.amin()) < 0:
            raise ValueError("it holds symbols that there are none of")
        return symbols.to(symbol_type(bits)).to(device)

    def _model(self, shares: Tensor) -> Any:
        categorical = _library("ans", "constriction").stream.model.Categorical
        return categorical((shares.double() / ANS_TOTAL).cpu().numpy(), perfect=False)


class Zstd:
    """Zstandard's literals, by the library zstandard, on the CPU: within 0.06 bit of the entropy, and fastest by far."""

    most_bits = 8

    def encode(self, symbols: Tensor, counts: Tensor) -> bytes:
        compressor = _library("zstd", "zstandard").ZstdCompressor(level=ZSTD_LEVEL)
        content: bytes = compressor.compress(symbols.cpu().numpy())
        return struct.pack("<I", len(content)) + content

    def decode(self, data: Reader, count: int, bits: int, device: torch.device) -> Tensor:
        zstandard = _library("zstd", "zstandard")
        (length,) = data.numbers("I")
        content = data.take(length)
        try:
            if zstandard.get_frame_parameters(content).content_size != count:
                raise ValueError("it holds more or fewer symbols than there are")
            found = zstandard.ZstdDecompressor().decompress(content, max_output_size=count)
        except zstandard.ZstdError:
            raise ValueError("its Zstandard frame is damaged") from None
        symbols = torch.frombuffer(bytearray(found), dtype=torch.uint8)
        if len(symbols) != count or int(symbols.max()) >= 2**bits:
            raise ValueError("it holds symbols that there are none of")
        return symbols.to(device)


CODERS: dict[str, Coder] = {"plain": Plain(), "huffman": Huffman(), "ans": Ans(), "zstd": Zstd()}


def there(name: str) -> bool:
    """Whether what a coder needs is installed."""
    try:
        _library(name, {"ans": "constriction", "zstd": "zstandard"}.get(name, "struct"))
    except ValueError:
        return False
    return True


def frequencies(counts: Tensor, total: int) -> Tensor:
    """Whole numbers that go as counts go and sum to ``total``, at least 1 where there is a count, int64 (s,).

    What is over after rounding down goes to those that lost most by it.
    """
    used, spare = counts > 0, total - int((counts > 0).sum())
    exact = counts.double() * (spare / int(counts.sum()))
    found = exact.floor().long() + used
    lost = torch.where(used, exact - exact.floor(), -1.0)
    found[lost.argsort(descending=True, stable=True)[: total - int(found.sum())]] += 1
    return found


def _two_at_least(counts: Tensor) -> Tensor:
    """The counts, and one of a second symbol where a single one occurs: codes of one symbol would have no bits."""
    if int((counts > 0).sum()) > 1:
        return counts
    return counts.clone().index_fill_(0, (counts.argmax().view(1) + 1) % len(counts), 1)


def _library(coder: str, name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"coder {coder}: needs the package {name}: pip install 'effdl[compression]'") from None


def _bytes(tensor: Tensor) -> bytes:
    found: bytes = tensor.cpu().numpy().tobytes()
    return found


def _tensor(data: memoryview, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype).to(device or "cpu") if len(data) else torch.empty(0, dtype=dtype)


def split(levels: Tensor, bits: int, above: int) -> Iterator[Tensor]:
    """Levels (n,) of so many bits as symbols of ``above`` of them, and what is below these."""
    below = bits - above
    yield (levels >> below).to(symbol_type(above))
    yield levels & (2**below - 1)
