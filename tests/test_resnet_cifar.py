"""Residual networks for small images, against the paper's counts and a forward pass written from its words."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from command import answer, run
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.resnet_cifar import ResnetCifar
from effdl.config import build_choice
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.training.loop import reseed

CIFAR = Facts((3, 32, 32), "classes", 10, 100, 0, 100, 10)
# Table 6 of He et al. (2016), in millions as printed there.
PRINTED = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}


def built(seed: int = 0, **fields: object) -> BlockChain:
    reseed(seed)
    return ResnetCifar(**fields).build(CIFAR)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counted(depth: int) -> int:
    """By the paper's words: 3×3 convolutions without bias, two numbers a filter for normalisation, one linear layer."""
    n, total = (depth - 2) // 6, 3 * 9 * 16 + 2 * 16
    for fan_in, filters in ((16, 16), (16, 32), (32, 64)):
        total += 9 * filters * (fan_in + (2 * n - 1) * filters) + 2 * n * 2 * filters
    return total + 64 * 10 + 10


@pytest.mark.parametrize("depth", PRINTED)
def test_it_has_the_parameters_that_the_paper_prints_and_the_layers_of_its_name(depth: int) -> None:
    chain = built(depth=depth)
    assert parameters(chain) == counted(depth)
    digits = len(PRINTED[depth]) - 2
    assert f"{counted(depth) / 1e6:.{digits}f}" == PRINTED[depth]
    weighted = [m for m in chain.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth
    assert len(chain) == 1 + (depth - 2) // 2


def reference(chain: BlockChain, x: Tensor, depth: int, shortcut: str) -> Tensor:
    """§4.2 with tensors alone, taking the weights in the order in which they are used; eval mode."""
    weights = iter([m for m in chain.blocks.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)])

    def conv_bn(x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        conv, bn = next(weights), next(weights)
        z = F.conv2d(x, conv.weight, None, stride, padding)
        mean, std = (t[:, None, None] for t in (bn.running_mean, torch.sqrt(bn.running_var + bn.eps)))
        return (z - mean) / std * bn.weight[:, None, None] + bn.bias[:, None, None]

    x = conv_bn((x - chain.input.mean) / chain.input.std).clamp(min=0)
    for filters in (16, 32, 64):
        for i in range((depth - 2) // 6):
            stride = 2 if filters > 16 and i == 0 else 1
            z = conv_bn(conv_bn(x, stride).clamp(min=0))
            if stride == 2 and shortcut == "pad":
                more = filters // 4  # zeros on either side of the filters that there are
                kept = x[:, :, ::2, ::2]
                x = torch.cat([kept.new_zeros(len(x), more, *kept.shape[2:]), kept, torch.zeros_like(kept[:, :more])], 1)
            elif stride == 2:
                x = conv_bn(x, 2, 0)
            x = (x + z).clamp(min=0)
    linear = chain.head.layers[-1]
    return x.mean((2, 3)) @ linear.weight.T + linear.bias


@pytest.mark.parametrize(("depth", "shortcut"), [(8, "pad"), (32, "pad"), (14, "projection")])
def test_it_computes_what_the_paper_says(depth: int, shortcut: str) -> None:
    chain = built(1, depth=depth, shortcut=shortcut).double()
    chain.input.fit(torch.rand(20, 3, 32, 32, dtype=torch.float64))
    for module in chain.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if it had learned: else the terms could not be told apart
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        ours = chain.eval()(x)
        assert ours.std() > 0
        torch.testing.assert_close(ours, reference(chain, x, depth, shortcut), rtol=1e-10, atol=1e-12)


def test_odd_sides_are_halved_upwards_in_both_shortcuts_alike() -> None:
    facts = Facts((1, 45, 33), "classes", 3, 100, 0, 100, 10)
    shapes = [ResnetCifar(depth=8, shortcut=s).build(facts).shapes((1, 45, 33)) for s in ("pad", "projection")]
    assert shapes[0] == shapes[1] == [(16, 45, 33), (16, 45, 33), (32, 23, 17), (64, 12, 9)]


def test_convolutions_begin_with_variance_two_over_fan_in() -> None:
    convs = [m for m in built(depth=20).modules() if isinstance(m, nn.Conv2d)]
    scaled = torch.cat([m.weight.detach().flatten() * math.sqrt(m.weight[0].numel() / 2) for m in convs])
    assert abs(float(scaled.std()) - 1) < 0.01 and abs(float(scaled.mean())) < 0.01


def test_no_block_changes_what_the_block_below_put_out() -> None:
    """Blocks work in place on what they made themselves; a segment above may not spoil the outputs that are kept below it."""
    chain = built(depth=14).train()
    x = torch.rand(4, 3, 32, 32)
    for block in chain.blocks:
        x = x.detach().requires_grad_()
        kept, y = x.clone(), block(x)
        y.square().sum().backward()
        assert torch.equal(x, kept) and x.grad is not None and x.grad.isfinite().all()
        x = y


def test_both_presets_are_the_class_with_their_depth() -> None:
    assert build_choice("arch", "resnet32_cifar") == ResnetCifar(depth=32)
    assert build_choice("arch", "resnet110_cifar") == ResnetCifar(depth=110)


@pytest.mark.parametrize("depth", [2, 7, 31, 108])
def test_a_depth_that_is_not_6n_plus_2_is_refused_with_the_nearest(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"arch\.depth={depth} is not 6n \+ 2: \d+ or \d+ is"):
        ResnetCifar(depth=depth)
    with pytest.raises(ConfigError, match=r"arch: .*try arch=mlp"):
        ResnetCifar().check(Facts((64,), "classes", 10, 100, 0, 100, 10))


@pytest.mark.slow
def test_resnet32_learns_the_digits_from_the_command_line(tmp_path: Path) -> None:
    done = run("method=backprop", "arch=resnet32_cifar", "arch.size=8", "method.epochs=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert answer(done)["summary"]["test/acc"] > 0.9
