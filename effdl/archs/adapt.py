"""The input block: everything between stored samples and the first layer, frozen, in one place."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.datasets.dataset import Scaling
from effdl.datasets.moments import Moments, moments, parts
from effdl.datasets.split import Split

IDS = (torch.int32, torch.int64)  # what an embedding takes
MNIST = 33.3285, 78.5655  # mean and deviation of its training pixels: 0.1307 and 0.3081 of 255, as they are printed everywhere


class InputBlock(nn.Module):
    """Standardise, enlarge, pad; takes raw samples (B, *input), uint8 or float.

    Rule: images smaller than ``size`` are enlarged by the largest whole factor that fits (nearest neighbour), then padded
    evenly with raw zeros up to ``size``; then (x − mean) / std, both of the training split's raw values, by channel (by feature
    for vectors) or, if the data set's ``scaling`` says so, by pixel. What never varies, padding too, has std 1. A single
    channel is repeated to ``channels``.

    passes_ids: samples are token ids and pass as they are; `BlockChain.from_module` sets it where an embedding takes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: Sequence[int], size: int | None = None, channels: int | None = None) -> None:
        super().__init__()
        self.size, self.passes_ids = size, False
        self.copies = channels // input_shape[0] if channels is not None else 1
        shape = (input_shape[0], 1, 1) if len(input_shape) == 3 else tuple(input_shape)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, x: Tensor) -> None:
        """Set mean and standard deviation from training samples x (N, *input)."""
        self.standardise(moments(parts(x)))

    @torch.no_grad()
    def standardise(self, found: Moments) -> None:
        """Set mean and standard deviation of the training samples, by channel or by pixel."""
        mean, std = found.mean, found.std
        if self.size is not None and mean.dim() == 3 and 1 < min(mean.shape[1:]) < self.size:
            mean, std = enlarge(mean[None], self.size)[0], enlarge(std[None], self.size)[0]
        self.mean = mean.to(self.mean)
        self.std = torch.where(std < 1e-8, 1.0, std).to(self.std)

    def scale(self, scaling: Scaling, train: Split) -> None:
        """Take mean and standard deviation from the training split as `Dataset.scaling` says."""
        if scaling == "mnist":
            self.mean.fill_(MNIST[0])
            self.std.fill_(MNIST[1])
        elif scaling == "unit":
            highest = train.moments().highest
            self.std.fill_(highest if highest > 0 else 1.0)
        elif scaling != "none":
            self.standardise(train.moments(by_pixel=scaling == "pixel"))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        """A stored mean and deviation may be by pixel."""
        for name in ("mean", "std"):
            if (stored := state.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        super()._load_from_state_dict(state, prefix, *others)

    def forward(self, x: Tensor) -> Tensor:
        if self.passes_ids:
            return x if x.dtype in IDS else x.long()
        x = x.to(self.mean.dtype)
        if self.size is not None and x.dim() == 4 and min(x.shape[-2:]) < self.size:
            x = enlarge(x, self.size)
        x = (x - self.mean) / self.std
        return x if self.copies == 1 else x.repeat(1, self.copies, 1, 1)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def enlarge(x: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) to at least ``size`` × ``size``: whole-factor enlargement, then zeros around."""
    factor = max(1, size // max(x.shape[-2:]))
    if factor > 1:
        x = F.interpolate(x, scale_factor=float(factor), mode="nearest")
    rows, columns = (max(0, size - side) for side in x.shape[-2:])
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def enlarged(input_shape: Sequence[int], size: int | None) -> tuple[int, int, int]:
    """(C, H, W) behind an input block of ``size``."""
    channels, *sides = input_shape
    height, width = (max(side, size or 1) for side in sides)
    return channels, height, width
