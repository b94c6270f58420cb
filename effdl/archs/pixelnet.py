"""PixelNet (Bansal et al. 2017): a VGG-16 whose hypercolumns a perceptron reads pixel by pixel, the network of thesis §4.13."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock, enlarged
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.cnn import conv_block
from effdl.archs.tapping import Tapping
from effdl.archs.weights import StartsFromWeights, State, located, read, sha256
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective, TargetKind
from effdl.setting import Count, Probability, Switch, setting

CONVS = (2, 2, 3, 3, 3)  # of the five groups of VGG-16, configuration D
CHUNK = 2**12  # pixels whose hypercolumns lie in memory at once where all are asked for

Five = Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)]


@setting
class Pixelnet(StartsFromWeights):
    """VGG-16's thirteen 3×3 convolutions and its first two linear layers, which are convolutions here (conv6 of 7×7, conv7 of
    1×1); above them a perceptron labels pixels by their hypercolumns: what conv1_2, 2_2, 3_3, 4_3, 5_3 and conv7 put out there.

    widths: filters of the five groups, (64, 128, 256, 512, 512) in VGG-16. wide: those of conv6 and conv7, 4096 there; 0 leaves
        both out.
    batch_norm: none in VGG-16 as it was published first; without it a network that starts from drawn weights hardly learns.
    hidden: of the perceptron; two of 4096 in the paper. dropout: behind each of them and behind conv6 and conv7.
    pixels: how many of an image's labelled pixels a training step learns from, drawn anew each time; 2,000 in the paper. null
        takes all. Both have the same expectation. Measured are all pixels.
    size: images are enlarged to this side (see `InputBlock`), null leaves them as they are.
    weights: torchvision's VGG-16, a file or "pretrained", which fetches it, as §4.13 does; the perceptron is drawn.

    Its "layers" are the convolutions, a pooling joins the one behind it. Its head looks at six, so that it is trained whole.
    Of maps that are smaller than the image hypercolumns take bilinear means, as ``interpolate(align_corners=False)`` does.
    """

    takes: ClassVar[frozenset[TargetKind]] = frozenset({"pixels"})

    widths: Five = (64, 128, 256, 512, 512)
    wide: Annotated[int, Field(ge=0)] = 4096
    batch_norm: Switch = False
    hidden: tuple[Count, ...] = (4096, 4096)
    dropout: Probability = 0.5
    pixels: Count | None = 2000
    size: Count | None = None

    def __post_init__(self) -> None:
        if self.new_head:
            raise ConfigError("arch.new_head: the perceptron is drawn in any case, leave it out")
        StartsFromWeights.__post_init__(self)

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(sum(CONVS) + 2 * bool(self.wide), 32 if self.wide else 16, self.size)

    def build(self, problem: Facts) -> BlockChain:
        self._check_given()
        channels, height, width = enlarged(problem.input_shape, self.size)
        if self.weights is not None:
            channels = 3
        fan_in, blocks, taps, tapped = channels, OrderedDict[str, nn.Module](), list[int](), list[int]()
        for group, (filters, convs) in enumerate(zip(self.widths, CONVS, strict=True), 1):
            for i in range(1, convs + 1):
                block = conv_block(fan_in, filters, self.batch_norm, pool=False)
                if i == 1 and group > 1:  # before the group, lest taps were of what is pooled
                    block = nn.Sequential(nn.MaxPool2d(2), *block)
                blocks[f"conv{group}_{i}"], fan_in = block, filters
            taps.append(len(blocks) - 1)
            tapped.append(filters)
        if self.wide:
            drop = nn.Dropout(self.dropout)
            blocks["conv6"] = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(fan_in, self.wide, 7, padding=3), nn.ReLU(), drop)
            blocks["conv7"] = nn.Sequential(nn.Conv2d(self.wide, self.wide, 1), nn.ReLU(), nn.Dropout(self.dropout))
            taps.append(len(blocks) - 1)
            tapped.append(self.wide)
        if self.weights is None:
            _drawn_by_he(blocks)
        columns = Hypercolumns(tuple(taps), sum(tapped), problem.input_shape[1:], (height, width))
        head = PixelPerceptron(columns, problem.outputs, self.hidden, self.dropout, self.pixels)
        chain = BlockChain(blocks, head, InputBlock(problem.input_shape, self.size, channels))
        if self.weights is not None:
            self._start(chain)
        return chain

    def _start(self, chain: BlockChain) -> None:
        """Copy VGG-16's weights into the blocks. Raises ConfigError where they do not fit."""
        if (found := sha256(file := self._file(self.weights or ""))) != self.weights_sha256:
            raise ConfigError(f"arch.weights: {file} is not the file of arch.weights_sha256, its own is {found}")
        copy_vgg16(read(file), chain.blocks)

    def _file(self, name: str) -> Path:
        return located(name, f"vgg16{'_bn' * self.batch_norm}", lambda: "torchvision")


