"""Feednets: folding against the blocks themselves in float64, and what it leaves alone."""

import copy
from collections import OrderedDict

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.config import build_choice
from effdl.datasets.dataset import Facts
from effdl.training.features import Stack
from effdl.training.feednet import feednet, folded
from effdl.training.loop import reseed
from effdl.training.sources import Fed

NETWORKS = ("cnn4", "vgg13_bn", "efficientnet_b0", "shufflenet_v2_x0_5", "mobilenet_v2", "resnet18", "mobilevit_v2", "vit_tiny")
NORMS = {"mobilevit_v2": 25}  # those that timm joins with their activation stay


def learned(name: str) -> BlockChain:
    """A network in float64 whose normalisations are far from the identity."""
    reseed(0)
    chain: BlockChain = build_choice("arch", name).build(Facts((3, 32, 32), "classes", 10, 9, 0, 9, 3)).double()
    for norm in (m for m in chain.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    return chain.eval()


def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_limit_a_feednets_outputs_are_the_blocks_own_and_no_normalisation_is_left(name: str) -> None:
    chain = learned(name)
    before = copy.deepcopy(chain.state_dict())
    fast = nn.Sequential(*map(feednet, chain.blocks))
    torch.testing.assert_close(fast(pixels()), chain.blocks(pixels()), rtol=1e-10, atol=1e-10)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fast.modules()) == NORMS.get(name, 0)
    assert tiny.same(before, dict(chain.state_dict()))


def test_a_folded_convolution_is_worked_out_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=True), nn.BatchNorm2d(1, eps=0.0)
    values = ((conv.weight, 3.0), (conv.bias, 1.0), (norm.weight, 2.0), (norm.bias, 5.0))
    for parameter, value in values:
        nn.init.constant_(parameter, value)  # type: ignore[arg-type]
    norm.running_mean, norm.running_var = torch.tensor([7.0]), torch.tensor([4.0])
    (left,) = [m for m in folded(nn.Sequential(conv, norm).eval()).modules() if isinstance(m, nn.Conv2d)]
    assert left.weight.item() == 3.0 * 2 / 2 and left.bias is not None and left.bias.item() == (1.0 - 7) * 2 / 2 + 5


class Twice(nn.Module):
    """A convolution whose output is read by more than its normalisation, and a normalisation that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        out: Tensor = self.norm(z) + z
        return self.norm(self.other(out))


@torch.no_grad()
def test_what_cannot_be_folded_stays() -> None:
    module = Twice().double().eval()
    module.norm.running_mean = torch.rand(3, dtype=torch.float64)
    fast = feednet(module)
    torch.testing.assert_close(fast(pixels()), module(pixels()), rtol=1e-12, atol=1e-12)
    assert any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert feednet(plain) is plain


def test_a_source_that_keeps_nothing_feeds_through_folded_blocks_and_one_that_keeps_does_not() -> None:
    chain = tiny.chain().double().eval()
    chain.blocks[0][1].running_mean.normal_()  # type: ignore[index, union-attr, operator]
    fed, kept = (Fed(tiny.problem(), keep_bytes) for keep_bytes in (0, 10**9))
    for source in (fed, kept):
        source.look(Stack((chain.input,), (0,)))
        source.look(Stack((chain.input, *chain[0:1]), (0, 1)))
    norms = [m for m in nn.Sequential(*fed.through.pending).modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms and len(fed.through.pending) == 2 and len(kept.through.pending) == 0
    for one, other in zip(fed.train(0), kept.train(0), strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-10, atol=1e-10)


def test_state_of_an_ordered_dict_is_kept_in_order() -> None:
    blocks = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 4, 1), b=nn.BatchNorm2d(4), c=nn.ReLU())).eval()
    assert [type(m) for m in folded(copy.deepcopy(blocks)).children()] == [nn.Conv2d, nn.ReLU]
