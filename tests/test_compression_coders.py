"""Coders against answers that are not theirs: the best codes by a heap, by trying all, by dahuffman; Shannon's entropy; plain
Python that reads their bits one by one."""

import heapq
import itertools
import math
import sys
import zlib

import numpy as np
import pytest
import torch
from dahuffman import HuffmanCodec
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effdl.compression import contents, decode, encode, quantise
from effdl.compression.coders import ANS_TOTAL, CODERS, Coder, frequencies, symbol_type
from effdl.compression.content import from_levels
from effdl.compression.huffman import canonical, code_lengths
from effdl.compression.huffman_stream import Book, parts, write
from effdl.compression.lossless import deflate, lzw
from effdl.compression.packing import pack, packed_bytes, unpack
from effdl.compression.reading import Reader

CPU = torch.device("cpu")
COUNTS = st.lists(st.integers(1, 10**6), min_size=2, max_size=60)


def cost(counts: list[int], lengths: Tensor) -> int:
    return sum(count * length for count, length in zip(counts, lengths.tolist(), strict=True))


def by_heap(counts: list[int]) -> int:
    """Bits of Huffman's code: the sum of all that is merged."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@settings(max_examples=200, deadline=None)
@given(COUNTS)
def test_code_lengths_are_huffmans(counts: list[int]) -> None:
    assert cost(counts, code_lengths(torch.tensor(counts), 62)) == by_heap(counts)


@settings(max_examples=30, deadline=None)
@given(COUNTS)
def test_code_lengths_cost_what_dahuffmans_cost(counts: list[int]) -> None:
    peer = HuffmanCodec.from_frequencies(dict(enumerate(counts))).get_code_table()  # it has a symbol more, for the end
    lengths = {symbol: bits for symbol, (bits, _) in peer.items()}
    end = next(bits for symbol, bits in lengths.items() if not isinstance(symbol, int))
    theirs = sum(count * lengths[symbol] for symbol, count in enumerate(counts)) + end
    assert cost([*counts, 1], code_lengths(torch.tensor([*counts, 1]), 62)) == theirs


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=7), st.integers(3, 4))
def test_bounded_code_lengths_are_the_best_of_all(counts: list[int], longest: int) -> None:
    """Of all lengths that Kraft's inequality allows, tried one by one."""
    best = min(
        sum(count * length for count, length in zip(sorted(counts), lengths, strict=True))
        for lengths in itertools.combinations_with_replacement(range(longest, 0, -1), len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )
    assert cost(counts, code_lengths(torch.tensor(counts), longest)) == best


def test_codes_of_symbols_that_are_not_there() -> None:
    assert code_lengths(torch.tensor([0, 7, 0, 1, 2]), 12).tolist() == [0, 1, 0, 2, 2]
    assert code_lengths(torch.tensor([0, 7]), 12).tolist() == [0, 1] and code_lengths(torch.tensor([0, 0]), 12).sum() == 0
    with pytest.raises(ValueError, match="5 symbols have no codes of at most 2 bits"):
        code_lengths(torch.ones(5, dtype=torch.int64), 2)


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_no_canonical_code_begins_with_another(counts: list[int]) -> None:
    lengths = code_lengths(torch.tensor([*counts, 0]), 12)
    codes, symbols = canonical(lengths)
    strings = [f"{code:0{length}b}" for code, length in zip(codes.tolist(), lengths.tolist(), strict=True) if length]
    assert not any(a != b and b.startswith(a) for a in strings for b in strings)
    assert len(symbols) == 2 ** int(lengths.max())
    for symbol, string in enumerate(strings):
        assert int(symbols[int(string.ljust(int(lengths.max()), "1"), 2)]) == symbol
    assert strings == sorted(strings, key=lambda one: (len(one), one)) or sorted(lengths.tolist()[:-1]) != lengths.tolist()[:-1]


@pytest.mark.parametrize("lengths", [[0, 0], [1], [1, 0], [1, 1, 1], [1, 2], [31] * 4, []])
def test_lengths_of_no_complete_code_are_an_error(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="complete prefix code"):
        canonical(torch.tensor(lengths, dtype=torch.uint8))
    with pytest.raises(ValueError, match="code"):
        Book(torch.tensor(lengths, dtype=torch.uint8))


@pytest.mark.parametrize("bits", [3, 8, 9])
def test_written_codes_are_read_bit_by_bit(bits: int) -> None:
    symbols = some(1001, bits)
    book = Book(code_lengths(torch.bincount(symbols, minlength=2**bits), 12))
    ((count, rows, lanes),) = parts(len(symbols))
    lane_bits, words = write(symbols, book, rows, lanes)
    string = "".join(f"{word & 0xFFFFFFFF:032b}"[::-1] for word in words.tolist())
    numbered = zip(canonical(book.lengths)[0].tolist(), book.lengths.tolist(), strict=True)
    codes = {f"{code:0{length}b}": symbol for symbol, (code, length) in enumerate(numbered) if length}
    found, at = np.empty((lanes, rows, 2), np.int64), 0
    for lane, length in enumerate(lane_bits.tolist()):
        end, read = at + length, []
        while at < end:
            width = next(n for n in range(1, 15) if string[at : at + n] in codes)
            read.append(codes[string[at : at + width]])
            at += width
        found[lane] = np.array(read).reshape(rows, 2)
    assert count == 1001 and found.reshape(-1)[:1001].tolist() == symbols.tolist()


def some(count: int, bits: int, seed: int = 0, spread: float = 0.1) -> Tensor:
    normal = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * spread * 2**bits + 2 ** (bits - 1)
    symbols: Tensor = normal.round().clamp(0, 2**bits - 1).to(symbol_type(bits))
    return symbols


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 500, 4095, 4097, 20_000, 300_001])
@pytest.mark.parametrize("name", ["huffman", "ans", "zstd"])
def test_symbols_come_back(name: str, count: int) -> None:
    coder = CODERS[name]
    for bits in range(1, coder.most_bits + 1):
        for symbols in (some(count, bits, bits), torch.full((count,), 2**bits - 1).to(symbol_type(bits))):
            data = coder.encode(symbols, torch.bincount(symbols, minlength=2**bits))
            found = coder.decode(Reader(memoryview(data)), count, bits, CPU)
            assert found.dtype == symbols.dtype and torch.equal(found, symbols)


