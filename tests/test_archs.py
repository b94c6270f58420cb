"""Architectures and the input block against torchvision, numpy, and counts from the literature."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import Arch, BlockChain
from effdl.archs.classifier import Classifier
from effdl.archs.cnn import Cnn4, Cnn5
from effdl.archs.library import Library
from effdl.archs.mlp import Mlp
from effdl.archs.vgg import Vgg
from effdl.config import build_choice, choices
from effdl.datasets.dataset import Facts, Scaling
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.training.loop import reseed

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar": (3, 32, 32), "96 pixels": (3, 96, 96), "wide": (3, 40, 33)}
# The thesis's "layers", without the classifier.
BLOCKS = {"cnn4": 3, "mlp": 2, "linear": 1, "vgg": 10, "vgg13": 10, "vgg13_bn": 10, "vgg19": 16, "vgg19_bn": 16}
BLOCKS |= {"resnet_cifar": 16, "resnet32_cifar": 16, "resnet110_cifar": 55}
BLOCKS |= {"cnn5": 4, "cnn10": 9, "pyramidnet": 55, "pyramidnet56": 28, "pyramidnet110": 55}
OF_EACH_CLASS = (
    "cnn4",
    "cnn5",
    "cnn10",
    "mlp",
    "linear",
    "vgg",
    "resnet_cifar",
    "pyramidnet",
)  # the others are presets of these


def facts(shape: tuple[int, ...], outputs: int = 10) -> Facts:
    return Facts(shape, "classes", outputs, 100, 0, 100, 10)


def build(name: str, shape: tuple[int, ...]) -> tuple[Arch, BlockChain]:
    arch = build_choice("arch", name)
    arch.check(facts(shape))
    reseed(0)
    return arch, arch.build(facts(shape))


def test_every_arch_of_our_own_is_covered() -> None:
    classes = {name: type(build_choice("arch", name)) for name in choices("arch")}
    of_samples = [name for name, cls in classes.items() if cls is not Library and "classes" in cls.takes]
    assert of_samples == sorted(BLOCKS)  # those that label pixels are looked at in test_pixels
    assert {classes[name] for name in OF_EACH_CLASS} == {classes[name] for name in BLOCKS}


@pytest.mark.parametrize(
    ("name", "data"), [(name, data) for name in BLOCKS for data in SHAPES if name in OF_EACH_CLASS or data == "cifar"]
)
def test_every_arch_takes_raw_images_of_every_set(name: str, data: str) -> None:
    shape = SHAPES[data]
    arch, chain = build(name, shape)
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    with torch.no_grad():
        logits = chain.eval()(x)
        assert logits.shape == (2, 10) and logits.isfinite().all() and logits.std() > 0
        z = chain.input(x)
        outputs = [z := block(z) for block in chain.blocks]
    assert len(chain) == BLOCKS[name] == arch.facts(facts(shape)).blocks
    assert chain.shapes(shape) == [tuple(z.shape[1:]) for z in outputs]
    assert all(next(block.parameters(), None) is not None for block in chain.blocks)


def test_mlp_takes_vectors_and_any_widths() -> None:
    chain = Mlp(hidden=(392, 50, 7)).build(facts((784,)))
    assert [p.shape[0] for name, p in chain.named_parameters() if name.endswith("weight")] == [392, 50, 7, 10]
    assert chain(torch.rand(3, 784)).shape == (3, 10) and len(chain) == 3
    repeated = Mlp(hidden=(5, 7), repeat=3)
    widths = [p.shape[0] for name, p in repeated.build(facts((4,))).named_parameters() if name.endswith("weight")]
    assert widths == [5, 7, 5, 7, 5, 7, 10] and repeated.facts(facts((4,))).linear == (5, 7) * 3


@pytest.mark.parametrize("name", ["cnn4", "vgg13", "vgg13_bn", "vgg19", "vgg19_bn"])
def test_convolutional_nets_refuse_vectors_and_too_small_images(name: str) -> None:
    arch = build_choice("arch", name)
    with pytest.raises(ConfigError, match=r"^arch: .*try arch=mlp$"):
        arch.check(facts((64,)))
    with pytest.raises(ConfigError, match=r"^arch\.size: images of 4 pixels .*"):
        (arch if name == "cnn4" else replace(arch, size=4)).check(facts((1, 4, 4)))
    Cnn4(size=8).check(facts((1, 4, 4)))


def convolutions(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, nn.Conv2d)]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def theirs(depth: int, batch_norm: bool) -> nn.Module:
    """torchvision's convolutional part, without memory."""
    with torch.device("meta"):
        return getattr(torchvision.models, f"vgg{depth}" + "_bn" * batch_norm)().features


