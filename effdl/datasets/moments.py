"""Mean and standard deviation of samples that come part by part."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.errors import DataError

MOST_SAMPLES = 4096
MOST_VALUES = 2**25  # as float64 a quarter of a GiB


@dataclass(frozen=True, slots=True)
class Moments:
    """Of samples' values, in float64: mean and deviation, as one sample or, of images' channels, (C, 1, 1); the largest."""

    mean: Tensor
    std: Tensor
    highest: float


def moments(parts: Iterable[Tensor], by_pixel: bool = False) -> Moments:
    """Of samples (N, *input) that come in parts; of 8-bit images the same bits in whatever parts, since sums are exact.

    by_pixel: of each pixel of an image by itself, not of each channel.
    """
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    highest, count = float("-inf"), 0
    for part in parts:
        axes = (0, 2, 3) if part.dim() == 4 and not by_pixel else (0,)
        values = part.double()
        total = total + values.sum(axes, keepdim=True)[0]
        squares = squares + values.square().sum(axes, keepdim=True)[0]
        highest = max(highest, float(values.max()))
        count += part.numel()
    assert isinstance(total, Tensor)
    count //= total.numel()
    mean = total / count
    return Moments(mean, (squares / count - mean.square()).clamp_min(0).sqrt(), highest)


def parts(x: Tensor) -> Iterable[Tensor]:
    """Samples (N, *input) in parts so small that their float64 copies, eight times a byte's, are no burden.

    Raises DataError where there are none.
    """
    if not len(x):
        raise DataError("there are no samples to train on: x has the shape " + str(tuple(x.shape)))
    return torch.split(x, max(1, min(MOST_SAMPLES, MOST_VALUES // max(1, x[0].numel()))))
