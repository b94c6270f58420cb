"""Networks of torchvision and timm, unmodified, cut into the thesis's "layers" (§6.2.1, §6.7, §6.8.1)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.crossing import FEW, remark
from effdl.archs.flow import BY_HAND
from effdl.archs.found_before import found_before
from effdl.archs.places import deeper_cuts
from effdl.archs.vision import Maker, NotMade, arguments, maker_of, model, own_size, undrawn, unused
from effdl.archs.weights import PUBLISHED, StartsFromWeights, located
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError, one_line
from effdl.setting import AsText, Count, setting


@dataclass(frozen=True)
class Network:
    """Where a library's network is cut, and what its stems for small images change.

    blocks: how many layers it is cut into. cuts: module -> names of the submodules after which a block ends. strides: the
    first two layers that halve the image, from the bottom. maker: the library. patch: where the network cuts the image into
    patches instead, their side for each stem.
    """

    blocks: int
    cuts: Callable[[nn.Module], list[str]]
    strides: tuple[str, ...] = ()
    maker: Maker = "torchvision"
    patch: dict[str, int] = field(default_factory=dict)


def _children(module: nn.Module, *names: str) -> list[str]:
    """Full names of the children of these submodules."""
    return [f"{name}.{child}" for name in names for child, _ in module.get_submodule(name).named_children()]


def _stages(module: nn.Module) -> list[str]:
    """The residual blocks of a torchvision EfficientNet, between its stem and its head convolution."""
    return _children(module, *_children(module, "features")[1:-1])


def _efficientnet(module: nn.Module) -> list[str]:
    """Stem, blocks, head convolution: 18 in EfficientNet-B0 (table 6.3)."""
    first, *_, last = _children(module, "features")
    return [first, *_stages(module), last]


def _efficientnet_v2(module: nn.Module) -> list[str]:
    """The blocks, the stem joined to the first and the head convolution to the last: 40 in EfficientNetV2-S (§6.8.1)."""
    return [*_stages(module)[:-1], _children(module, "features")[-1]]


def _mobilenet_v2(module: nn.Module) -> list[str]:
    """17 blocks, the stem joined to the first and the head convolution to the last (table 6.3)."""
    blocks = _children(module, "features")[1:]
    return [*blocks[:-2], blocks[-1]]


def _shufflenet_v2(module: nn.Module) -> list[str]:
    """16 units, the stem joined to the first and the head convolution to the last (table 6.3)."""
    return [*_children(module, "stage2", "stage3", "stage4")[:-1], "conv5"]


def _resnet(module: nn.Module) -> list[str]:
    """The residual blocks, the stem joined to the first."""
    return _children(module, "layer1", "layer2", "layer3", "layer4")


def _mobilevit_v2(module: nn.Module) -> list[str]:
    """Stem and nine blocks (table 6.3)."""
    return ["stem", *_children(module, *_children(module, "stages"))]


def _vit(module: nn.Module) -> list[str]:
    """The transformer blocks, the patches' embedding joined to the first."""
    return _children(module, "blocks")


EFFICIENTNET = ("features.0.0", "features.2.0.block.1.0")
EFFICIENTNET_V2 = ("features.0.0", "features.2.0.block.0.0")
SHUFFLENET = ("conv1.0", "maxpool")
NETWORKS = {
    "efficientnet_b0": Network(18, _efficientnet, EFFICIENTNET),
    "efficientnet_b1": Network(25, _efficientnet, EFFICIENTNET),
    "efficientnet_b2": Network(25, _efficientnet, EFFICIENTNET),
    "efficientnet_b3": Network(28, _efficientnet, EFFICIENTNET),
    "efficientnet_v2_s": Network(40, _efficientnet_v2, EFFICIENTNET_V2),
    "efficientnet_v2_m": Network(57, _efficientnet_v2, EFFICIENTNET_V2),
    "efficientnet_v2_l": Network(79, _efficientnet_v2, EFFICIENTNET_V2),
    "mobilenet_v2": Network(17, _mobilenet_v2, ("features.0.0", "features.2.conv.1.0")),
    "shufflenet_v2_x0_5": Network(16, _shufflenet_v2, SHUFFLENET),
    "shufflenet_v2_x1_0": Network(16, _shufflenet_v2, SHUFFLENET),
    "shufflenet_v2_x2_0": Network(16, _shufflenet_v2, SHUFFLENET),
    "resnet18": Network(8, _resnet, ("conv1", "maxpool")),
    "resnet50": Network(16, _resnet, ("conv1", "maxpool")),
    "mobilevitv2_100": Network(10, _mobilevit_v2, ("stem.conv", "stages.1.0.conv2_kxk.conv"), "timm"),
    "vit_tiny_patch16_224": Network(12, _vit, maker="timm", patch={"library": 16, "96": 8, "32": 4}),
}
PUBLISHED_CLASSES = 1000  # of ImageNet
AN_IMAGE = 2  # the least side of a network of which no more is known before it is tried
SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384)
KEPT_STRIDES = {"library": 2, "96": 1, "32": 0}


