"""How many bits a layer's weights are quantised to: by their entropy (thesis §3.5, Algorithm 1), or by the gradient (§3.3)."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from effdl.compression.quantisation import MOST_BITS, Range, place, value_range
from effdl.neighbours.entropy import entropy

Rounding = Literal["ceil", "round", "floor"]
FLOOR, SAMPLE_BITS, FRACTION = 6, 4, 0.03  # c, M, F of §3.6
ROUNDINGS: dict[str, Callable[[float], int]] = {"ceil": math.ceil, "round": round, "floor": math.floor}


def estimated_entropy(
    weights: Tensor,
    bits: int = SAMPLE_BITS,
    fraction: float = FRACTION,
    least: int = 1,
    ends: Range | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """H = −Σ p log2 p over 2^M bins of a random subset (Algorithm 1, Estimate Entropy), from 0 to ``bits``.

    Args:
        weights: finite floats, of any shape.
        bits: M, from 1; 4 in §3.6.
        fraction: F, over 0, to 1; 0.03 in §3.6.
        least: how many are looked at where the fraction has fewer: 3% of 500 weights are 15, whose entropy is noise.
        ends: (w_min, w_max) of the bins where they are not the weights' own.
        generator: on the CPU; what is looked at is the same each time where there is none.

    Raises:
        ValueError: there are no weights, or one is not finite.

    Example:
        >>> estimated_entropy(torch.arange(16.0), bits=4, fraction=1.0)
        4.0
    """
    low, high = value_range([weights]) if ends is None else ends
    if not math.isfinite(high - low):
        raise ValueError(f"weights from {low} to {high} have no entropy")
    if low == high:
        return 0.0
    chosen = place(subset(weights.detach(), fraction, least, generator), low, high, bits)
    return float(entropy(torch.bincount(chosen.int())))


def subset(weights: Tensor, fraction: float, least: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """A random subset of ⌈F·n⌉ of n weights, but of ``least`` where that is more, and of all where they are fewer.

    As many equally long stretches as there are to choose give one each, so that nothing is drawn for the others.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction looked at is over 0 and at most 1, not {fraction}")
    flat, total = weights.reshape(-1), weights.numel()
    count = min(total, max(math.ceil(fraction * total), least))
    if count == total:
        return flat
    generator = generator or torch.Generator().manual_seed(0)
    begins = torch.arange(count + 1) * total // count
    within = torch.rand(count, generator=generator, dtype=torch.float64)
    return flat[(begins[:-1] + (within * begins.diff()).long()).to(flat.device)]


def bits_by_entropy(entropy: float, floor: int = FLOOR, rounding: Rounding = "ceil") -> int:
    """N = H + c (§3.5), a whole number from 1 to 30.

    Args:
        floor: c; 5 for rate (§3.8), 6 for accuracy (§3.6, §3.9).
        rounding: of a sum of which the text does not say how it becomes a number of bits.

    Example:
        >>> bits_by_entropy(2.3, floor=5)
        8
    """
    return _whole(entropy + floor, rounding)


def bits_by_gradient(rms: float, floor: float, c0: float = 1.0, rounding: Rounding = "ceil") -> int:
    """N = log2(G + c0) + c1 (§3.3), a whole number from 1 to 30.

    Args:
        rms: G, the root mean square of the loss's derivative by each weight, from 0.
        floor: c1, the least number of bits where c0 is 1.
        c0: over 0; 1 in the text.

    Example:
        >>> bits_by_gradient(1.0, floor=5)
        6
    """
    if not (rms >= 0 and c0 > 0):
        raise ValueError(f"G + c0 of {rms} + {c0} has no logarithm")
    return _whole(math.log2(rms + c0) + floor, rounding)


def _whole(bits: float, rounding: Rounding) -> int:
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is one of {', '.join(ROUNDINGS)}, not {rounding!r}")
    if not math.isfinite(bits):
        raise ValueError(f"{bits} is no number of bits")
    return min(MOST_BITS, max(1, ROUNDINGS[rounding](bits)))


def dynamic_bits(
    layers: Mapping[str, Tensor],
    floor: int = FLOOR,
    sample_bits: int = SAMPLE_BITS,
    fraction: float = FRACTION,
    least: int = 1,
    rounding: Rounding = "ceil",
    ends: Mapping[str, Range] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, int]:
    """N of each layer (Algorithm 1, lines 3 to 5), by `estimated_entropy` and `bits_by_entropy`.

    Example:
        >>> dynamic_bits({"weight": torch.linspace(-1, 1, 10_000)}, floor=5)
        {'weight': 9}
    """
    found = dict[str, int]()
    for name, weights in layers.items():
        bounds = None if ends is None else ends.get(name)
        estimate = estimated_entropy(weights, sample_bits, fraction, least, bounds, generator)
        found[name] = bits_by_entropy(estimate, floor, rounding)
    return found
