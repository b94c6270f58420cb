"""PyramidNet against the paper's counts and a forward pass written from its words."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.pyramidnet import Pyramidnet
from effdl.config import build, build_choice, compose
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.training.loop import reseed

CIFAR = Facts((3, 32, 32), "classes", 10, 100, 0, 100, 10)
# Millions of parameters at depth 110, Han et al. (2017), table 4; its 28.3 at α = 270 no reading of its equation gives.
PRINTED = {48: 1.7, 84: 3.8}


def built(seed: int = 0, **fields: object) -> BlockChain:
    reseed(seed)
    return Pyramidnet(**fields).build(CIFAR)  # type: ignore[arg-type]


def widths(depth: int, widening: float) -> list[int]:
    """In whole numbers: ⌊16 + kα/N⌋, k from 0."""
    units = (depth - 2) // 2
    return [16 + k * int(widening) // units for k in range(units + 1)]


def counted(depth: int, widening: float) -> int:
    """By the paper's words: 3×3 convolutions without bias, three normalisations a unit, one at each end, one linear layer."""
    of = widths(depth, widening)
    total = 9 * 3 * 16 + 2 * 16
    for fan_in, filters in pairwise(of):
        total += 9 * filters * (fan_in + filters) + 2 * (fan_in + 2 * filters)
    return total + 2 * of[-1] + (of[-1] + 1) * 10


@pytest.mark.parametrize("widening", PRINTED)
def test_it_has_the_parameters_that_the_paper_prints_and_the_layers_of_its_name(widening: int) -> None:
    with torch.device("meta"):
        chain = Pyramidnet(depth=110, widening=widening).build(CIFAR)
    found = sum(p.numel() for p in chain.parameters())
    assert found == counted(110, widening)
    assert math.floor(found / 1e5) / 10 == PRINTED[widening]  # as the paper rounds all of its counts
    assert len([m for m in chain.modules() if isinstance(m, nn.Conv2d | nn.Linear)]) == 110 and len(chain) == 55


def test_of_depth_56_it_has_the_widths_of_the_formula() -> None:
    chain = build_choice("arch", "pyramidnet56").build(CIFAR)
    convs = [m.out_channels for m in chain.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [16, *(w for w in widths(56, 48)[1:] for _ in range(2))] and convs[-1] == 64
    assert sum(p.numel() for p in chain.parameters()) == counted(56, 48) and len(convs) == 55


def reference(chain: BlockChain, x: Tensor, depth: int) -> Tensor:
    """The paper's §2 and figure 6d with tensors alone, taking weights in the order in which they are used; eval mode."""
    weights = iter([m for m in chain.blocks.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)])

    def bn(x: Tensor) -> Tensor:
        m = next(weights)
        mean, std = (t[:, None, None] for t in (m.running_mean, torch.sqrt(m.running_var + m.eps)))
        return (x - mean) / std * m.weight[:, None, None] + m.bias[:, None, None]

    def conv(x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, next(weights).weight, None, stride, 1)

    x = bn(conv((x - chain.input.mean) / chain.input.std))
    n = (depth - 2) // 6
    for unit in range(3 * n):
        stride = 2 if unit in (n, 2 * n) else 1
        z = bn(conv(bn(conv(bn(x), stride)).clamp(min=0)))
        if stride == 2:  # the mean of each square of four pixels
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
        x = z + torch.cat([x, x.new_zeros(len(x), z.shape[1] - x.shape[1], *x.shape[2:])], 1)
    x = bn(x).clamp(min=0)
    linear = chain.head.layers[-1]
    return x.mean((2, 3)) @ linear.weight.T + linear.bias


@pytest.mark.parametrize(("depth", "widening"), [(8, 6), (14, 48), (20, 0)])
def test_it_computes_what_the_paper_says(depth: int, widening: int) -> None:
    chain = built(1, depth=depth, widening=widening).double()
    for module in chain.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.add_(0.1 * torch.randn_like(tensor))
    x = 255 * torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(chain.eval()(x), reference(chain, x, depth), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("depth", "near"), [(55, "50 or 56"), (2, "8 or 14"), (109, "104 or 110")])
def test_55_layers_cannot_be(depth: int, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"^arch\.depth={depth} is not 6n \+ 2: {near} is, as 56 and 110 are$"):
        build(compose(["arch=pyramidnet", f"arch.depth={depth}", "dataset=digits"]))


def test_convolutions_begin_with_he_weights() -> None:
    chain = built(depth=14)
    for conv in (m for m in chain.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 30):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.in_channels)), rel=0.05)
