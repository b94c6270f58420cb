"""Multi-layer perceptrons of any widths."""

import itertools
import math
from collections import OrderedDict
from typing import Literal

from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.weights import StartsFromWeights
from effdl.datasets.dataset import Facts
from effdl.setting import Count, Switch, setting

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


@setting
class Mlp(StartsFromWeights):
    """Linear layers of any widths with one activation; its "layers" are the hidden linear layers, the head is linear.

    hidden: widths of the hidden layers, e.g. [392, 50] for the thesis's 784-392-50-10. repeat: how many times over they come:
    hidden=[16], repeat=10000 for the deepest networks of §7.5.
    init: how hidden layers are drawn. "torch" is PyTorch's own, weights and biases uniform within ±1/√fan_in; with zero biases,
    "he" is normal of variance 2/fan_in, which keeps the scale of what passes ReLUs (He et al. 2015), "xavier" uniform of
    variance 2/(fan_in + fan_out), which keeps that of what passes a unit of slope one (Glorot and Bengio 2010).
    batch_norm: batch normalisation before each activation.
    bias: false leaves out the biases of all layers, the head's too, as the networks of Demirbilek have none.
    """

    hidden: tuple[Count, ...] = (256, 128)
    activation: Activation = "relu"
    repeat: Count = 1
    init: Literal["torch", "he", "xavier"] = "torch"
    batch_norm: Switch = False
    bias: Switch = True

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("arch.hidden is empty: name at least one width, for example [50]")
        super().__post_init__()

    def facts(self, problem: Facts) -> ArchFacts:
        widths = self.hidden * self.repeat
        return ArchFacts(len(widths), least_size=1, linear=None if self.batch_norm else widths, biases=self.bias)

    def build(self, problem: Facts) -> BlockChain:
        widths = [math.prod(problem.input_shape), *self.hidden * self.repeat]
        blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            norm = [nn.BatchNorm1d(fan_out)] if self.batch_norm else []
            blocks[f"linear{i + 1}"] = nn.Sequential(self._drawn(fan_in, fan_out), *norm, ACTIVATIONS[self.activation]())
        chain = BlockChain(blocks, nn.Linear(widths[-1], problem.outputs, bias=self.bias), InputBlock(problem.input_shape))
        return self._started(chain, chain, problem, "-".join(map(str, (*widths, problem.outputs)))[:99])

    def _drawn(self, fan_in: int, fan_out: int) -> nn.Linear:
        """A hidden layer."""
        layer = nn.Linear(fan_in, fan_out, bias=self.bias)
        if self.init != "torch":
            draw = nn.init.xavier_uniform_ if self.init == "xavier" else nn.init.kaiming_normal_
            draw(layer.weight)
            if self.bias:
                nn.init.zeros_(layer.bias)
        return layer
