"""BlockChain.from_module on other people's networks: same outputs, shared weights, clear errors, and blocks that learn."""

import re
from collections import OrderedDict
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from effdl import Batch, BlockChain, DecisionRule, InputBlock, Learner, Pool, Problem, Run, Segmentwise, Sgd, SoftmaxCe
from effdl.datasets.dataset import split
from effdl.datasets.digits import Digits
from effdl.errors import ConfigError
from effdl.training.loop import evaluate, reseed


class Residual(nn.Module):
    """Its activation stands first and works in place, and the shortcut takes what it left."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return x + self.conv(y)


class ResidualNet(nn.Module):
    """Hand-written: reused ReLU and pooling, a residual sum at the top, in-place functions, dropout by its own mode."""

    def __init__(self, channels: int = 3, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.block1 = Residual(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block1(x)
        x = self.pool(self.relu(x))
        x = F.relu(x + self.norm(self.conv2(x)), inplace=True)
        x = torch.dropout(F.relu(self.conv3(x), True), 0.3, self.training)
        x = self.pool(x).mean((2, 3))
        x = F.dropout(x, 0.3, training=self.training)
        return self.fc(x.view(x.size(0), -1))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(18, 6)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        return self.c(torch.cat([x, a, b], 1)) + x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(self.b(x))))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.leaky_relu(self.b(F.relu(self.a(x)))).flatten(1))


class Unused(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.Linear(6, 6))
        self.spare = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))


class UNet(nn.Module):
    """Down twice and up again, each time beside what was there on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        c = F.interpolate(F.relu(self.middle(F.max_pool2d(b, 2))), scale_factor=2)
        d = F.interpolate(F.relu(self.up2(torch.cat([c, b], 1))), scale_factor=2)
        return self.out(F.relu(self.up1(torch.cat([d, a], 1)))).mean((2, 3))


class Pair(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self[0](x), self[1](x)


def vgg11(batch_norm: bool) -> nn.Module:
    """torchvision's, its 4096 hidden units cut down to 64 and 32, or drawing them takes seconds."""
    with torch.device("meta"):
        module = torchvision.models.vgg11_bn(num_classes=10) if batch_norm else torchvision.models.vgg11(num_classes=10)
    for i, (fan_in, fan_out) in {0: (512 * 49, 64), 3: (64, 32), 6: (32, 10)}.items():
        module.classifier[i] = nn.Linear(fan_in, fan_out)
    module.features.to_empty(device="cpu")
    for layer in module.features:
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.reset_parameters()
    return module


def plain() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    )


def begins_in_place() -> nn.Sequential:
    """The second block starts with a ReLU(inplace=True): the cut is right after a convolution."""
    blocks = [
        ("conv1", nn.Conv2d(3, 8, 3)),
        ("two", nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3))),
    ]
    return nn.Sequential(OrderedDict([*blocks, ("flat", nn.Flatten()), ("fc", nn.Linear(8 * 28 * 28, 10))]))


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=3, embed_dim=48, drop_rate=0.1)


def deep(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=10)


