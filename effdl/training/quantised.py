"""Quantised: weights quantised after each epoch, as they would be sent, and training goes on from what is received."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from effdl.compression import bits_by_entropy, bits_by_gradient, dequantise, estimated_entropy, quantise, value_range
from effdl.compression.bits import FLOOR, FRACTION, SAMPLE_BITS, Rounding
from effdl.compression.quantisation import MOST_BITS, Range
from effdl.compression.rates import Rates, rates
from effdl.setting import Count, Positive, Size, setting
from effdl.training.ranks import Ranks
from effdl.training.rule import Rule
from effdl.training.sync import Seed, Sync, Syncing, matrices

Bits = Annotated[int, Field(strict=True, ge=1, le=MOST_BITS)]
NUMBERS = {"bits": "bits", "raw_bits": "raw", "entropy": "entropy", "codeword_bits": "codewords", "coded_bits": "coded"}


@setting
class Quantised(Sync):
    """Algorithms 1 and 2 after each epoch: each weight matrix becomes the centres of its bins, and training goes on from these.

    Biases and normalisation stay exact. Of several processes, which share every step, each does the same to the same weights.
    ``sync/bits/<layer>`` and the like record N, bits a weight raw, coded and by Shannon's bound, and the error, see
    `compression.rates`, of each layer in each epoch; without the layer, of all by their sizes.

    bits: N of every layer (figure 3.1); null: chosen in each epoch for each layer.
    choose: by the entropy, N = H + c (§3.5), or by the gradient, N = log2(G + c0) + c1 (§3.3), G being the root mean square,
        over a layer's weights, of the mean gradient of the epoch's steps.
    sample_bits, fraction: M and F of the estimate of H (§3.6). least: weights that are looked at at least.
    floor: c, or c1; 5 for rate (§3.8), 6 for accuracy (§3.6, §3.9). c0: 1 in the text.
    rounding: of a sum that is no number of bits yet.
    ends: whether bins part the range of each layer (Algorithm 1), or that of the whole network (§3.2).
    coder: of the packages whose bits are recorded, see `compression.encode`; null: none are made, which is faster.
    """

    bits: Bits | None = None
    choose: Literal["entropy", "gradient"] = "entropy"
    sample_bits: Bits = SAMPLE_BITS
    fraction: Annotated[float, Field(gt=0, le=1)] = FRACTION
    least: Count = 1
    floor: Size = FLOOR
    c0: Positive = 1.0
    rounding: Rounding = "ceil"
    ends: Literal["layer", "network"] = "layer"
    coder: Literal["huffman", "ans", "zstd", "plain", "auto"] | None = "huffman"

    @property
    def by_gradient(self) -> bool:
        return self.bits is None and self.choose == "gradient"

    @property
    def stacks(self) -> bool:
        return not self.by_gradient

    def begin(self, rule: Rule, optimizer: torch.optim.Optimizer, ranks: Ranks, seed: Seed) -> Syncing:
        return _Quantising(self, rule, ranks, seed)


class _Quantising(Syncing):
    def __init__(self, how: Quantised, rule: Rule, ranks: Ranks, seed: Seed) -> None:
        super().__init__(rule, ranks)
        self.how, self.seed = how, seed
        self.needs_gradients, self.stacks = how.by_gradient, how.stacks
        self._gradients: dict[str, Tensor] = {}  # sums over the epoch's steps
        self._steps = 0

    def updated(self) -> None:
        if self.needs_gradients:
            self._steps += 1
            for name, weights in matrices(self.rule).items():
                if weights.grad is not None:
                    gradient = weights.grad.double()
                    self._gradients[name] = self._gradients[name].add_(gradient) if name in self._gradients else gradient

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> None:
        super().end_epoch(epoch)
        weights = {name: w for name, w in matrices(self.rule).items() if w.numel() and w.isfinite().all()}  # else it diverged
        ranges = {name: value_range([w]) for name, w in weights.items()}
        if self.how.ends == "network" and weights:
            ranges = dict.fromkeys(ranges, value_range(weights.values()))
        parted = {name: w for name, w in weights.items() if ranges[name][0] < ranges[name][1]}  # what is constant stays
        bits, chosen_by = self._bits(parted, ranges, epoch)
        found = dict[str, tuple[int, Rates]]()
        for name, w in parted.items():
            quantised = quantise(w, bits[name], ranges[name])
            decoded = dequantise(quantised, w.dtype)
            found[name] = w.numel(), rates(w, quantised, decoded, self.how.coder)
            w.copy_(decoded)
        self.told = _told(found) | {f"sync/chosen_by/{name}": value for name, value in chosen_by.items()}
        self._gradients, self._steps = {}, 0

    def _bits(
        self, weights: Mapping[str, Tensor], ranges: Mapping[str, Range], epoch: int
    ) -> tuple[dict[str, int], dict[str, float]]:
        """N of each layer, and by which H or G it was chosen."""
        how = self.how
        if how.bits is not None:
            return dict.fromkeys(weights, how.bits), {}
        if how.by_gradient:
            zero = torch.zeros(())
            rms = {n: float(self._gradients.get(n, zero).div(max(1, self._steps)).square().mean().sqrt()) for n in weights}
            return {n: bits_by_gradient(g, how.floor, how.c0, how.rounding) for n, g in rms.items()}, rms
        generator = torch.Generator().manual_seed(self.seed(epoch))
        sample = how.sample_bits, how.fraction, how.least
        looked = {n: estimated_entropy(w, *sample, ranges[n], generator) for n, w in weights.items()}
        return {n: bits_by_entropy(h, how.floor, how.rounding) for n, h in looked.items()}, looked


def _told(found: Mapping[str, tuple[int, Rates]]) -> dict[str, float]:
    """By key; of all layers the mean by weight; an error is relative to its layer's weights, and of each alone."""
    told, total = dict[str, float](), sum(count for count, _ in found.values())
    for number, field in NUMBERS.items():
        of_layers = {name: (count, getattr(one, field)) for name, (count, one) in found.items()}
        if found and all(value is not None for _, value in of_layers.values()):
            told[f"sync/{number}"] = sum(count * value for count, value in of_layers.values()) / total
            told |= {f"sync/{number}/{name}": float(value) for name, (_, value) in of_layers.items()}
    return told | {f"sync/error/{name}": one.error for name, (_, one) in found.items()}