class Hypercolumns(nn.Module):
    """What maps hold at pixels of the image: (B, C, h, w) of several sizes and pixels (B, P) -> (B, P, ΣC), bilinear.

    image: height and width of the images as they are stored, whose pixels are asked for. inner: as they enter the blocks: where
    the input block enlarges and pads them, stored pixels lie in the middle.
    """

    def __init__(self, taps: tuple[int, ...], channels: int, image: Sequence[int], inner: Sequence[int]) -> None:
        super().__init__()
        self.taps, self.channels = taps, channels
        self.image, self.inner = (int(image[0]), int(image[1])), (int(inner[0]), int(inner[1]))

    def forward(self, maps: Sequence[Tensor], at: Tensor) -> Tensor:
        places = torch.stack([self._place(at % self.image[1], 1), self._place(at // self.image[1], 0)], -1).unsqueeze(2)
        found = [F.grid_sample(z, places.to(z.dtype), padding_mode="border", align_corners=False)[..., 0] for z in maps]
        return torch.cat(found, 1).transpose(1, 2)

    def _place(self, index: Tensor, axis: int) -> Tensor:
        """Of a pixel's centre along an axis the place in the inner image, of which −1 and 1 are the edges."""
        stored, inner = self.image[axis], self.inner[axis]
        factor = max(1, max(self.inner) // max(self.image))
        before = (inner - factor * stored) // 2
        return (2 * (before + factor * (index.double() + 0.5)) / inner - 1).float()


class PixelPerceptron(Tapping):
    """Linear layers with ReLU and dropout between, from a pixel's hypercolumn to the classes."""

    def __init__(
        self, columns: Hypercolumns, outputs: int, hidden: tuple[int, ...], dropout: float, pixels: int | None
    ) -> None:
        super().__init__()
        self.columns, self.taps, self.pixels = columns, columns.taps, pixels
        widths, parts = [columns.channels, *hidden], list[nn.Module]()
        for fan_in, fan_out in pairwise(widths):
            parts += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*parts, nn.Linear(widths[-1], outputs))

    def forward(self, maps: Sequence[Tensor], at: Tensor | None = None) -> Tensor:
        if at is not None:
            return self._of(maps, at).unsqueeze(3)
        height, width = self.columns.image
        everywhere = torch.arange(height * width, device=maps[0].device)
        images = zip(*(z.split(1) for z in maps), strict=True)
        found = [torch.cat([self._of(one, part[None]) for part in everywhere.split(CHUNK)], 2) for one in images]
        return torch.cat(found).reshape(len(found), -1, height, width)

    def _of(self, maps: Sequence[Tensor], at: Tensor) -> Tensor:
        outputs: Tensor = self.layers(self.columns(maps, at)).transpose(1, 2)
        return outputs

    def drawn(self, y: Tensor) -> Tensor | None:
        """Of labelled pixels each with equal chance, none twice; where there are fewer, others that are ignored."""
        flat = y.flatten(1)
        if self.pixels is None or self.pixels >= flat.shape[1]:
            return None
        keys = torch.rand(flat.shape, device=y.device).masked_fill(flat == Objective.ignore_index, -1.0)
        return keys.topk(self.pixels, 1, sorted=False).indices

    def extra_repr(self) -> str:
        return f"taps={self.taps}, pixels={self.pixels}"


def copy_vgg16(state: State, blocks: nn.Sequential) -> None:
    """Copy torchvision's VGG-16 into the convolutions, its first two linear layers reshaped. Raises ConfigError."""
    features = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
    given = [f"features.{i}" for i in features] + ["classifier.0", "classifier.3"]
    own = [(name, part) for name, part in blocks.named_modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    for (name, part), prefix in zip(own, given, strict=False):
        for key, tensor in part.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            there = state.get(f"{prefix}.{key}")
            if there is None or there.numel() != tensor.numel() or there.shape[0] != tensor.shape[0]:
                shape = "missing" if there is None else f"{[*there.shape]}"
                raise ConfigError(
                    f"arch.weights: these are not VGG-16's: {prefix}.{key} is {shape} there, and {name} here is "
                    f"{[*tensor.shape]}; torchvision's vgg16, or vgg16_bn with arch.batch_norm=true, has the published ones"
                )
            tensor.copy_(there.reshape(tensor.shape))
    if len(given) < len(own):
        raise ConfigError(f"arch.weights: these have {len(features)} layers of features, this network {len(own)} in all")


def _drawn_by_he(blocks: "OrderedDict[str, nn.Module]") -> None:
    """Convolutions begin with He et al.'s (2015) normal weights of variance 2 / fan-in, by which VGG-16 trains from nothing."""
    for block in blocks.values():
        for part in block.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
