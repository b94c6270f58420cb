"""What coded weights cost and spare beside named peers, measured in turns in one run on one thread.

    python scripts/bench_compression.py [normal] [network]

Ratios of least seconds of processor time, of symbols to bytes and back; and bits a parameter over the entropy, of whole
packets, with all that stands beside. dahuffman is given a fiftieth of the symbols and counts fifty times: it takes them singly.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from bench import Row, in_turns, report
from dahuffman import HuffmanCodec
from torch import Tensor

from effdl.compression import decode, encode, quantise
from effdl.compression.coders import CODERS, Coder, split
from effdl.compression.reading import Reader
from effdl.compression.summary import shannon_bound

WEIGHTS = 20_000_000
SHAPES = ((784, 392), (392, 50), (50, 10))
SHARE, TURNS = 50, 5
CPU = torch.device("cpu")


def normal() -> Iterator[Row]:
    """20 million normal weights, of 8 and of 9 bits."""
    weights = torch.randn(4000, WEIGHTS // 4000, generator=torch.Generator().manual_seed(0))
    levels = quantise(weights, 8).levels.view(-1)
    ours, ans, zstd = in_turns(TURNS, *(both_ways(CODERS[name], levels, 8) for name in ("huffman", "ans", "zstd")), of=min)
    (peer,) = in_turns(2, by_dahuffman(levels[: WEIGHTS // SHARE]), of=min)
    yield "20M normal weights, N = 8, Huffman: times as fast as dahuffman", SHARE * peer / ours, "≥ 50"
    yield "  times as fast as constriction's ANS", ans / ours, "≥ 1.5"
    yield "  times as fast as zstd level 1", zstd / ours, "≥ 0.3"
    calls = [partial(through_packet, {"w": weights}, name) for name in ("huffman", "zstd")]
    whole, by_zstd = in_turns(TURNS, *calls, of=min)
    yield "  as whole packets, quantised, checked and all, times as fast", by_zstd / whole, "for comparison"
    for bits, wanted in ((8, "≤ 0.10"), (9, "≤ 0.06")):
        bound = shannon_bound(quantise(weights, bits))
        for name in ("huffman", "ans", "zstd"):
            over = 8 * len(encode({"w": weights}, bits, name)) / WEIGHTS - bound
            told = f"  N = {bits}, bits a parameter over the entropy, {name}"
            yield told, over, wanted if name == "huffman" else "for comparison"


def network() -> Iterator[Row]:
    """The text's network, 784-392-50-10, of 8 bits, as a packet and by dahuffman layer by layer."""
    generator = torch.Generator().manual_seed(0)
    state = {str(index): torch.randn(*shape, generator=generator) for index, shape in enumerate(SHAPES)}
    peers = [by_dahuffman(quantise(tensor, 8).levels.view(-1)) for tensor in state.values()]
    calls = [partial(through_packet, state, name) for name in ("huffman", "zstd")]
    ours, zstd, peer = in_turns(TURNS, *calls, lambda: [call() for call in peers], of=min)
    yield "784-392-50-10 as a packet, Huffman: times as fast as dahuffman", peer / ours, "≥ 8"
    yield "  with zstd", peer / zstd, "for comparison"


def through_packet(state: dict[str, Tensor], coder: str) -> object:
    return decode(encode(state, 8, coder))


def both_ways(coder: Coder, levels: Tensor, bits: int) -> Callable[[], object]:
    """Symbols to bytes and back, with the table; what a coder has no symbols for is no part of it."""
    above = min(bits, coder.most_bits)

    def call() -> None:
        symbols, _ = split(levels, bits, above)
        data = coder.encode(symbols, torch.bincount(symbols, minlength=2**above))
        coder.decode(Reader(memoryview(data)), len(symbols), above, CPU)

    return call


def by_dahuffman(levels: Tensor) -> Callable[[], object]:
    symbols: list[Any] = levels.tolist()

    def call() -> None:
        codec = HuffmanCodec.from_data(symbols)
        codec.decode(codec.encode(symbols))

    return call


ALL: dict[str, Callable[[], Iterator[Row]]] = {"normal": normal, "network": network}

if __name__ == "__main__":
    report(ALL, ALL)
