"""AutoAugment's learned policies (Cubuk et al. 2019), carried out on whole batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from effdl.augment import colours, index_maps

Policy = Literal["cifar10", "svhn"]
BINS = 10
MOST_TRANSLATED = 150 / 331  # of a side

# Sub-policies: two operations each, with its probability and its magnitude in 0..9. Published, table 7 (CIFAR-10) and 8 (SVHN).
POLICIES: dict[Policy, str] = {
    "cifar10": """
        invert .1, contrast .2 6          | rotate .7 2, translate_x .3 9      | sharpness .8 1, sharpness .9 3
        shear_y .5 8, translate_y .7 9    | auto_contrast .5, equalize .9      | shear_y .2 7, posterize .3 7
        saturation .4 3, brightness .6 7  | sharpness .3 9, brightness .7 9    | equalize .6, equalize .5
        contrast .6 7, sharpness .6 5     | saturation .7 7, translate_x .5 8  | equalize .3, auto_contrast .4
        translate_y .4 3, sharpness .2 6  | brightness .9 6, saturation .2 8   | solarize .5 2, invert 0
        equalize .2, auto_contrast .6     | equalize .2, equalize .6           | saturation .9 9, equalize .6
        auto_contrast .8, solarize .2 8   | brightness .1 3, saturation .7 0   | solarize .4 5, auto_contrast .9
        translate_y .9 9, translate_y .7 9 | auto_contrast .9, solarize .8 3   | equalize .8, invert .1
        translate_y .7 9, auto_contrast .9
    """,
    "svhn": """
        shear_x .9 4, invert .2           | shear_y .9 8, invert .7            | equalize .6, solarize .6 6
        invert .9, equalize .6            | equalize .6, rotate .9 3           | shear_x .9 4, auto_contrast .8
        shear_y .9 8, invert .4           | shear_y .9 5, solarize .2 6        | invert .9, auto_contrast .8
        equalize .6, rotate .9 3          | shear_x .9 4, solarize .3 3        | shear_y .8 8, invert .7
        equalize .9, translate_y .6 6     | invert .9, equalize .6             | contrast .3 3, rotate .8 4
        invert .8, translate_y 0 2        | shear_y .7 6, solarize .4 8        | invert .6, rotate .8 4
        shear_y .3 7, translate_x .9 3    | shear_x .1 6, invert .6            | solarize .7 2, translate_y .6 7
        shear_y .8 4, invert .8           | shear_x .7 9, translate_y .8 3     | shear_y .8 5, auto_contrast .7
        shear_x .7 2, invert .1
    """,
}


@dataclass(frozen=True)
class Operation:
    """What a name in a policy stands for.

    apply: (images, strengths (N,)) -> images, or for a geometric one (strengths, height, width) -> matrices.
    strength: (magnitude in 0..1, side in pixels) -> what ``apply`` takes, for each of the bins.
    signed: the magnitude is taken with a random sign.
    """

    apply: Callable[..., Tensor]
    strength: Callable[[Tensor, int], Tensor] = lambda magnitude, side: magnitude
    signed: bool = False
    geometric: bool = False


def _plain(operation: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(lambda images, strength: operation(images))


def _blend(operation: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return Operation(lambda images, change: operation(images, 1 + change), lambda m, side: 0.9 * m, signed=True)


def _map(matrices: Callable[[Tensor, int, int], Tensor], strength: Callable[[Tensor, int], Tensor]) -> Operation:
    return Operation(matrices, strength, signed=True, geometric=True)


OPERATIONS = {
    "shear_x": _map(index_maps.shear_x, lambda m, side: 0.3 * m),
    "shear_y": _map(index_maps.shear_y, lambda m, side: 0.3 * m),
    "translate_x": _map(index_maps.translate_x, lambda m, side: MOST_TRANSLATED * side * m),
    "translate_y": _map(index_maps.translate_y, lambda m, side: MOST_TRANSLATED * side * m),
    "rotate": _map(index_maps.rotate, lambda m, side: 30 * m),
    "brightness": _blend(colours.brightness),
    "saturation": _blend(colours.saturation),
    "contrast": _blend(colours.contrast),
    "sharpness": _blend(colours.sharpness),
    "posterize": Operation(colours.posterize, lambda m, side: (8 - 4 * m).round()),
    "solarize": Operation(colours.solarize, lambda m, side: 1 - m),
    "auto_contrast": _plain(colours.auto_contrast),
    "equalize": _plain(colours.equalize),
    "invert": _plain(colours.invert),
}
NAMES = [*OPERATIONS]
GEOMETRIC = sum(operation.geometric for operation in OPERATIONS.values())  # they come first
NOTHING = len(NAMES)


def sub_policies(policy: Policy) -> list[list[tuple[str, float, int]]]:
    """[(operation, probability, magnitude bin) × 2] × 25; operations without a magnitude have bin 0."""
    texts = POLICIES[policy].replace("\n", "|").split("|")
    pairs = [[part.split() for part in text.split(",")] for text in texts if text.strip()]
    return [[(name, float(p), int(bin[0]) if bin else 0) for name, p, *bin in pair] for pair in pairs]


class AutoAugment:
    """One of the published policies for images of a size: draws for each image, then carries out what was drawn."""

    def __init__(self, policy: Policy, height: int, width: int) -> None:
        chosen = sub_policies(policy)
        magnitude = torch.linspace(0, 1, BINS, dtype=torch.float64)
        self.operation = torch.tensor([[NAMES.index(name) for name, _, _ in pair] for pair in chosen])
        self.probability = torch.tensor([[p for _, p, _ in pair] for pair in chosen])
        self.signed = torch.tensor([[OPERATIONS[name].signed for name, _, _ in pair] for pair in chosen])
        sides = {"translate_x": width, "translate_y": height}
        self.strength = torch.tensor(
            [[float(OPERATIONS[n].strength(magnitude, sides.get(n, 0))[bin]) for n, _, bin in pair] for pair in chosen],
            dtype=torch.float64,
        )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Operations (N, 2), `NOTHING` where it stays out, and their strengths (N, 2), on the generator's device."""
        pair = torch.randint(len(self.operation), (count,), generator=generator)
        chance, sign = torch.rand(2, count, 2, generator=generator)
        operation = torch.where(chance < self.probability[pair], self.operation[pair], NOTHING)
        strength = self.strength[pair]
        return operation, torch.where(self.signed[pair] & (sign < 0.5), -strength, strength)


def applied(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """One operation on each image (N, C, H, W), in groups of the same; ``operation`` and ``strength`` (N,) lie on the CPU."""
    order = operation.argsort()
    ends = [0, *torch.bincount(operation, minlength=NOTHING + 1).cumsum(0).tolist()]
    groups = [(OPERATIONS[NAMES[k]].apply, ends[k], ends[k + 1]) for k in range(NOTHING) if ends[k] < ends[k + 1]]
    images, strength = images.index_select(0, order.to(images.device)), strength[order].to(images.device)
    if moved := ends[GEOMETRIC]:
        matrices = [apply(strength[start:stop], *images.shape[2:]) for apply, start, stop in groups if stop <= moved]
        images[:moved] = index_maps.taken(images[:moved], index_maps.affine(torch.cat(matrices), *images.shape[2:]))
    for apply, start, stop in groups:
        if start >= moved:
            images[start:stop] = apply(images[start:stop], strength[start:stop])
    return images.index_select(0, order.argsort().to(images.device))
