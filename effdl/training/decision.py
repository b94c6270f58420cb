"""Decision blocks: the temporary heads of segments (thesis §6.2.2, "Decision-block vs decision-layer")."""

import math
from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise

from torch import nn

from effdl.archs.classifier import Classifier, pooled_features
from effdl.setting import Count, Probability, Setting, Size, Switch, setting


class Decision(Setting, ABC):
    """How a segment's outputs become logits while it trains."""

    @abstractmethod
    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """A freshly drawn decision block for features (B, *feature_shape), its input dimension matched to them."""


@setting
class Pool(Decision):
    """Average pooling to ``size`` × ``size``, then linear layers ("down-pooling").

    size: None takes the whole map; without hidden layers that is the single affine decision-layer of §6.2.1 and §6.4.
    at_most: of maps, the largest size, 1 or more, with which no more than so many features go into the linear layers, and
        ``size`` does not count; 2,048 in Nøkland and Eidnes (2019).
    hidden and dropout: linear layers in between, each with ReLU and dropout; VGG's own three layers are hidden
    [512, 512], dropout 0.5 (§6.4), with 7 × 7 here because unpooled the first layer's would have 34M weights.
    """

    size: Count | None = 1
    at_most: Count | None = None
    hidden: tuple[Count, ...] = ()
    dropout: Probability = 0.0

    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        size = self.size if self.at_most is None else max(1, math.isqrt(self.at_most // feature_shape[0]))
        return Classifier(feature_shape, outputs, size, self.hidden, self.dropout)


@setting
class DownConv(Decision):
    """Up to ``convs`` strided 3×3 convolutions with batch normalisation and ReLU, then pooling and linear ("down-conv").

    channels: of each convolution; 0 keeps the segment's own number. A map of side 1 is not convolved further. Table 6.3
    allows 3 or 4 convolutions. Features that are no map go straight to the linear layer, and so they do without convolutions.
    bottleneck: a 1×1 convolution, with batch normalisation and ReLU, brings a wide layer to so many channels before the first.
    """

    convs: Size = 1
    channels: Size = 0
    size: Count = 1
    bottleneck: Switch = False

    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        classifier = partial(Classifier, self._pooled(feature_shape), outputs, self.size)
        if len(feature_shape) != 3:
            return classifier()
        return nn.Sequential(*[_conv(*layer) for layer in self._layers(feature_shape)], classifier())

    def weights(self, feature_shape: tuple[int, ...], outputs: int) -> int:
        """How many it has."""
        convs = sum(side**2 * fan_in * fan_out + 2 * fan_out for fan_in, fan_out, side in self._layers(feature_shape))
        return convs + (pooled_features(self._pooled(feature_shape), self.size) + 1) * outputs

    def convolved(self, feature_shape: tuple[int, ...]) -> int:
        """How many of its convolutions such features take: each halves a map, up to side 1."""
        if len(feature_shape) != 3:
            return 0
        return min(self.convs, (max(feature_shape[1:]) - 1).bit_length())

    def _layers(self, feature_shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Channels that come and go, and the side, of each convolution."""
        if (count := self.convolved(feature_shape)) == 0:
            return []
        channels = feature_shape[0]
        width = self.channels or channels
        first = [(channels, width, 1)] if self.bottleneck else []
        widths = [width if first else channels, *[width] * count]
        return first + [(*pair, 3) for pair in pairwise(widths)]

    def _pooled(self, feature_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of what the convolutions put out."""
        if len(feature_shape) != 3:
            return feature_shape
        channels, layers = feature_shape[0], self._layers(feature_shape)
        height, width = (-(-side // 2 ** self.convolved(feature_shape)) for side in feature_shape[1:])
        return (layers[-1][1] if layers else channels, height, width)


def _conv(fan_in: int, fan_out: int, side: int) -> nn.Sequential:
    """Of side 3, halving the map, or of side 1."""
    conv = nn.Conv2d(fan_in, fan_out, side, stride=2 if side > 1 else 1, padding=side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out), nn.ReLU())
