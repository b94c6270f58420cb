"""What quantised weights take: bits a weight as they are, as code words, and as one layer's package (Algorithm 1, line 10)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.compression.coders import Huffman, split
from effdl.compression.content import from_levels, plain_bytes
from effdl.compression.quantisation import Quantised
from effdl.compression.summary import shannon_bound


@dataclass(frozen=True)
class Rates:
    """Of one layer, all but the error in bits a weight.

    bits: N. raw: the same with what a package holds beside it: the range, N, a checksum.
    entropy: Shannon's bound of the levels.
    codewords: Huffman's code words alone, as if the reader knew the codes; coded: the package of a coder, codes and all, None
        where none is asked for.
    error: root mean square of the error over that of the weights.
    """

    bits: float
    raw: float
    entropy: float
    codewords: float
    coded: float | None
    error: float


def rates(weights: Tensor, quantised: Quantised, decoded: Tensor, coder: str | None = None) -> Rates:
    """Of a layer of at least one weight.

    Args:
        decoded: what `dequantise` makes of them, of any type.
        coder: as `content.from_levels` has it.

    Example:
        >>> from effdl.compression import dequantise, quantise
        >>> w = torch.arange(256.0)
        >>> found = rates(w, q := quantise(w, bits=2), dequantise(q))
        >>> found.bits, found.entropy, found.codewords
        (2, 2.0, 2.0)
    """
    count, exact = quantised.levels.numel(), weights.double()
    coded = None if coder is None else 8 * len(from_levels(quantised, coder)[1]) / count
    energy = float(exact.square().sum())
    error = float((exact - decoded.double()).square().sum())
    raw = 8 * plain_bytes(count, quantised.bits) / count
    relative = (error / energy) ** 0.5 if energy else 0.0
    return Rates(quantised.bits, raw, shannon_bound(quantised), codeword_bits(quantised), coded, relative)


def codeword_bits(quantised: Quantised) -> float:
    """Σ p l, the mean length of a weight's code word; bits below the symbols that are coded count as they are (§3.4)."""
    above = min(quantised.bits, Huffman.most_bits)
    symbols, _ = split(quantised.levels.reshape(-1), quantised.bits, above)
    counts = torch.bincount(symbols, minlength=2**above)
    if int((counts > 0).sum()) < 2:
        return float(quantised.bits - above)
    return float((counts * Huffman().lengths(counts)).sum()) / len(symbols) + quantised.bits - above
