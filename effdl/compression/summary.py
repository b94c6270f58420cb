"""What a packet has made of each layer: bits a parameter beside the least there could be, and the error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.compression.packet import Layer
from effdl.compression.quantisation import Quantised, Range, quantise
from effdl.neighbours.entropy import entropy


@dataclass(frozen=True)
class Told:
    """One layer, or all of them.

    raw_bits, bits: a parameter, before and in the packet with all side information.
    bound: Shannon's, of the layer's own levels: their entropy in bits; no less would do. None where nothing is quantised.
    rms_error: root mean square of the error over that of the weights.
    max_error: the largest.
    """

    name: str
    parameters: int
    kind: str
    levels: int
    raw_bits: float
    bits: float
    bound: float | None
    rms_error: float
    max_error: float

    @property
    def ratio(self) -> float:
        return self.raw_bits / self.bits


def shannon_bound(quantised: Quantised) -> float:
    """−Σ p log2 p of the shares of each level, in bits: no code that looks at one level at a time is shorter."""
    flat = quantised.levels.reshape(-1)
    many = quantised.bits > 16
    return float(entropy(flat.unique(return_counts=True)[1] if many else torch.bincount(flat)))


def told(
    layers: list[Layer], state: Mapping[str, Tensor], decoded: Mapping[str, Tensor], ends: Mapping[str, Range] | None = None
) -> list[Told]:
    """Of each layer with parameters, then of all together where there are any.

    Args:
        layers: as `contents` finds them in the packet that `encode` made of ``state`` with these ends.
    """
    found, sums = list[Told](), list[tuple[float, float]]()
    for layer in layers:
        if not (count := math.prod(layer.shape)):
            continue
        weights, bound = state[layer.name], None
        if layer.bits:
            bound = shannon_bound(quantise(weights, layer.bits, None if ends is None else ends.get(layer.name)))
        error, energy, largest = (0.0, 0.0, 0.0) if layer.kind == "raw" else _errors(weights, decoded[layer.name])
        sums.append((error, energy))
        rates = 8 * layer.dtype.itemsize, 8 * layer.bytes / count
        found.append(Told(layer.name, count, layer.kind, layer.bits, *rates, bound, _relative(error, energy), largest))
    return [*found, _all(found, sums)] if found else []


def _all(layers: list[Told], sums: list[tuple[float, float]]) -> Told:
    """Means by parameter; bound and error are of the layers that are quantised."""
    total = sum(one.parameters for one in layers)
    bounded = [one for one in layers if one.bound is not None]
    raw_bits = sum(one.raw_bits * one.parameters for one in layers) / total
    bits = sum(one.bits * one.parameters for one in layers) / total
    of_bounded = sum(one.parameters for one in bounded)
    bound = sum((one.bound or 0.0) * one.parameters for one in bounded) / of_bounded if bounded else None
    error, energy = (sum(column) for column in zip(*sums, strict=True))
    largest = max(one.max_error for one in layers)
    return Told("all", total, "", 0, raw_bits, bits, bound, _relative(error, energy), largest)


def _errors(weights: Tensor, decoded: Tensor) -> tuple[float, float, float]:
    """Sum of squared errors, sum of squared weights, largest error."""
    difference = (weights.double() - decoded.double()).abs_()
    return float(difference.square().sum()), float(weights.double().square().sum()), float(difference.max())


def _relative(error: float, energy: float) -> float:
    return (error / energy) ** 0.5 if energy else 0.0