def test_parts_of_a_layer_that_is_too_large_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdl.compression.huffman_stream.PART", 1000)
    assert [count for count, *_ in parts(2500)] == [1000, 1000, 500]
    test_symbols_come_back("huffman", 4097)


def bits_a_symbol(coder: Coder, symbols: Tensor, bits: int) -> tuple[float, float]:
    """What it takes, and the entropy."""
    counts = torch.bincount(symbols, minlength=2**bits)
    share = counts[counts > 0].double().numpy() / len(symbols)
    return 8 * len(coder.encode(symbols, counts)) / len(symbols), float(-(share * np.log2(share)).sum())


@pytest.mark.parametrize("spread", [0.3, 0.1, 0.02, 0.001])
@pytest.mark.parametrize("bits", [4, 8, 10])
def test_ans_is_within_a_twentieth_of_a_bit_of_the_entropy(bits: int, spread: float) -> None:
    taken, entropy = bits_a_symbol(CODERS["ans"], some(400_000, bits, spread=spread), bits)
    assert entropy - 1e-9 <= taken <= entropy + 0.05


@pytest.mark.parametrize("bits", [4, 8, 9, 10])
def test_huffman_takes_what_its_codes_take_and_little_beside(bits: int) -> None:
    symbols = some(400_000, bits)
    counts = torch.bincount(symbols, minlength=2**bits)
    codes = float((counts * code_lengths(counts, 12 if bits <= 8 else 14)).sum()) / len(symbols)
    taken, entropy = bits_a_symbol(CODERS["huffman"], symbols, bits)
    assert codes <= taken <= codes + 0.04 and entropy <= codes <= entropy + 0.1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=300).filter(any))
