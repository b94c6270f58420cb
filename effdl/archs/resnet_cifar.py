"""Residual networks for small images (He, Zhang, Ren and Sun 2016, §4.2), the networks of the literature on local learning."""

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.archs.cnn import conv_block
from effdl.datasets.dataset import Facts
from effdl.setting import Count, setting

WIDTHS = (16, 32, 64)  # of the three groups, the second and third of which begin with stride 2
Shortcut = Literal["pad", "projection"]


@setting
class ResnetCifar(Arch):
    """Of depth 6n + 2: a 3×3 convolution, 3n residual blocks of two 3×3 convolutions with 16, 32 and 64 filters, global average
    pooling, one linear layer.

    depth: weighted layers, 20, 32, 44, 56, 110 in the paper (0.27, 0.46, 0.66, 0.85, 1.7 million parameters at 10 classes).
    shortcut: where a block halves the image and doubles the filters. "pad", option A there: every second pixel, and zeros for
        the new filters, without parameters; "projection", option B: a strided 1×1 convolution and batch normalisation.
    size: images are enlarged or padded to this side, 32 in the paper.

    Its "layers" are the first convolution and the residual blocks, 16 in ResNet-32 and 55 in ResNet-110: the 16 and 55 modules
    into which these are cut at most by Wang et al. (2021), the work that §6.3.1 of the thesis compares itself with.
    Convolutions begin with He et al.'s (2015) normal weights of variance 2 / fan-in, the linear layer as torch draws it.
    """

    depth: Count = 32
    shortcut: Shortcut = "pad"
    size: Count = 32

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            below = max(8, self.depth - (self.depth - 2) % 6)
            raise ValueError(f"arch.depth={self.depth} is not 6n + 2: {below} or {below + 6} is, as 20, 32, 44, 56 and 110 are")

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(1 + (self.depth - 2) // 2, 4, self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["stem"] = conv_block(channels, WIDTHS[0], batch_norm=True, pool=False)
        fan_in = WIDTHS[0]
        for group, filters in enumerate(WIDTHS, 1):
            for i in range((self.depth - 2) // 6):
                stride = 2 if group > 1 and i == 0 else 1
                blocks[f"group{group}_{i + 1}"] = Residual(fan_in, filters, stride, self.shortcut)
                fan_in = filters
                height, width = (-(-side // stride) for side in (height, width))
        head = Classifier((fan_in, height, width), problem.outputs, size=1)
        chain = BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))
        for module in chain.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return chain


class Residual(nn.Module):
    """ReLU(shortcut(x) + BN(conv(ReLU(BN(conv(x)))))), for x (B, fan_in, H, W); He et al.'s (2016) basic block."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = Pad(fan_out - fan_in, stride) if shortcut == "pad" else _projection(fan_in, fan_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.body(x).add_(self.shortcut(x)))


class Pad(nn.Module):
    """(B, C, H, W) to (B, C + more, ⌈H / stride⌉, ⌈W / stride⌉): the identity by strides, and as many zeros on both sides."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.more // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.more - before))

    def extra_repr(self) -> str:
        return f"more={self.more}, stride={self.stride}"


def _projection(fan_in: int, fan_out: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))
