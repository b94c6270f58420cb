"""Networks of torchvision and timm: the libraries' own outputs, the thesis's cut points, stems, and two steps of training."""

import sys
from functools import cache
from typing import Any

import pytest
import sampled
import timm
import torch
import torchvision.models
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.library import NETWORKS, Library
from effdl.config import build_choice, choices
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.objectives.losses import SoftmaxCe
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.optim import Sgd

LAYERS = {  # table 6.3's "of" column; 40 for EfficientNetV2-S by §6.8.1; M, L, the ResNets and the transformer are ours
    "efficientnet_b0": 18,
    "efficientnet_b1": 25,
    "efficientnet_b2": 25,
    "efficientnet_b3": 28,
    "efficientnet_v2_s": 40,
    "efficientnet_v2_m": 57,
    "efficientnet_v2_l": 79,
    "mobilenet_v2": 17,
    "shufflenet_v2_x0_5": 16,
    "shufflenet_v2_x1_0": 16,
    "shufflenet_v2_x2_0": 16,
    "resnet18": 8,
    "resnet50": 16,
    "mobilevit_v2": 10,
    "vit_tiny": 12,
}
LARGE = ("efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_v2_m", "efficientnet_v2_l", "resnet50")
SMALL = [name for name in LAYERS if name not in LARGE]
EACH = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in sampled.some("large networks", LARGE, 2))]
CONVOLUTIONAL = [name for name in LAYERS if name != "vit_tiny" and name not in LARGE]


def facts(side: int = 32, channels: int = 3) -> Facts:
    return Facts((channels, side, side), "classes", 10, 100, 0, 100, 10)


def arch(name: str, **changes: Any) -> Library:
    made: Library = build_choice("arch", name)
    return Library(**{"name": made.name, **changes})


def build(name: str, side: int = 32, channels: int = 3, **changes: Any) -> BlockChain:
    reseed(0)
    made = arch(name, **changes)
    made.check(facts(side, channels))
    return made.build(facts(side, channels))


def count(chain: BlockChain) -> int:
    return sum(p.numel() for p in chain.parameters())


@cache
def count_of_plain(name: str) -> int:
    """Parameters of a convolutional network with its own stem, whatever the images."""
    return count(build(name))


