"""AutoAugment's learned policies (Cubuk et al. 2019), carried out on whole batches."""

from typing import Literal

import torch
from torch import Tensor

from effdl.augment.operations import NAMES, OPERATIONS, Variants

Policy = Literal["cifar10", "svhn"]
BINS = 10

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


def sub_policies(policy: Policy) -> list[list[tuple[str, float, int]]]:
    """[(operation, probability, magnitude bin) × 2] × 25; operations without a magnitude have bin 0."""
    texts = POLICIES[policy].replace("\n", "|").split("|")
    pairs = [[part.split() for part in text.split(",")] for text in texts if text.strip()]
    return [[(name, float(p), int(bin[0]) if bin else 0) for name, p, *bin in pair] for pair in pairs]


class AutoAugment:
    """One of the published policies for images of a size: draws for each image what its ``variants`` then carry out."""

    def __init__(self, policy: Policy, height: int, width: int) -> None:
        chosen = sub_policies(policy)
        magnitude = torch.linspace(0, 1, BINS, dtype=torch.float64)
        operation = torch.tensor([[NAMES.index(name) for name, _, _ in pair] for pair in chosen])
        signed = torch.tensor([[OPERATIONS[name].signed for name, _, _ in pair] for pair in chosen])
        sides = {"translate_x": width, "translate_y": height}
        strength = torch.tensor(
            [[float(OPERATIONS[n].strength(magnitude, sides.get(n, 0))[bin]) for n, _, bin in pair] for pair in chosen],
            dtype=torch.float64,
        )
        self.probability = torch.tensor([[p for _, p, _ in pair] for pair in chosen])
        # Those of the sub-policies in order, then the same with the other sign where there is one.
        both = torch.stack([strength, torch.where(signed, -strength, strength)])
        self.variants = Variants(operation.expand_as(both).flatten(), both.flatten(), height, width)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Which of the variants are carried out on each image (N, 2), on the generator's device."""
        pair = torch.randint(len(self.probability), (count,), generator=generator)
        chance, sign = torch.rand(2, count, 2, generator=generator)
        variant = 2 * pair[:, None] + torch.arange(2) + (sign < 0.5) * self.probability.numel()
        return torch.where(chance < self.probability[pair], variant, self.variants.nothing)
