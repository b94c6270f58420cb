"""Networks of torchvision and timm, unmodified, cut into the thesis's "layers" (§6.2.1, §6.7, §6.8.1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.weights import PUBLISHED, StartsFromWeights, located
from effdl.datasets.problem import Facts
from effdl.errors import ConfigError
from effdl.setting import Count, setting


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
    maker: Literal["torchvision", "timm"] = "torchvision"
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
KEPT_STRIDES = {"library": 2, "96": 1, "32": 0}


@setting
class Library(StartsFromWeights):
    """A network of torchvision or timm by its name there.

    size: enlarge smaller images to this side; grey ones are repeated to three channels. stem: "library" is the network as it
    is, made for 224 pixels, which halves the image five times; "96" does not halve it the first time and "32" not the first two
    times (a strided convolution gets stride 1, a pooling goes), since small images would end as one pixel. A vision transformer
    has patches of 16, 8 and 4 pixels.

    weights: a state dict names the tensors as the library does. Every stem takes it, but a vision transformer only one of its
    own image and patch size. "pretrained": the default ones that the library publishes, fetched where there is a network. Those
    know 1000 classes; for any other number the last layer is drawn anew. They were trained on images standardised by ImageNet's
    mean and standard deviation; here the input block standardises by those of the training set, as ever.
    """

    name: str = "efficientnet_v2_s"
    size: Count = 32
    stem: Literal["library", "96", "32"] = "library"

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ValueError(f"there are {', '.join(NETWORKS)}")
        super().__post_init__()

    @property
    def gains_by_channels_last(self) -> bool:
        return True  # training steps took 0.85 to 1.03 times those of NCHW, in 11 networks at 32 pixels

    def facts(self, problem: Facts) -> ArchFacts:
        network = NETWORKS[self.name]
        least = network.patch[self.stem] if network.patch else 8 * 2 ** KEPT_STRIDES[self.stem]
        return ArchFacts(network.blocks, least, self.size)

    def _check_inputs(self, problem: Facts) -> None:
        channels, *sides = enlarged(problem.input_shape, self.size)
        if channels not in (1, 3):
            raise ConfigError(f"arch={self.name}: takes images of 1 or 3 channels, not {channels}")
        patch = NETWORKS[self.name].patch.get(self.stem, 1)
        if any(side % patch for side in sides):
            raise ConfigError(
                f"arch.size: images of {sides[0]}×{sides[1]} pixels are no whole number of patches of {patch}; "
                f"arch.size={-(-max(sides) // patch) * patch} pads them"
            )

    def build(self, problem: Facts) -> BlockChain:
        network = NETWORKS[self.name]
        module = self._module(network, problem)
        if not network.patch:
            for name in network.strides[KEPT_STRIDES[self.stem] :]:
                _keep_resolution(module, name)
        chain = BlockChain.from_module(
            module, network.cuts(module), input=InputBlock(problem.input_shape, self.size, channels=3)
        )
        fits = f" (image size {self.size}, stem {self.stem})" if network.patch else ""
        return self._started(chain, module, problem, self.name + fits)

    def _needs_head(self, problem: Facts) -> bool:
        return self.weights == PUBLISHED and problem.outputs != PUBLISHED_CLASSES

    def _file(self, name: str) -> Path:
        return located(name, self.name, NETWORKS[self.name].maker)

    def _module(self, network: Network, problem: Facts) -> nn.Module:
        arguments: dict[str, Any] = {"num_classes": problem.outputs}
        if network.patch:
            arguments |= {"img_size": enlarged(problem.input_shape, self.size)[1:], "patch_size": network.patch[self.stem]}
        try:
            make: Callable[..., nn.Module]
            if network.maker == "timm":
                from timm import create_model

                make = create_model
            else:
                from torchvision.models import get_model

                make = get_model
        except ImportError as error:
            raise ConfigError(f"arch={self.name}: needs {network.maker} ({error}): pip install 'effdl[vision]'") from None
        return make(self.name, **arguments)


def _keep_resolution(module: nn.Module, name: str) -> None:
    """Let a layer that halves the image no longer do so."""
    layer: Any = module.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
    else:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Identity())