@setting
class Library(StartsFromWeights):
    """A classification model of torchvision or timm by its name there, torchvision's where both have it.

    size: enlarge smaller images to this side; grey ones are repeated to three channels. stem: "library" is the network as it
    is, made for 224 pixels, which halves the image five times; "96" does not halve it the first time and "32" not the first two
    times (a strided convolution gets stride 1, a pooling goes), since small images would end as one pixel. A vision transformer
    has patches of 16, 8 and 4 pixels.

    cuts: names of the submodules after which a block ends, in order. By default the networks of `NETWORKS` are cut as in the
    thesis, and any other as `BlockChain.from_module` cuts by itself; `remark` tells where within its blocks more cuts are.

    weights: a state dict names the tensors as the library does. Every stem takes it, but a vision transformer only one of its
    own image and patch size. "pretrained": the default ones that the library publishes, fetched where there is a network. Those
    know 1000 classes; for any other number the last layer is drawn anew. They were trained on images standardised by ImageNet's
    mean and standard deviation; here the input block standardises by those of the training set, as ever.
    """

    name: str = "efficientnet_v2_s"
    size: Count = 32
    stem: Annotated[Literal["library", "96", "32"], AsText] = "library"
    cuts: tuple[str, ...] | None = None

    @property
    def known_as(self) -> str:
        return self.name

    @property
    def gains_by_channels_last(self) -> bool:
        return True  # training steps took 0.85 to 1.03 times those of NCHW, in 11 networks at 32 pixels

    @property
    def _maker(self) -> Maker:
        return NETWORKS[self.name].maker if self.name in NETWORKS else maker_of(self.name)

    def facts(self, problem: Facts) -> ArchFacts:
        network, least = NETWORKS.get(self.name), AN_IMAGE
        if network is not None:
            least = network.patch[self.stem] if network.patch else 8 * 2 ** KEPT_STRIDES[self.stem]
            if self.cuts is None:
                return ArchFacts(network.blocks, least, self.size)
        takes_it = problem.is_image and max(self.size, *problem.input_shape[1:]) >= least
        plain = self.untrained()
        blocks: int = found_before("blocks", plain, problem, lambda: len(_outline(plain, problem))) if takes_it else 1
        return ArchFacts(blocks, least, self.size)

    def remark(self, problem: Facts) -> str | None:
        """Whether it has few blocks by itself, and which cuts give more, if any do; None where neither is so."""
        if self.name in NETWORKS or self.cuts is not None:
            return None
        blocks = len(_outline(self.untrained(), problem))
        more, why = deeper_cuts(undrawn(lambda: self._module(problem)))
        then: list[str] | str = ""
        try:
            then = _passed(replace(self.untrained(), cuts=tuple(more)), problem) if more else ""
        except ConfigError as error:  # a tuple passes between some of them
            why = why or str(error).removeprefix("arch.cuts: ").split(":")[0]
        finer = len(then) if isinstance(then, list) and len(then) > blocks else 0
        if not finer and blocks >= FEW:
            return None
        said = f"arch.cuts=[{','.join(more)}] makes {finer} of it" if finer else None
        return remark(self.name, blocks, why if blocks < FEW else None, said)

    def _check_inputs(self, problem: Facts) -> None:
        channels, *sides = enlarged(problem.input_shape, self.size)
        if channels not in (1, 3):
            raise ConfigError(f"arch={self.name}: takes images of 1 or 3 channels, not {channels}")
        if self.name not in NETWORKS:
            return
        patch = NETWORKS[self.name].patch.get(self.stem, 1)
        if any(side % patch for side in sides):
            raise ConfigError(
                f"arch.size: images of {sides[0]}×{sides[1]} pixels are no whole number of patches of {patch}; "
                f"arch.size={-(-max(sides) // patch) * patch} pads them"
            )

    def build(self, problem: Facts) -> BlockChain:
        network, module = NETWORKS.get(self.name), self._module(problem)
        cuts = self.cuts if self.cuts is not None or network is None else network.cuts(module)
        try:
            chain = BlockChain.cut(module, cuts, input=InputBlock(problem.input_shape, self.size, channels=3))
        except ConfigError as error:
            key = "arch.cuts" if self.cuts is not None else f"arch.name={self.name}"
            said = str(error).removeprefix("from_module: ").replace(BY_HAND, "take another arch.name")
            raise ConfigError(f"{key}: {said}") from error
        fits = f" (image size {self.size}, stem {self.stem})" if network is not None and network.patch else ""
        spare = unused(self.name, self._maker, module) if network is None else ()
        return self._started(chain, module, problem, self.name + fits, spare)

    def _needs_head(self, problem: Facts) -> bool:
        return self.weights == PUBLISHED and problem.outputs != PUBLISHED_CLASSES

    def _file(self, name: str) -> Path:
        return located(name, self.name, lambda: self._maker)

    def _module(self, problem: Facts) -> nn.Module:
        """The library's own network, with the stem that was asked for."""
        sides = enlarged(problem.input_shape, self.size)[1:]
        if (network := NETWORKS.get(self.name)) is None:
            if self.stem != "library":
                raise ConfigError(
                    f"arch.stem: where {self.name} halves its images is not known, so it stays as it is: arch.stem=library; "
                    "a larger arch.size leaves it more pixels"
                )
            return model(self.name, self._maker, problem.outputs, **arguments(self.name, self._maker, sides))
        if network.patch:
            patch = network.patch[self.stem]
            return model(self.name, network.maker, problem.outputs, img_size=sides, patch_size=patch)
        module = model(self.name, network.maker, problem.outputs)
        for name in network.strides[KEPT_STRIDES[self.stem] :]:
            _keep_resolution(module, name)
        return module


