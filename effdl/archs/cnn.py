"""Plain convolutional networks: their block, the 4-layer CNN of §6.4, and those of 5 and 10 layers of chapter 4."""

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.datasets.dataset import Facts
from effdl.setting import Count, Switch, setting

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


@setting
class Cnn5(Arch):
    """The "5-layer CNN" of §4.5: "four convolutional layers followed by an affine output layer [...], and batch normalization
    in all layers".

    Widths, kernels and pooling are not printed. effdl's assumption: 3×3 convolutions of 32-64-128-128 filters, each with batch
    normalisation and ReLU, and 2×2 max pooling behind each but the last. size: enlarge images to this side (see `InputBlock`).
    norm_outputs: batch normalisation of the affine layer's outputs as well, as "in all layers" has it to the letter.
    """

    widths: Widths = (32, 64, 128, 128)
    norm_outputs: Switch = False
    size: Count | None = None

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(len(self.widths), 2 ** (len(self.widths) - 1), self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for i, filters in enumerate(self.widths):
            pool = i < len(self.widths) - 1
            blocks[f"conv{i + 1}"] = conv_block(channels, filters, batch_norm=True, pool=pool)
            channels = filters
            if pool:
                height, width = height // 2, width // 2
        head: nn.Module = Classifier((channels, height, width), problem.outputs, size=None)
        if self.norm_outputs:
            head = nn.Sequential(head, nn.BatchNorm1d(problem.outputs))
        return BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))


@setting
class Cnn10(Arch):
    """The "(almost) all convolutional network with ten layers" of §4.10: All-CNN-C (Springenberg et al. 2015, table 1) with
    batch normalisation, its average pooling "replaced by a fully-connected" layer, the tenth.

    widths: of its first three convolutions and of the five behind them; 96 and 192 in the paper. The ninth has a filter a
        class. The third and the sixth have stride 2, the seventh no padding, the last two kernels of one pixel.
    size: images are enlarged or padded to this side. Dropout, of which §4.10 says nothing, is left out.
    """

    widths: tuple[Count, Count] = (96, 192)
    size: Count = 32

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(9, 9, self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        narrow, wide = self.widths
        filters = (*[narrow] * 3, *[wide] * 5, problem.outputs)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for layer, count in enumerate(filters, 1):
            kernel, stride, padding = (1 if layer > 7 else 3), (2 if layer in (3, 6) else 1), int(layer < 7)
            conv = nn.Conv2d(channels, count, kernel, stride, padding, bias=False)
            blocks[f"conv{layer}"] = nn.Sequential(conv, nn.BatchNorm2d(count), nn.ReLU())
            channels = count
            height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        head = Classifier((channels, height, width), problem.outputs, size=None)
        return BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))
