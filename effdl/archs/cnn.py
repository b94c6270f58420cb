"""Plain convolutional networks: their block, and the 4-layer CNN of §6.4."""

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.datasets.dataset import Facts
from effdl.setting import Count, setting

Widths = Annotated[tuple[Count, ...], Field(min_length=1)]


def conv_block(fan_in: int, fan_out: int, batch_norm: bool, pool: bool) -> nn.Sequential:
    """3×3 convolution, batch normalisation or not, ReLU, and the 2×2 max pooling that follows it or not."""
    parts: list[nn.Module] = [nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=not batch_norm)]
    if batch_norm:
        parts.append(nn.BatchNorm2d(fan_out))
    parts.append(nn.ReLU())
    if pool:
        parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts)


@setting
class Cnn4(Arch):
    """The "vanilla 4-layer CNN" of §6.4: three convolutions, each with ReLU and 2×2 max pooling, and one linear layer.

    Its widths are not printed; 32-64-128 is effdl's assumption. size: enlarge images to this side (see `InputBlock`).
    """

    widths: Widths = (32, 64, 128)
    size: Count | None = None

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(len(self.widths), 2 ** len(self.widths), self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for i, filters in enumerate(self.widths):
            blocks[f"conv{i + 1}"] = conv_block(channels, filters, batch_norm=False, pool=True)
            channels, height, width = filters, height // 2, width // 2
        head = Classifier((channels, height, width), problem.outputs, size=None)
        return BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))
