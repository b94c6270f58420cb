"""PyramidNet for small images (Han, Kim and Kim 2017), the residual network of thesis §4.12."""

import math
from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.datasets.dataset import Facts
from effdl.setting import Count, NonNegative, setting

FIRST = 16  # filters of the first convolution


@setting
class Pyramidnet(Arch):
    """Of depth 6n + 2: a 3×3 convolution of 16 filters, 3n residual units of two 3×3 convolutions whose filters grow by α/3n
    from unit to unit, global average pooling, one linear layer (additive PyramidNet with basic units).

    depth: weighted layers, 110 and 56 here. Tables 4.3 and 4.4 have 110 and "55", which is of no form: a depth is 6n + 2 of
        basic units and 9n + 2 of bottlenecks.
    widening: α, by how many filters the last unit has more than the first convolution; 48 in §4.12 (1.7 million parameters at
        depth 110 and 10 classes in the paper). Unit k has ⌊16 + kα/3n⌋ filters.
    size: images are enlarged or padded to this side, 32 in the paper.

    Its "layers" are the first convolution and the units, 55 at depth 110; the last one has the normalisation and the ReLU
    before pooling. Convolutions begin with He et al.'s (2015) normal weights of variance 2 / fan-in, the linear layer as torch
    draws it.
    """

    depth: Count = 110
    widening: NonNegative = 48.0
    size: Count = 32

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            below = max(8, self.depth - (self.depth - 2) % 6)
            raise ValueError(f"arch.depth={self.depth} is not 6n + 2: {below} or {below + 6} is, as 56 and 110 are")

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(1 + (self.depth - 2) // 2, 4, self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        of_group, blocks = (self.depth - 2) // 6, OrderedDict[str, nn.Module]()
        blocks["stem"] = nn.Sequential(nn.Conv2d(channels, FIRST, 3, padding=1, bias=False), nn.BatchNorm2d(FIRST))
        fan_in = FIRST
        for unit in range(3 * of_group):
            filters = math.floor(FIRST + (unit + 1) * self.widening / (3 * of_group) + 1e-9)
            stride = 2 if unit in (of_group, 2 * of_group) else 1
            blocks[f"group{unit // of_group + 1}_{unit % of_group + 1}"] = Unit(fan_in, filters, stride)
            fan_in = filters
            height, width = (-(-side // stride) for side in (height, width))
        name, last = blocks.popitem()
        blocks[name] = nn.Sequential(last, nn.BatchNorm2d(fan_in), nn.ReLU())
        head = Classifier((fan_in, height, width), problem.outputs, size=1)
        chain = BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))
        for module in chain.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return chain


class Unit(nn.Module):
    """shortcut(x) + BN(conv(ReLU(BN(conv(BN(x)))))) for x (B, fan_in, H, W), the paper's figure 6d.

    The shortcut has no weights: 2×2 average pooling where the unit halves the image, and zeros for filters that x has not.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(fan_in),
            nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.stride, self.more = stride, fan_out - fan_in

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x)
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return z.add_(F.pad(x, (0, 0, 0, 0, 0, self.more)))

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
