"""Decision blocks: the temporary heads of segments (thesis §6.2.2, "Decision-block vs decision-layer")."""

from abc import ABC, abstractmethod
from itertools import pairwise

from torch import nn

from effdl.archs.classifier import Classifier
from effdl.setting import Count, Probability, Setting, Size, setting


class Decision(Setting, ABC):
    """How a segment's outputs become logits while it trains."""

    @abstractmethod
    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """A freshly drawn decision block for features (B, *feature_shape), its input dimension matched to them."""


@setting
class Pool(Decision):
    """Average pooling to ``size`` × ``size``, then linear layers ("down-pooling").

    size: None takes the whole map; without hidden layers that is the single affine decision-layer of §6.2.1 and §6.4.
    hidden and dropout: linear layers in between, each with ReLU and dropout; VGG's own three layers are hidden
    [512, 512], dropout 0.5 (§6.4), with 7 × 7 here because unpooled the first layer's would have 34M weights.
    """

    size: Count | None = 1
    hidden: tuple[Count, ...] = ()
    dropout: Probability = 0.0

    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Classifier(feature_shape, outputs, self.size, self.hidden, self.dropout)


@setting
class DownConv(Decision):
    """Up to ``convs`` strided 3×3 convolutions with batch normalisation and ReLU, then pooling and linear ("down-conv").

    channels: of each convolution; 0 keeps the segment's own number. A map of side 1 is not convolved further. Table 6.3
    allows 3 or 4 convolutions. Features that are no map go straight to the linear layer.
    """

    convs: Count = 1
    channels: Size = 0
    size: Count = 1

    def build(self, feature_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(feature_shape) != 3:
            return Classifier(feature_shape, outputs, self.size)
        channels, height, width = feature_shape
        sides, count = (height, width), 0
        while count < self.convs and max(sides) > 1:
            sides, count = ((sides[0] + 1) // 2, (sides[1] + 1) // 2), count + 1
        widths = [channels, *[self.channels or channels] * count]
        convs = [_down(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)]
        return nn.Sequential(*convs, Classifier((widths[-1], *sides), outputs, self.size))


def _down(fan_in: int, fan_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU())
