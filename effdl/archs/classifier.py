"""The part that turns features into logits: a network's head, and most decision blocks."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """Feature maps to logits: adaptive average pooling to ``size`` × ``size``, then linear layers, ReLU and dropout between.

    Takes (B, C, H, W) maps, (B, N, C) tokens (averaged over N) or (B, C) features. ``size`` None keeps the map whole;
    dropout follows each hidden layer, as in VGG.

    ``flat``: whether it takes (B, C) features.
    """

    def __init__(
        self, feature_shape: tuple[int, ...], outputs: int, size: int | None, hidden: tuple[int, ...] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.size = _pooled_to(feature_shape, size)
        self.flat = len(feature_shape) == 1
        widths = [pooled_features(feature_shape, size), *hidden]
        parts: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            parts += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*parts, nn.Linear(widths[-1], outputs))

    def forward(self, z: Tensor) -> Tensor:
        if z.dim() == 3:
            z = z.mean(1)
        elif z.dim() == 4 and self.size is not None:
            z = F.adaptive_avg_pool2d(z, self.size)
        logits: Tensor = self.layers(z.flatten(1))
        return logits

    def extra_repr(self) -> str:
        return f"size={self.size}"


def pooled_features(feature_shape: tuple[int, ...], size: int | None) -> int:
    """How many go into the first linear layer."""
    if len(feature_shape) != 3:
        return feature_shape[-1]
    side = _pooled_to(feature_shape, size)
    return feature_shape[0] * (side * side if side is not None else feature_shape[1] * feature_shape[2])


def _pooled_to(feature_shape: tuple[int, ...], size: int | None) -> int | None:
    """The side to which a map is pooled; None where it is no larger, or no map."""
    return size if len(feature_shape) == 3 and size is not None and size < max(feature_shape[1:]) else None