def test_frequencies_are_a_whole(counts: list[int]) -> None:
    found = frequencies(torch.tensor(counts), ANS_TOTAL)
    assert int(found.sum()) == ANS_TOTAL and ((found > 0) == (torch.tensor(counts) > 0)).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 31), st.data())
def test_packed_numbers_are_read_by_python(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=100))
    packed = pack(torch.tensor(values, dtype=torch.int32), bits)
    whole = int.from_bytes(packed, "little")
    assert len(packed) == packed_bytes(len(values), bits) == math.ceil(len(values) * bits / 8)
    assert [(whole >> (bits * index)) & (2**bits - 1) for index in range(len(values))] == values
    assert unpack(memoryview(packed), len(values), bits, torch.empty(len(values), dtype=torch.int32)).tolist() == values


def test_what_is_shortest_for_each_layer() -> None:
    """A table for few levels costs more than it spares; level numbers of equal shares have no shorter code."""
    few, flat, many = torch.randn(20, 30), torch.rand(500, 500), torch.randn(500, 500)
    assert [from_levels(quantise(w, 9), coder)[0] for w in (few, flat) for coder in ("huffman", "ans")] == ["plain"] * 4
    assert [from_levels(quantise(many, 9), coder)[0] for coder in CODERS] == list(CODERS)
    assert from_levels(quantise(many, 9), "auto")[0] == "zstd"
    assert from_levels(quantise(many.pow(7), 9), "auto")[0] == "huffman"  # a few levels have nearly all
    assert contents(encode({"w": few}, {"w": 30}))[0].kind == "plain" and contents(encode({"w": few}, {"w": 8}))[0].bits == 8
    assert contents(encode({"w": few[:1, :3]}, {"w": 8}))[0].kind == "raw"


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": torch.randn(200, 200)}
    packet = encode(weights, 8, "zstd")
    for name in ("zstandard", "constriction"):
        monkeypatch.setitem(sys.modules, name, None)
    assert contents(encode(weights, 8))[0].kind == "huffman"
    for coder, package in (("zstd", "zstandard"), ("ans", "constriction")):
        with pytest.raises(ValueError, match=rf"^w: coder {coder}: needs the package {package}: pip install 'effdl\[compr"):
            encode(weights, 8, coder)
    with pytest.raises(ValueError, match=r"^packet: w: coder zstd: needs the package zstandard"):
        decode(packet)


def unpacked_lzw(data: bytes) -> bytes:
    """Welch's decoder: each code adds the string before it, with the first byte of its own."""
    whole, at, found, before, known = int.from_bytes(data, "little"), 0, bytearray(), b"", dict[int, bytes]()
    size = 256  # of the encoder's table when it wrote the code that comes next
    while 8 * len(data) - at >= 8:
        width = (size - 1).bit_length()
        code = (whole >> at) & (2**width - 1)
        string = bytes([code]) if code < 256 else known.get(code, before + before[:1])
        if before:
            known[256 + len(known)] = before + string[:1]
        found += string
        at += width
        size, before = (size + 1, string) if size < 2**16 else (256, b"")
        known = known if before else {}
    return bytes(found)


def test_lzw_is_welchs() -> None:
    text = b"TOBEORNOTTOBEORTOBEORNOT"
    assert len(lzw(text)) == math.ceil((8 + 15 * 9) / 8)  # the textbook's 16 codes, of 9 bits but the first
    assert lzw(b"") == b""
    for data in (text, b"a" * 1000, bytes(range(256)) * 3, np.random.default_rng(0).bytes(100_000)):  # the last: all forgotten
        assert unpacked_lzw(lzw(data)) == data


def test_floats_are_hardly_shorter_without_loss() -> None:
    """§3.1: LZW is of no use on raw floats; deflate is of little."""
    data = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).numpy().tobytes()
    assert len(lzw(data)) > len(data) and 0.9 < len(deflate(data)) / len(data) < 1
    assert zlib.decompress(deflate(data)) == data
