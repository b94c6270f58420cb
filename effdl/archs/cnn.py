"""Plain convolutional networks: the 4-layer CNN of §6.4 and VGG-13."""

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.datasets.problem import Facts
from effdl.setting import Count, Probability, Switch, setting

Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
VGG13 = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))  # configuration B of Simonyan and Zisserman (2015)


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


@setting
class Vgg13(Arch):
    """VGG-13 in its CIFAR form: ten 3×3 convolutions ("layers"), five poolings, a linear head hidden-hidden-classes.

    Images are enlarged or padded to ``size`` (32) pixels. The thesis prints neither the head's width nor whether
    VGG-13 has batch normalisation (§6.4, table 6.1): 512 and both forms are effdl's assumption. dropout: after each hidden
    layer of the head, 0.5 in VGG.
    """

    batch_norm: Switch = False
    hidden: tuple[Count, ...] = (512, 512)
    dropout: Probability = 0.5
    size: Count = 32

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(10, 32, self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for widths in VGG13:
            for i, filters in enumerate(widths):
                blocks[f"conv{len(blocks) + 1}"] = conv_block(channels, filters, self.batch_norm, pool=i == len(widths) - 1)
                channels = filters
        head = Classifier((channels, height // 32, width // 32), problem.outputs, 1, self.hidden, self.dropout)
        return BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))
