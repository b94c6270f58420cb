"""VGG in its CIFAR form (Simonyan and Zisserman 2015; thesis §6.4, table 6.1)."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.archs.cnn import conv_block
from effdl.datasets.dataset import Facts
from effdl.setting import Count, Probability, Switch, setting

WIDTHS = (64, 128, 256, 512, 512)  # of the five groups; 2×2 max pooling ends each
CONVS = {13: (2, 2, 2, 2, 2), 19: (2, 2, 4, 4, 4)}  # by group: configurations B and E, which count three linear layers too


@setting
class Vgg(Arch):
    """VGG-13 or VGG-19: ten or sixteen 3×3 convolutions ("layers"), five poolings, a linear head hidden-hidden-classes.

    Images are enlarged or padded to ``size`` (32) pixels. The thesis prints neither the head's width nor whether
    VGG-13 has batch normalisation (§6.4, table 6.1): 512 and both forms are effdl's assumption. dropout: after each hidden
    layer of the head, 0.5 in VGG.
    """

    depth: Literal[13, 19] = 13
    batch_norm: Switch = False
    hidden: tuple[Count, ...] = (512, 512)
    dropout: Probability = 0.5
    size: Count = 32

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(sum(CONVS[self.depth]), 2 ** len(WIDTHS), self.size)

    def build(self, problem: Facts) -> BlockChain:
        channels, height, width = enlarged(problem.input_shape, self.size)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for filters, convs in zip(WIDTHS, CONVS[self.depth], strict=True):
            for i in range(convs):
                blocks[f"conv{len(blocks) + 1}"] = conv_block(channels, filters, self.batch_norm, pool=i == convs - 1)
                channels = filters
        head = Classifier((channels, height // 32, width // 32), problem.outputs, 1, self.hidden, self.dropout)
        return BlockChain(blocks, head, InputBlock(problem.input_shape, self.size))