RESNET_LAYERS = [f"layer{i + 1}_{j}" for i in range(4) for j in range(2)]
# builder, cuts, head, and the names of the blocks that must come out
CASES: dict[str, tuple[Callable[[], nn.Module], list[str] | None, str | None, list[str] | int]] = {
    "resnet10t": (deep("resnet10t"), None, None, ["conv1_0", "conv1_3", "conv1_6", *(f"layer{i}_0" for i in (1, 2, 3, 4))]),
    "resnet10t cuts": (deep("resnet10t"), ["maxpool", "layer2", "layer4.0"], "fc", ["maxpool", "layer2", "layer4_0"]),
    # DESIGN.md: EfficientNet-B0 has 18 layers = blocks + stem + head convolution; MobileNetV2 17 blocks
    "efficientnet_b0": (deep("efficientnet_b0"), None, None, 18),
    "mobilenetv2": (deep("mobilenetv2_035"), None, None, 17 + 2),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), None, None, ["conv1", *RESNET_LAYERS]),
    "resnet18 stages": (
        lambda: torchvision.models.resnet18(num_classes=10),
        ["layer1", "layer2.0", "layer2", "layer4"],
        None,
        ["layer1", "layer2_0", "layer2", "layer4"],
    ),
    "vgg11": (
        lambda: vgg11(False),
        None,
        None,
        [*(f"features_{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), "classifier_0", "classifier_3"],
    ),
    "vgg11_bn convolutions": (
        lambda: vgg11(True),
        None,
        "classifier",
        [f"features_{i}" for i in (0, 4, 8, 11, 15, 18, 22, 25)],
    ),
    "vit": (vit, None, None, ["patch_embed", "blocks_0", "blocks_1", "blocks_2"]),
    "vit cuts": (vit, ["blocks.0", "blocks.1"], "norm", ["blocks_0", "blocks_1", "blocks_2"]),
    "residual": (ResidualNet, None, None, ["stem", "block1", "conv2", "conv3"]),
    "residual cuts": (ResidualNet, ["stem", "block1"], None, ["stem", "block1"]),
    "sequential": (plain, None, None, ["0", "4"]),
    "in place": (begins_in_place, ["conv1", "two"], None, ["conv1", "two"]),
    "in place, opened": (begins_in_place, None, None, ["conv1", "two_2"]),
    "in place, head": (begins_in_place, ["conv1"], None, ["conv1"]),
}


def cut_up(case: str) -> tuple[nn.Module, BlockChain, Tensor]:
    build, cuts, head, _ = CASES[case]
    reseed(0)
    module = build().eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return module, BlockChain.from_module(module, cuts, head), x


@pytest.mark.parametrize("case", CASES)
def test_a_chain_computes_the_same_from_shared_weights_in_the_expected_blocks(case: str) -> None:
    build, _, _, blocks = CASES[case]
    reseed(0)
    with torch.no_grad():
        expected = build().eval()(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        module, chain, x = cut_up(case)
        assert torch.equal(chain(x), expected)
        assert torch.equal(module(x), expected)  # cutting it changed nothing in the original
    assert (chain.names if isinstance(blocks, list) else len(chain)) == blocks
    assert {id(p) for p in chain.parameters()} == {id(p) for p in module.parameters()}
    owned = [{id(p) for p in block.parameters()} for block in [*chain.blocks, chain.head]]
    assert all(owned) and sum(map(len, owned)) == len({id(p) for p in module.parameters()})


@pytest.mark.parametrize("case", CASES)
def test_no_piece_overwrites_its_input(case: str) -> None:
    _, chain, x = cut_up(case)
    with torch.no_grad():
        for piece in [*chain.blocks, chain.head]:
            version, before = x._version, x.clone()
            y = piece(x)
            assert x._version == version and torch.equal(x, before)
            x = y


@pytest.mark.parametrize("case", ["residual", "vit", "efficientnet_b0", "vgg11"])
def test_the_mode_reaches_every_dropout_and_normalisation(case: str) -> None:
    """In training mode, under the same seed, chain and original draw the same masks; and eval() ends that."""
    module, chain, x = cut_up(case)
    with torch.no_grad():
        still = chain(x)
        results = []
        for network in (module, chain):
            network.train()
            reseed(3)
            results.append(network(x))
            network.eval()
        assert torch.equal(*results)
        assert not torch.equal(results[0], still)
        module.eval(), chain.eval()
        assert torch.equal(chain(x), module(x))


def test_a_module_in_training_mode_gives_a_chain_in_training_mode() -> None:
    reseed(0)
    module = ResidualNet().train()
    x = torch.rand(4, 3, 32, 32)
    chain = BlockChain.from_module(module)
    assert all(m.training for m in module.modules())
    reseed(1)
    expected = module(x)
    reseed(1)
    assert torch.equal(chain(x), expected)


def test_an_activation_stays_with_the_layer_before_it_and_pooling_and_flattening_go_to_the_head() -> None:
    chain = BlockChain.from_module(plain())
    assert [type(m).__name__ for m in chain.blocks[0]] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert [type(m).__name__ for m in chain.blocks[1]] == ["Conv2d", "ReLU"]
    assert [type(m).__name__ for m in chain.head] == ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    mlp = BlockChain.from_module(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)))
    assert [type(m).__name__ for m in mlp.blocks[1]] == ["Linear", "Tanh"] and type(mlp.head) is nn.Linear


def test_a_functional_activation_stays_with_its_layer_too() -> None:
    reseed(0)
    module = Functional()
    chain = BlockChain.from_module(module)
    x = torch.randn(5, 6)
    a = module.a(x).relu()
    b = F.leaky_relu(module.b(a))
    assert chain.names == ["a", "b"]
    assert torch.equal(chain.blocks[0](x), a) and torch.equal(chain.blocks[1](a), b)
    assert torch.equal(chain.head(b), module(x))