@pytest.mark.parametrize(("depth", "convs"), [(13, (2, 2, 2, 2, 2)), (19, (2, 2, 4, 4, 4))])
def test_vggs_convolutional_part_is_torchvisions(depth: int, convs: tuple[int, ...]) -> None:
    plain, normed = theirs(depth, False), theirs(depth, True)
    ours, ours_normed = (build(f"vgg{depth}{bn}", (3, 32, 32))[1].blocks for bn in ("", "_bn"))
    assert convolutions(ours) == convolutions(ours_normed) == convolutions(plain)
    assert count(ours) == count(plain)
    # Before batch normalisation a bias has no effect: ours leaves it out, torchvision's keeps it.
    biases = sum(n * width for n, width in zip(convs, (64, 128, 256, 512, 512), strict=True))
    assert count(ours_normed) == count(normed) - biases
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)
    for a, b in ((ours, plain), (ours_normed, normed)):
        assert [k for m in a.modules() for k in kinds if isinstance(m, k)] == [k for m in b for k in kinds if isinstance(m, k)]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", [13, 19])
def test_vgg_with_torchvisions_weights_gives_torchvisions_features(depth: int, batch_norm: bool) -> None:
    peer = theirs(depth, batch_norm).to_empty(device="cpu")
    reseed(1)
    ours = Vgg(depth=depth, batch_norm=batch_norm).build(facts((3, 32, 32))).blocks
    of = {kind: [m for m in ours.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d)}
    for layer in peer:
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.reset_parameters()
            missing, unexpected = layer.load_state_dict(of[type(layer)].pop(0).state_dict(), strict=False)
            assert not unexpected and missing == (["bias"] if batch_norm and isinstance(layer, nn.Conv2d) else [])
            if batch_norm and isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.bias)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours_out, theirs_out = ours.eval()(x), peer.eval()(x)
    assert theirs_out.std() > 0
    torch.testing.assert_close(ours_out, theirs_out, rtol=1e-6, atol=1e-7)


def test_cnn4_and_mlp_have_the_parameters_counted_by_hand() -> None:
    # 28 -> 14 -> 7 -> 3 pixels: three convolutions with bias, then 128 · 3 · 3 features to 10 classes
    convolved = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128
    assert count(build("cnn4", (1, 28, 28))[1]) == convolved + (128 * 9 + 1) * 10
    assert count(build("mlp", (1, 28, 28))[1]) == 785 * 256 + 257 * 128 + 129 * 10


def test_cnn5_and_cnn10_have_the_parameters_counted_by_hand() -> None:
    # 32 -> 16 -> 8 -> 4 pixels: four convolutions without bias, two numbers a filter, then 128 · 4 · 4 features to 10 classes
    convolved = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 128) + 2 * (32 + 64 + 128 + 128)
    assert count(build("cnn5", (3, 32, 32))[1]) == convolved + (128 * 16 + 1) * 10
    normed = Cnn5(norm_outputs=True).build(facts((3, 32, 32)))
    assert count(normed) == convolved + (128 * 16 + 1) * 10 + 2 * 10
    # Springenberg et al. (2015), table 1, model C; 32 -> 16 -> 8 -> 6 pixels, then 10 · 6 · 6 features to 10 classes
    convolved = 9 * (3 * 96 + 2 * 96 * 96 + 96 * 192 + 3 * 192 * 192) + 192 * 192 + 192 * 10
    chain = build("cnn10", (3, 32, 32))[1]
    assert count(chain) == convolved + 2 * (3 * 96 + 5 * 192 + 10) + (10 * 36 + 1) * 10
    assert chain.shapes((3, 32, 32)) == [(96, 32, 32)] * 2 + [(96, 16, 16)] + [(192, 16, 16)] * 2 + [(192, 8, 8)] + [
        (192, 6, 6)
    ] * 2 + [(10, 6, 6)]


