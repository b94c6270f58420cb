"""Recomputing a block in parts: the same bits as without, in less memory, counted alike on real and fake tensors."""

import copy

import pytest
import test_memory
import torch
from torch import Tensor, nn

from effdl.config import build_choice
from effdl.costs.memory import LiveStorages
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.objectives.losses import SoftmaxCe
from effdl.training.decision import DownConv, Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.optim import Sgd
from effdl.training.recompute import in_parts

IMAGES = Facts((3, 32, 32), "classes", 10, 1280, 10, 10, 128)
# Convolution and normalisation; inverted residuals whose activations work in place; attention; residuals written by hand
NETWORKS = {"vgg13_bn": 1, "efficientnet_b0": 3, "mobilevit_v2": 6, "resnet18": 2, "shufflenet_v2_x0_5": 1}


def learned(
    name: str, block: int, checkpoint: object, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """What a block puts out in one step, its gradients and what the step leaves in its buffers."""
    reseed(0)
    chain = build_choice("arch", name).build(IMAGES)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        for below in (chain.input, *chain[:block]):
            x = below.eval()(x)
    shape = chain.shapes(IMAGES.input_shape)[block]
    rule = DecisionRule(chain[block : block + 1], Pool().build(shape, 10), SoftmaxCe(), checkpoint=checkpoint)  # type: ignore[arg-type]
    rule.train().to(dtype)
    reseed(1)
    out = rule.learn(Batch(x.to(dtype), torch.arange(4), torch.arange(4)), 0)
    gradients = {key: p.grad for key, p in rule.named_parameters() if p.grad is not None}
    return out.x, gradients, dict(rule.named_buffers())


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_give_the_same_bits_as_no_recomputation(name: str) -> None:
    plain, parts = (learned(name, NETWORKS[name], checkpoint) for checkpoint in (False, "parts"))
    assert plain[1].keys() == parts[1].keys() and len(plain[1]) > 2
    torch.testing.assert_close(parts, plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_by_channels_outputs_and_statistics_are_the_same_bits_and_gradients_the_same_but_for_rounding(name: str) -> None:
    plain, by_channels = (learned(name, NETWORKS[name], checkpoint, torch.float64) for checkpoint in (False, "channels"))
    assert torch.equal(plain[0], by_channels[0])
    torch.testing.assert_close(by_channels[2], plain[2], rtol=0, atol=0)
    torch.testing.assert_close(by_channels[1], plain[1], rtol=1e-9, atol=1e-12)


def test_of_a_convolution_with_normalisation_and_activation_its_input_alone_is_held() -> None:
    block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
    x = torch.rand(2, 3, 4, 4)
    found = []
    for call in (block, lambda x: in_parts(block, x), lambda x: in_parts(block, x, channels=True)):
        live = LiveStorages()
        live.book([*block.parameters(), *block.buffers(), x], "parameter")
        before = live.live
        with live:
            out = call(x)
        found.append(live.live - before)
        assert out.requires_grad
        del out
    one_map = 2 * 8 * 4 * 4 * 4
    statistics = 2 * 8 * 4  # of the batch, which normalisation saves
    assert found[1] == one_map + statistics  # what it puts out
    assert found[2] == one_map
    assert found[0] == 3 * one_map + statistics  # what the convolution put out, and a copy of what the activation got


def test_in_place_activations_are_in_place_again() -> None:
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(inplace=True))
    in_parts(block, torch.rand(2, 3, 4, 4))
    assert block[1].inplace
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


def test_an_input_overwritten_since_is_noticed() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            out: Tensor = self.act(self.conv(y))
            y.add_(1)
            return out

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        in_parts(Careless(), torch.rand(2, 3, 4, 4)).sum().backward()


def four_images() -> Batch:
    return Batch(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4), torch.arange(4))


def case(name: str, block: int, checkpoint: object = "parts") -> tuple[Learner, nn.Module]:
    reseed(0)
    chain = build_choice("arch", name).build(IMAGES)
    shape = chain.shapes(IMAGES.input_shape)[block]
    decision = DownConv(convs=2, channels=8, bottleneck=True).build(shape, 10)
    rule = DecisionRule(chain[block : block + 1], decision, SoftmaxCe(), checkpoint=checkpoint)  # type: ignore[arg-type]
    learner = Learner(rule, Sgd().build(rule.parameters()), seed=lambda epoch, step: step)
    return learner, nn.Sequential(chain.input, *chain[:block]).eval()


@pytest.mark.parametrize("how", ["parts", "channels"])
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_are_counted_alike_on_real_and_fake_tensors_and_take_less(name: str, how: str) -> None:
    data = four_images()
    learner, feednet = case(name, NETWORKS[name], how)
    real = test_memory.rehearsal(learner, feednet, data).memory()
    assert test_memory.rehearsal(learner, feednet, data, fake=True).memory() == real
    with torch.no_grad():
        x = feednet(data.x).repeat(16, 1, 1, 1)
    many = Batch(x, data.y.repeat(16), data.index.repeat(16))
    peaks = [
        test_memory.rehearsal(case(name, NETWORKS[name], one)[0], nn.Sequential(), many, fake=True).memory().peak
        for one in (how, False)
    ]
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("how", ["parts", "channels"])
@pytest.mark.parametrize("name", ["vgg13_bn", "efficientnet_b0"])
def test_the_count_is_torchs_own_to_the_byte(name: str, how: str) -> None:
    data = four_images()
    learner, feednet = case(name, NETWORKS[name], how)
    ours = test_memory.rehearsal(*copy.deepcopy((learner, feednet)), data).memory().peak
    assert ours == test_memory.oracle(learner, feednet, data)
