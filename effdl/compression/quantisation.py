"""Uniform quantisation of weights to bin centres (thesis §3.2; Algorithm 1, Quantize; Algorithm 2, line 4)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_BITS = 30
AT_ONCE = 2**16  # weights that are quantised at a time: what that takes stays in a core's cache
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Range = tuple[float, float]


@dataclass(frozen=True)
class Quantised:
    """Weights as numbers of bins.

    levels: of the weights' shape, from 0 to 2^bits − 1; uint8 to 8 bits, int16 to 15, else int32.
    low, high: the range that 2^bits equal bins part.
    """

    levels: Tensor
    low: float
    high: float
    bits: int


def value_range(weights: Iterable[Tensor]) -> Range:
    """The least and the largest of all weights given: of one layer as in Algorithm 1, or of all as in §3.2.

    (nan, nan) where one is not a number. Raises ValueError where there are none.

    Example:
        >>> value_range([torch.tensor([0.5, -1.0]), torch.tensor([2.0])])
        (-1.0, 2.0)
    """
    found = [torch.stack(w.detach().aminmax()).double().cpu() for w in weights if w.numel()]
    if not found:
        raise ValueError("there are no weights that could have a range")
    low, high = torch.stack(found).unbind(1)
    return float(low.amin()), float(high.amax())


def place(weights: Tensor, low: float, high: float, bits: int) -> Tensor:
    """⌊2^N (w − w_min) / (w_max − w_min)⌋ (Algorithm 1, Quantize), float64, of the shape of weights; w_max is in the last bin.

    Printed as counting down from w_max, which line 6 cancels by giving the ends in swapped order; the decoder counts up.
    """
    at = weights.double().sub(low).div_(high - low).mul_(2**bits)
    return at.floor_().clamp_(min=0, max=2**bits - 1)


def quantise(weights: Tensor, bits: int, ends: Range | None = None) -> Quantised:
    """Each weight as the number of the bin that it falls into, of 2^bits equal ones.

    Args:
        weights: finite floats, of any shape.
        bits: N, 1 to 30; 8 lose no accuracy (§3.2).
        ends: (w_min, w_max) where they are not the weights' own, such as all layers' (§3.2).

    Raises:
        ValueError: the range is empty or no number, or does not hold all weights, or bits are too few or too many.

    Example:
        >>> dequantise(quantise(torch.tensor([0.0, 1.0, 4.0]), bits=2))
        tensor([0.5000, 1.5000, 3.5000])
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"weights are quantised to 1 to {MOST_BITS} bits, not {bits}")
    own = value_range([weights])
    low, high = own if ends is None else ends
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"weights from {low} to {high} cannot be parted into equal bins")
    if not low <= own[0] <= own[1] <= high:
        raise ValueError(f"weights from {own[0]} to {own[1]} are not within the range given, {low} to {high}")
    levels = torch.empty(weights.shape, dtype=level_type(bits), device=weights.device)
    for w, out in zip(weights.detach().reshape(-1).split(AT_ONCE), levels.view(-1).split(AT_ONCE), strict=True):
        out.copy_(place(w, low, high, bits))
    return Quantised(levels, low, high, bits)


def level_type(bits: int) -> torch.dtype:
    return torch.uint8 if bits <= 8 else torch.int16 if bits <= 15 else torch.int32


def centres(levels: Tensor, low: float, high: float, bits: int) -> Tensor:
    """w_min + (w_max − w_min)(i + 0.5) / 2^N (Algorithm 2, line 4), in float64.

    Operation by operation, so that it is rounded alike on every device.
    """
    return levels.double().add_(0.5).div_(2**bits).mul_(high - low).add_(low)


def dequantise(quantised: Quantised, dtype: torch.dtype = torch.float32) -> Tensor:
    """The centres of the bins, which lie within half a bin of the weights, and half a unit in the last place of their type.

    Example:
        >>> dequantise(Quantised(torch.tensor([0, 3], dtype=torch.uint8), low=0.0, high=4.0, bits=2))
        tensor([0.5000, 3.5000])
    """
    levels, ends = quantised.levels, (quantised.low, quantised.high, quantised.bits)
    weights = torch.empty(levels.shape, dtype=dtype, device=levels.device)
    table = None
    if 2**quantised.bits <= min(levels.numel(), AT_ONCE):
        table = centres(torch.arange(2**quantised.bits, device=levels.device), *ends).to(dtype)
    for level, out in zip(levels.reshape(-1).split(AT_ONCE), weights.view(-1).split(AT_ONCE), strict=True):
        if table is None:
            out.copy_(centres(level, *ends))
        else:
            torch.index_select(table, 0, level.int(), out=out)
    return weights
