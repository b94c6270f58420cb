"""Patches of images that excite features most, as large as what a feature sees (thesis §5.2, figures 5.2 and 5.3)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.probes.of_layers import OfSample
from effdl.probes.sample import can_see
from effdl.setting import Count, setting
from effdl.training.look import Look

SEES_ONE = (nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Dropout, nn.Dropout2d, nn.Identity)
SEES_MORE = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@setting
class StrongestPatches(OfSample):
    """``<layer>/<feature>``: of a sample's images the patch on which a feature is largest, as the network is given it, channel
    by channel and row by row, of as many rows and columns as the feature sees; ``side/<layer>`` says how many. What lies beyond
    the image is 0. ``value/<layer>/<feature>``: what the feature puts out there.

    Of layers that, with all below them, are plain stacks of convolutions, poolings and what works place by place; of others
    it is not known what they see, and nothing is recorded but ``images``, how many were gone through.

    layers: by name; null: all that learn. shown: the first so many features of each.
    """

    every: Count = 1000
    layers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    shown: Count = 6

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        if not problem.is_image:
            raise ConfigError("probe=strongest_patches: is of images, and these are vectors; leave the probe out")

    def measure(self, look: Look) -> Mapping[str, Any]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        problem, fields = look.learning.problem, self._fields(look)
        split, index = self.sample.of(problem)
        best: dict[str, tuple[float, Tensor]] = {}
        for batch in split.gather(index.split(problem.batch_size)):
            for name, x, z in self._maps(look, batch.x) if fields else ():
                for feature in range(min(self.shown, z.shape[1]) if name in fields else 0):
                    most, place = z[:, feature].flatten().max(0)
                    key = f"{name}/{feature}"
                    if key not in best or float(most) > best[key][0]:
                        image, row, column = (int(i) for i in torch.unravel_index(place, z[:, feature].shape))
                        best[key] = float(most), fields[name].patch(x[image], row, column)
        told: dict[str, Any] = {"images": float(len(index) if fields else 0)}
        told |= {f"side/{name}": float(field.side) for name, field in fields.items()}
        for key, (value, patch) in best.items():
            told |= {f"value/{key}": value, key: [float(f"{pixel:.4g}") for pixel in patch.flatten().tolist()]}
        return told

    def _maps(self, look: Look, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of each layer that learns its name, what the input block puts out, and what the layer does."""
        assert look.learning is not None
        first, *below = look.learning.below
        z = seen = first(x)
        for module in below:
            z = module(z)
        for name, block in look.blocks.named_children():
            z = block(z)
            yield name, seen, z

    def _fields(self, look: Look) -> dict[str, "ReceptiveField"]:
        assert look.learning is not None
        own = dict(look.blocks.named_children())
        if unknown := [name for name in self.layers or () if name not in (look.learning.names or own)]:
            raise ConfigError(f"probe.strongest_patches.layers: there is no layer {unknown[0]!r}; there are {', '.join(own)}")
        field: ReceptiveField | None = ReceptiveField()
        for module in look.learning.below[1:]:
            field = field and field.through(module)
        found = {}
        for name, block in own.items():
            field = field and field.through(block)
            if field is not None and (self.layers is None or name in self.layers):
                found[name] = field
        return found


@dataclass(frozen=True)
class ReceptiveField:
    """What one place of a map sees of the input: ``side`` pixels from start + place · jump on."""

    start: int = 0
    side: int = 1
    jump: int = 1

    def through(self, block: nn.Module) -> "ReceptiveField | None":
        """That of what a block puts out; None of one that is no plain stack."""
        field = self
        for module in block.modules():
            if isinstance(module, SEES_MORE):
                sizes = [_square(getattr(module, key, 1)) for key in ("kernel_size", "stride", "padding", "dilation")]
                if any(size is None for size in sizes):
                    return None
                kernel, stride, padding, dilation = (int(size or 0) for size in sizes)
                reach = dilation * (kernel - 1) * field.jump
                field = ReceptiveField(field.start - padding * field.jump, field.side + reach, field.jump * stride)
            elif type(module) not in (*SEES_ONE, nn.Sequential):
                return None
        return field

    def patch(self, image: Tensor, row: int, column: int) -> Tensor:
        """(C, side, side) of an image (C, H, W)."""
        padded = F.pad(image, (self.side,) * 4)
        top, left = (self.start + place * self.jump + self.side for place in (row, column))
        return padded[:, top : top + self.side, left : left + self.side]


def _square(size: Any) -> int | None:
    """A size that is the same both ways, else None."""
    sizes = set(size) if isinstance(size, tuple) else {size}
    return sizes.pop() if len(sizes) == 1 and all(isinstance(one, int) for one in sizes) else None