ERRORS: dict[str, tuple[nn.Module, list[str] | None, str | None, str]] = {
    "unknown cut": (plain(), ["0", "nothing"], None, "no submodule 'nothing'; there are 0, 1, 2"),
    "unknown head": (plain(), None, "top", "no submodule 'top'"),
    "crossed": (Dense(), ["a"], None, "no cut after 'a': 2 values cross it: a, x"),
    "crossed head": (Dense(), None, "c", "no cut before 'c': 2 values cross it"),
    "nowhere": (
        Dense(),
        None,
        None,
        "found no place to cut Dense: no cut between a and b, as 2 values cross it: a, x; nor between 1 other pair of layers; "
        "whole it is one block, BlockChain([network], nn.Identity()); cuts= needs a place that one value alone crosses",
    ),
    "too few layers": (
        nn.Sequential(nn.Linear(6, 6), nn.ReLU()),
        None,
        None,
        "found no place to cut; a chain needs a layer, then",
    ),
    "around a cut": (UNet(), ["down2"], None, "'down2': 2 values cross it: down2, relu(down1); it can be cut after down1, up1"),
    "around all cuts": (Dense(), ["b"], None, "3 values cross it: x, a, b; nor can it be cut elsewhere: whole it is one block"),
    "around the head": (
        UNet(),
        None,
        "up2",
        "no cut before 'up2': 2 values cross it: cat(middle, down2), relu(down1); it can be cut after down1, up1",
    ),
    "wrong order": (plain(), ["4", "0"], None, "are out of order; the network calls 0, 4"),
    "head below": (plain(), ["4"], "0", "are out of order"),
    "twice": (Twice(), ["b"], None, "'b' is called 2 times in the forward pass, not once"),
    "shared": (Twice(), ["a"], None, "no cut after 'a': both sides use the same weights: b.weight, b.bias"),
    "no head": (plain(), ["0", "8"], None, "nothing is left for a head after '8'"),
    "empty": (plain(), [], None, "cuts is empty"),
    "never called": (Unused(), ["spare"], None, "'spare' is called 0 times in the forward pass, not once"),
    "two results": (Pair(nn.Linear(6, 6), nn.Linear(6, 6)), None, None, "Pair returns more than one tensor"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_cut_is_a_one_line_error(case: str) -> None:
    module, cuts, head, text = ERRORS[case]
    with pytest.raises(ConfigError, match=re.escape(text)) as error:
        BlockChain.from_module(module, cuts, head)
    assert "\n" not in str(error.value) and str(error.value).startswith("from_module: ")


def test_a_forward_pass_that_branches_on_data_is_a_one_line_error() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if x.sum() > 0 else self.b(x)

    with pytest.raises(ConfigError, match=r"^from_module: Branching cannot be traced .*"):
        BlockChain.from_module(Branching())


def test_a_block_that_hides_an_in_place_start_is_refused_when_it_trains() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.mul_(2))

    blocks = nn.Sequential(Hidden())
    rule = DecisionRule(blocks, Pool().build((3, 4, 4), 2), SoftmaxCe())
    learner = Learner(rule, Sgd().build(blocks.parameters()), seed=lambda epoch, step: 0)
    with pytest.raises(ConfigError, match="in-place"):
        list(learner.train_epoch([Batch(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), torch.arange(2))]))


def digits() -> Problem:
    train, val = split(Digits(), Digits().load()[0], seed=0)
    return Problem(train, val, SoftmaxCe(), outputs=10, batch_size=64)


@pytest.mark.parametrize("name", ["residual", "resnet10t"])
def test_layers_of_other_peoples_networks_learn_one_by_one(name: str) -> None:
    problem = digits()
    reseed(0)
    if name == "residual":
        module, size = ResidualNet(channels=1, width=16), 8
    else:
        module, size = timm.create_model("resnet10t", num_classes=10, in_chans=1), 16
    frame = InputBlock(problem.input_shape, size=size)
    frame.fit(problem.train_tensors().x)
    chain = BlockChain.from_module(module, cuts=["maxpool", "layer1", "layer2"] if name == "resnet10t" else None, input=frame)
    before = [p.clone() for p in chain.blocks.parameters()]
    run = Run.in_memory(Sgd(lr=0.05))
    network = Segmentwise(epochs=2, choose="last").fit(problem, chain, run)
    assert evaluate(network, problem.val(), problem.objective)["acc"] > 0.6
    assert sorted({line["segment"] for line in run.lines}) == list(range(len(chain)))
    assert all(not torch.equal(a, b) for a, b in zip(before, chain.blocks.parameters(), strict=True))