def raw(count: int, side: int = 32, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def test_every_network_of_the_table_has_its_choice_and_its_count() -> None:
    chosen = {name: build_choice("arch", name) for name in choices("arch")}
    ours = {name: made for name, made in chosen.items() if isinstance(made, Library) and name != "library"}
    assert set(ours) == set(LAYERS) and {made.name for made in ours.values()} == set(NETWORKS)
    assert {name: made.facts(facts()).blocks for name, made in ours.items()} == LAYERS


@pytest.mark.parametrize("name", EACH)
def test_chain_computes_what_the_librarys_own_network_does(name: str) -> None:
    reseed(0)
    own = arch(name).name
    if name == "vit_tiny":
        theirs = timm.create_model(own, num_classes=10, img_size=64, patch_size=16)
    elif name == "mobilevit_v2":
        theirs = timm.create_model(own, num_classes=10)
    else:
        theirs = torchvision.models.get_model(own, num_classes=10, weights=None)
    chain = build(name, 64).eval()
    assert len(chain) == LAYERS[name]
    assert all(next(block.parameters(), None) is not None for block in chain.blocks)
    assert sum(p.numel() for p in chain.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        x = chain.input(raw(2, 64))
        expected = theirs.eval()(x)
        assert expected.std() > 0 and torch.equal(chain.head(chain.blocks(x)), expected)


@pytest.mark.parametrize(("stem", "side", "last"), [("library", 64, 2), ("96", 96, 6), ("32", 32, 4), ("library", 32, 1)])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_stems_leave_small_images_their_size(name: str, stem: Any, side: int, last: int) -> None:
    chain = build(name, side, stem=stem)
    last = max(last, 2) if name == "mobilevit_v2" else last  # it enlarges what is no whole number of its 2×2 patches
    assert chain.shapes((3, side, side))[-1][1:] == (last, last)
    assert count(chain) == count_of_plain(name)


@pytest.mark.parametrize(("stem", "side", "tokens"), [("library", 64, 16), ("96", 96, 144), ("32", 32, 64)])
def test_a_vision_transformer_has_a_token_for_each_patch_and_one_for_the_class(stem: Any, side: int, tokens: int) -> None:
    assert build("vit_tiny", side, stem=stem).shapes((3, side, side)) == [(tokens + 1, 192)] * 12


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilevit_v2", "vit_tiny"])
def test_grey_digits_are_enlarged_and_repeated_to_three_channels(name: str) -> None:
    chain = build(name, 8, channels=1).eval()
    x = chain.input(raw(3, 8, 1))
    assert x.shape == (3, 3, 32, 32) and torch.equal(x[:, 0], x[:, 2])
    assert torch.equal(x[:, 1, ::4, ::4], raw(3, 8, 1)[:, 0].float())
    with torch.no_grad():
        assert chain(raw(3, 8, 1)).shape == (3, 10)


def steps(chain: BlockChain, start: int, stop: int, head: nn.Module) -> None:
    """Two steps, after which the trained blocks have moved, each of them, and no others."""
    rule = DecisionRule(chain[start:stop], head, SoftmaxCe())
    learner = Learner(rule, Sgd(lr=0.01).build(rule.parameters()), seed=lambda epoch, step: step)
    before = [[p.detach().clone() for p in block.parameters()] for block in chain.blocks]
    chain.eval()
    with torch.no_grad():
        x = chain[:start](chain.input(raw(4)))
    batch = Batch(x, torch.arange(4), torch.arange(4))
    for out in learner.train_epoch([batch, batch]):
        assert out.loss is not None and out.loss.isfinite().all() and out.x.isfinite().all()
    for i, (block, old) in enumerate(zip(chain.blocks, before, strict=True)):
        moved = [not torch.equal(a, b) for a, b in zip(block.parameters(), old, strict=True)]
        assert any(moved) == (start <= i < stop), i


@pytest.mark.parametrize("name", EACH)
def test_two_steps_of_backprop_and_of_the_first_middle_and_last_segment(name: str) -> None:
    chain = build(name)
    shapes = chain.shapes((3, 32, 32))
    for i in (0, len(chain) // 2, len(chain) - 1):
        steps(chain, i, i + 1, Pool().build(shapes[i], 10))
    steps(chain, 0, len(chain), chain.head)


@pytest.mark.parametrize(
    ("name", "changes", "problem", "says"),
    [
        ("resnet18", {"size": 16}, facts(16), r"^arch\.size: images of 16 pixels are too small.*at least 32"),
        ("resnet18", {}, facts(channels=2), r"^arch=resnet18: takes images of 1 or 3 channels, not 2"),
        ("vit_tiny", {"stem": "32", "size": 30}, facts(30), r"no whole number of patches of 4; arch\.size=32 pads them"),
        ("vit_tiny", {}, Facts((20,), "classes", 2, 9, 0, 9, 3), r"^arch: this network takes images"),
    ],
)
def test_inputs_that_a_network_cannot_take_are_said_in_one_line(name: str, changes: Any, problem: Facts, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        arch(name, **changes).check(problem)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "package"), [("resnet18", "torchvision.models"), ("vit_tiny", "timm")])
def test_a_library_that_is_not_installed_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"needs (torchvision|timm) .*pip install 'effdl\[vision\]'"):
        build(name)


@pytest.mark.parametrize(
    "stem", [pytest.param("library", marks=pytest.mark.slow), pytest.param("96", marks=pytest.mark.slow), "32"]
)
@pytest.mark.parametrize("name", EACH)
def test_the_least_image_is_learned_from_and_one_of_a_pixel_less_is_refused(name: str, stem: Any) -> None:
    least = arch(name, stem=stem).facts(facts()).least_size
    assert least == (16, 8, 4)[("library", "96", "32").index(stem)] * (1 if name == "vit_tiny" else 2)
    chain = build(name, least, size=least, stem=stem)
    logits = chain(raw(2, least))
    logits.square().sum().backward()
    assert logits.shape == (2, 10) and logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in chain.parameters())
    with pytest.raises(
        ConfigError, match=rf"^arch\.size: images of {least - 1} pixels are too small.* at least {least}; "
    ) as error:
        arch(name, size=least - 1, stem=stem).check(facts(least - 1))
    assert f"arch.size={least} enlarges them" in str(error.value)
    arch(name, size=least, stem=stem).check(facts(least - 1))
