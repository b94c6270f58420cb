"""Multi-layer perceptrons of any widths."""

import itertools
import math
import re
from collections import OrderedDict
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.datasets.problem import Facts
from effdl.setting import Count, setting

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
}
Activation = Literal["relu", "tanh", "sigmoid", "celu", "elu", "gelu", "silu", "softplus", "leaky_relu", "identity"]


def repeated(hidden: Any) -> Any:
    """Widths with each "300x16" among them as 300 layers of 16; anything else stays as it is, for others to judge."""
    if not isinstance(hidden, list | tuple):
        return hidden
    found = [re.fullmatch(r"(\d{1,6})x(\d+)", width) if isinstance(width, str) else None for width in hidden]
    parts = [[w] if m is None else int(m[1]) * [int(m[2])] for w, m in zip(hidden, found, strict=True)]
    return [width for part in parts for width in part]


@setting
class Mlp(Arch):
    """Linear layers of any widths with one activation; its "layers" are the hidden linear layers, the head is linear.

    hidden: widths of the hidden layers, e.g. [392, 50] for the thesis's 784-392-50-10; "300x16" stands for 300 layers of 16.
    """

    hidden: Annotated[tuple[Count, ...], BeforeValidator(repeated)] = (256, 128)
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("arch.hidden is empty: name at least one width, for example [50]")

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(len(self.hidden), least_size=1, linear=self.hidden)

    def build(self, problem: Facts) -> BlockChain:
        widths = [math.prod(problem.input_shape), *self.hidden]
        blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            blocks[f"linear{i + 1}"] = nn.Sequential(nn.Linear(fan_in, fan_out), ACTIVATIONS[self.activation]())
        return BlockChain(blocks, nn.Linear(widths[-1], problem.outputs), InputBlock(problem.input_shape))
