"""Bits a weight that a network takes when it is sent (thesis §3.8, figure 3.5)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from effdl.compression import dequantise, quantise
from effdl.compression.rates import rates
from effdl.probes.matrices import matrices, with_head
from effdl.probes.sending import Sending, sent
from effdl.setting import setting
from effdl.training.look import Look


@setting
class BitRate(Sending):
    """Of the weight matrices of blocks and output layer, `compression.rates` by layer, as ``sync=quantised`` records them:
    ``<setting>/bits`` N, ``raw_bits`` the same with ranges and check sums, ``entropy`` Shannon's bound, ``codeword_bits`` of
    Huffman's codes alone, ``coded_bits`` with their tables and all; each also ``<setting>/<number>/<layer>``.

    Over layers they are means by weight. Biases and normalisation are sent as they are, and do not count.
    """

    begins: ClassVar[bool] = True

    def measure(self, look: Look) -> dict[str, float]:
        layers, found = sent(matrices(with_head(look))), dict[str, float]()
        for name, bits in self.widths(layers) if layers else ():
            found |= {f"{name}/{key}": value for key, value in self._rates(layers, bits).items()}
        return found

    def _rates(self, layers: Mapping[str, Tensor], bits: Mapping[str, int]) -> dict[str, float]:
        ends, found, sums = self.ranges(layers) or {}, dict[str, float](), dict[str, float]()
        total = sum(weights.numel() for weights in layers.values())
        for layer, weights in layers.items():
            quantised = quantise(weights, bits[layer], ends.get(layer))
            one = rates(weights.detach(), quantised, dequantise(quantised), "huffman")
            assert one.coded is not None
            numbers = {"bits": one.bits, "raw_bits": one.raw, "entropy": one.entropy}
            for key, value in (numbers | {"codeword_bits": one.codewords, "coded_bits": one.coded}).items():
                found[f"{key}/{layer}"] = float(value)
                sums[key] = sums.get(key, 0.0) + weights.numel() * value / total
        return sums | found
