"""Auxiliary: decision blocks as the literature on local learning has them, small networks of their own (§6.3.1)."""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from effdl.archs.classifier import pooled_features
from effdl.setting import Count, Size, Switch, setting
from effdl.training.decision import Decision


@setting
class Auxiliary(Decision):
    """Maps are pooled to a ``shrink``-th of their sides, then come convolutions with batch normalisation and ReLU, average
    pooling to ``size`` × ``size``, linear layers with ReLU, and a last one.

    Features that are no maps go straight to the linear layers, tokens by their mean. The defaults are "MLP-SR" of decoupled
    greedy learning (Belilovsky, Eickenberg and Oyallon 2020); "auxiliary_cnn" has k − 1 = 2 of their 3×3 convolutions (2019),
    by which a layer is trained as the lowest of k = 3, and "auxiliary_infopro" is that of Wang et al. (2021).

    shrink: 4 there, rounded up; 1 leaves maps as they are.
    convs: how many. side: of their kernels. stride: of the first one. widen: channels are so many times the
        segment's.
    hidden: how many linear layers before the last. width: of each; null is as many as go into the first.
    normalise: batch normalisation in these, too.
    """

    shrink: Count = 4
    convs: Size = 3
    side: Literal[1, 3] = 1
    stride: Count = 1
    widen: Count = 1
    size: Count = 2
    hidden: Size = 3
    width: Count | None = None
    normalise: Switch = True

    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        shape = feature_shape
        if len(shape) == 3:
            convolutions, shape = self._convolutions(shape)
            layers += convolutions
        layers.append(_Flat(self.size))
        features = pooled_features(shape, self.size)
        widths = [features, *[self.width or features] * self.hidden]
        for fan_in, fan_out in pairwise(widths):
            normal = [nn.BatchNorm1d(fan_out)] if self.normalise else []
            layers += [nn.Linear(fan_in, fan_out, bias=not self.normalise), *normal, nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def _convolutions(self, shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, ...]]:
        """The layers up to the pooling, and the shape of what they put out."""
        channels, height, width = shape
        layers: list[nn.Module] = []
        if self.shrink > 1:
            height, width = (-(-side // self.shrink) for side in (height, width))
            layers.append(nn.AdaptiveAvgPool2d((height, width)))
        for i in range(self.convs):
            fan_in, channels = channels, shape[0] * self.widen
            stride = self.stride if i == 0 else 1
            conv = nn.Conv2d(fan_in, channels, self.side, stride, padding=self.side // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
            height, width = (-(-side // stride) for side in (height, width))
        return layers, (channels, height, width)


class _Flat(nn.Module):
    """Maps (B, C, H, W) pooled to ``size`` × ``size``, where they are larger, and tokens (B, N, C) by their mean, to (B, n)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, z: Tensor) -> Tensor:
        if z.dim() == 3:
            return z.mean(1)
        pooled: Tensor = self.pool(z) if z.dim() == 4 and self.size < max(z.shape[2:]) else z
        return pooled.flatten(1)