@lru_cache(maxsize=64)
def _outline(arch: Library, problem: Facts) -> list[str]:
    """Names of its blocks, after two images have gone through. Raises ConfigError where the network does not take them."""
    if isinstance(found := _passed(arch, problem), list):
        return found
    sides = enlarged(problem.input_shape, arch.size)[1:]
    sizes = {max(sides), own_size(arch.name, arch._maker), *SIZES}
    larger = [size for size in sorted(sizes) if size >= max(sides) and (size, size) != tuple(sides)]
    fits = next((size for size in larger if isinstance(_passed(replace(arch, size=size), problem), list)), None)
    advice = f"arch.size={fits} enlarges them" if fits else "another arch.name may"
    raise ConfigError(f"arch.size: {arch.name} does not take images of {sides[0]}×{sides[1]} pixels ({found}); {advice}")


def _passed(arch: Library, problem: Facts) -> list[str] | str:
    """Names of its blocks, or why two images do not go through it. Raises ConfigError where it cannot be cut."""
    sides, why = enlarged(problem.input_shape, arch.size)[1:], ""
    for device in ("meta", "cpu"):  # some networks look at numbers, which weights without memory have not
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]), torch.no_grad():
                chain = arch.build(problem).eval()
                passed: list[object] = [torch.zeros(2, 3, *sides)]
                for part in (*chain.blocks, chain.head):
                    passed.append(part(passed[-1]))
        except Exception as error:
            if isinstance(error, ConfigError) and not isinstance(error, NotMade):
                raise
            why = one_line(error)[:200]
        else:
            shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in passed[1:]]
            for name, shape in zip([*chain.names, "its head"], shapes, strict=True):
                if isinstance(shape, str):
                    raise ConfigError(f"arch.cuts: {name} puts out a {shape}, and blocks pass a tensor on: end it elsewhere")
            return list(chain.names) if shapes[-1] == (2, problem.outputs) else f"it puts out {shapes[-1]}"
    return why


def _keep_resolution(module: nn.Module, name: str) -> None:
    """Let a layer that halves the image no longer do so."""
    layer: Any = module.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
    else:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Identity())