def test_vggs_head_is_512_512_classes_with_dropout() -> None:
    head = Vgg().build(facts((3, 32, 32))).head
    linear = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]
    assert linear == [(512, 512), (512, 512), (512, 10)]
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("size", [1, 3, 7, 9, 32])
def test_the_classifier_pools_only_maps_that_are_larger(size: int) -> None:
    z = torch.rand(2, 4, 8, 8)
    head = Classifier((4, 8, 8), 10, size).double()
    pooled = nn.AdaptiveAvgPool2d(size)(z.double()) if size < 8 else z.double()
    assert torch.equal(head(z.double()), head.layers[-1](pooled.flatten(1)))
    assert head.layers[-1].in_features == 4 * min(size, 8) ** 2


def test_the_input_block_standardises_with_numpys_mean_and_deviation() -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (9000, 3, 4, 5), dtype=np.uint8)  # more than one chunk of 4,096
    x[:, 2] = 7  # a channel that never varies
    block = InputBlock((3, 4, 5)).double()
    block.fit(torch.from_numpy(x))
    mean, std = x.astype(np.float64).mean((0, 2, 3)), x.astype(np.float64).std((0, 2, 3))
    std[2] = 1
    np.testing.assert_allclose(block.mean.numpy().ravel(), mean, rtol=1e-12)
    np.testing.assert_allclose(block.std.numpy().ravel(), std, rtol=1e-12)
    expected = (x[:7] - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(block(torch.from_numpy(x[:7])).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_input_block_standardises_vectors_by_feature() -> None:
    x = np.random.default_rng(0).normal(3, 5, (50, 6))
    block = InputBlock((6,)).double()
    block.fit(torch.from_numpy(x))
    np.testing.assert_allclose(block(torch.from_numpy(x)).numpy(), (x - x.mean(0)) / x.std(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scaling", ["channel", "pixel", "unit", "none"])
def test_a_data_sets_scaling_is_what_its_input_block_does(scaling: Scaling) -> None:
    x = np.random.default_rng(0).integers(0, 240, (50, 2, 4, 5), dtype=np.uint8)
    x[:, 1, 2, 3] = 7  # a pixel that never varies
    block = InputBlock((2, 4, 5)).double()
    block.scale(scaling, Samples(torch.from_numpy(x), torch.zeros(50)))
    axes = (0, 2, 3) if scaling == "channel" else (0,)
    std = x.std(axes, keepdims=True)
    expected = {
        "channel": (x - x.mean(axes, keepdims=True)) / np.where(std == 0, 1, std),
        "pixel": (x - x.mean(axes, keepdims=True)) / np.where(std == 0, 1, std),
        "unit": x / 239,
        "none": x,
    }[scaling]
    np.testing.assert_allclose(block(torch.from_numpy(x)).numpy(), expected, rtol=1e-10, atol=1e-12)
    again = InputBlock((2, 4, 5)).double()
    again.load_state_dict(block.state_dict())
    assert torch.equal(again(torch.from_numpy(x)), block(torch.from_numpy(x)))


def test_pixels_are_standardised_as_they_are_enlarged() -> None:
    x = np.random.default_rng(0).integers(0, 240, (50, 1, 3, 4), dtype=np.uint8)
    block = InputBlock((1, 3, 4), 9).double()
    block.scale("pixel", Samples(torch.from_numpy(x), torch.zeros(50)))
    expected = enlarged_by_numpy((x - x.mean(0)) / x.std(0), 9)
    np.testing.assert_allclose(block(torch.from_numpy(x)).numpy(), expected, rtol=1e-10, atol=1e-12)


def enlarged_by_numpy(x: np.ndarray, size: int) -> np.ndarray:
    """Whole-factor enlargement by repeating pixels, then zeros around, one more below and right where the rest is odd."""
    height, width = x.shape[-2:]
    if min(height, width) >= size:
        return x
    factor = max(f for f in range(1, size + 1) if f == 1 or f * max(height, width) <= size)
    x = x.repeat(factor, -2).repeat(factor, -1)
    rows, columns = max(0, size - x.shape[-2]), max(0, size - x.shape[-1])
    sides = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    return np.pad(x, ((0, 0), (0, 0), *sides))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(8, 8, 32), (8, 8, 27), (28, 28, 32), (5, 9, 32), (9, 5, 9), (40, 33, 32)]
)
def test_images_are_enlarged_by_whole_factors_then_padded_with_raw_zeros(height: int, width: int, size: int) -> None:
    x = np.random.default_rng(1).integers(1, 256, (3, 2, height, width), dtype=np.uint8)
    block = InputBlock((2, height, width), size).double()
    block.fit(torch.from_numpy(x))
    mean, std = block.mean.numpy(), block.std.numpy()
    expected = (enlarged_by_numpy(x, size).astype(np.float64) - mean) / std
    assert expected.shape[2:] == (max(height, size), max(width, size))
    np.testing.assert_allclose(block(torch.from_numpy(x)).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_input_block_is_frozen_and_saved_with_the_network() -> None:
    _, chain = build("cnn4", (1, 8, 8))
    assert isinstance(chain.input, InputBlock) and not list(chain.input.parameters())
    assert {"input.mean", "input.std"} <= chain.state_dict().keys()


def linear() -> nn.Linear:
    return nn.Linear(3, 3)


def test_a_parameter_free_layer_joins_the_block_before_it_and_a_leading_one_the_block_after() -> None:
    first, second = linear(), linear()
    layers = OrderedDict(
        flat=nn.Flatten(), lift=nn.Tanh(), one=first, act=nn.ReLU(), drop=nn.Dropout(), two=second, last=nn.ReLU()
    )
    chain = BlockChain(layers, linear())
    assert chain.names == ["one", "two"]
    assert [type(m) for m in chain.blocks[0]] == [nn.Flatten, nn.Tanh, nn.Linear, nn.ReLU, nn.Dropout]
    assert [type(m) for m in chain.blocks[1]] == [nn.Linear, nn.ReLU]
    assert chain.blocks[0][2] is first and chain.blocks[1][0] is second
    x = torch.rand(4, 3)
    chain.eval()
    assert torch.equal(chain(x), chain.head(nn.Sequential(*layers.values())(x)))
    with pytest.raises(ConfigError, match="at least one block with parameters"):
        BlockChain([nn.ReLU()], linear())


def test_slices_and_crops_share_weights_and_keep_names_and_input() -> None:
    _, chain = build("cnn4", (1, 8, 8))
    part, cropped = chain[1:3], chain.cropped(2)
    assert [name for name, _ in part.named_children()] == ["conv2", "conv3"] and cropped.names == ["conv1", "conv2"]
    assert part[0] is chain.blocks[1] and cropped.blocks[1] is chain.blocks[1] and cropped.input is chain.input
    x = torch.randint(0, 17, (2, 1, 8, 8), dtype=torch.uint8)
    before = cropped(x)
    with torch.no_grad():
        chain.blocks[1][0].weight.mul_(2)
    assert not torch.equal(cropped(x), before)
    head = nn.Flatten()
    assert torch.equal(chain.cropped(2).with_head(head)(x), cropped(x).flatten(1))
    assert len(chain) == 3 and isinstance(chain.head, Classifier)  # the chain itself is as it was


def test_asking_for_shapes_leaves_modes_and_statistics_alone() -> None:
    _, chain = build("vgg13_bn", (1, 8, 8))
    chain.train()
    chain.blocks[0].eval()
    modes, state = [m.training for m in chain.modules()], {k: v.clone() for k, v in chain.state_dict().items()}
    assert chain.shapes((1, 8, 8))[0] == (64, 32, 32)
    assert [m.training for m in chain.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in chain.state_dict().items())
