"""Networks whose blocks are linear layers, each with what stands around it; and the one that is a single linear layer."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.setting import setting


@setting
class Linear(Arch):
    """One linear layer from inputs to outputs: softmax regression under backprop, ridge regression in closed form."""

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(1, least_size=1, linear=())

    def build(self, problem: Facts) -> BlockChain:
        layer = nn.Linear(math.prod(problem.input_shape), problem.outputs)
        blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), linear1=layer)
        return BlockChain(blocks, nn.Identity(), InputBlock(problem.input_shape))


@dataclass(frozen=True)
class LinearLayer:
    """A block: ``after(linear(before(x)))``, of which the linear layer alone has weights."""

    before: nn.Sequential
    linear: nn.Linear
    after: nn.Sequential


def linear_layers(chain: BlockChain) -> list[LinearLayer]:
    """The blocks of a chain, the head being linear too. Raises ConfigError where they are of another form."""
    if not isinstance(chain.head, nn.Linear):
        raise ConfigError(f"arch: the head is {type(chain.head).__name__}, not one linear layer; arch=mlp has one")
    return [linear_layer(name, block) for name, block in chain.blocks.named_children()]


def linear_layer(name: str, block: nn.Module) -> LinearLayer:
    """A block of this name as one. Raises ConfigError where it is of another form."""
    parts = list(_parts(block))
    weighted = [i for i, part in enumerate(parts) if next(part.parameters(), None) is not None]
    if len(weighted) != 1 or not isinstance(linear := parts[weighted[0]], nn.Linear):
        raise ConfigError(f"arch: block {name} is not one linear layer with what has no weights around it; arch=mlp has such")
    return LinearLayer(nn.Sequential(*parts[: weighted[0]]), linear, nn.Sequential(*parts[weighted[0] + 1 :]))


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """What runs one after another in nested sequences."""
    if not isinstance(module, nn.Sequential):
        yield module
        return
    for part in module:
        yield from _parts(part)
