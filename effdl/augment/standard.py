"""The chain with which small colour images are trained: random crop, flip, AutoAugment, Cutout (thesis §6.7)."""

from functools import partial

import torch
from torch import Tensor

from effdl.augment.augment import Augment
from effdl.augment.auto_augment import AutoAugment, Policy
from effdl.augment.colours import where
from effdl.augment.crops import crop_and_flip
from effdl.augment.cutout import squares
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Change
from effdl.datasets.split import Split
from effdl.errors import ConfigError, DataError
from effdl.setting import Probability, Size, setting


@setting
class Standard(Augment):
    """Crop, flip, AutoAugment's policy and Cutout, in this order, each as far as it is asked for.

    crop: pixels of black around the image before a part of the original size is cut out at random. flip: probability of
    mirroring left and right. auto_augment: the policy learned on CIFAR-10 or on SVHN, its operations with black outside the
    image and the nearest pixel inside, as torchvision has them. cutout: side of a square, centred on any pixel, that gets the
    training set's mean colour (DeVries and Taylor 2017: 16 for CIFAR-10, 8 for CIFAR-100, 20 for SVHN).

    §6.7 says "Cutout + AutoAugment" and no more; crop and flip before them are the usual ones for these sets.
    """

    crop: Size = 4
    flip: Probability = 0.5
    auto_augment: Policy | None = None
    cutout: Size = 0

    def check(self, problem: Facts) -> None:
        super().check(problem)
        channels, *sides = problem.input_shape
        if self.auto_augment is not None and channels not in (1, 3):
            raise ConfigError(f"augment.auto_augment: takes images of 1 or 3 channels, not {channels}")
        if self.cutout >= 2 * min(sides):
            raise ConfigError(f"augment.cutout={self.cutout} covers images of {min(sides)} pixels whole")

    def prepare(self, images: Split) -> Change:
        if (dtype := images.first().dtype) != torch.uint8 and (self.auto_augment is not None or self.cutout):
            raise DataError(f"augment: AutoAugment and Cutout are for images stored as bytes, not as {dtype}; augment=standard")
        found = images.moments()
        if self.auto_augment is not None and found.highest < 128:
            raise DataError(
                "augment.auto_augment: its operations are for values from 0 to 255, these images have at most "
                f"{found.highest:.0f}; augment=standard only crops and flips"
            )
        policy = AutoAugment(self.auto_augment, *images.input_shape[1:]) if self.auto_augment else None
        return partial(self._change, found.mean.round().to(dtype), policy)

    def _change(self, mean: Tensor, policy: AutoAugment | None, images: Tensor, generator: torch.Generator) -> Tensor:
        count, (height, width) = len(images), images.shape[2:]
        top, left = torch.randint(-self.crop, self.crop + 1, (2, count), generator=generator)
        flip = torch.rand(count, generator=generator) < self.flip
        drawn = policy.draw(count, generator) if policy else None
        centre = [torch.randint(side, (count,), generator=generator) for side in (height, width)] if self.cutout else None
        images = crop_and_flip(images, top, left, flip, self.crop)
        if policy and drawn is not None:
            images = policy.variants.applied(images, drawn)
        if centre:
            row, column = torch.stack(centre).to(images.device)
            images = where(squares(row, column, self.cutout, height, width), mean.to(images.device), images)
        return images
