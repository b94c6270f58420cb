"""Augmentation changes training images at random, batch by batch, where they lie: on the device, as stored bytes."""

from abc import ABC, abstractmethod

from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Change
from effdl.datasets.split import Split
from effdl.errors import ConfigError
from effdl.setting import Setting


class Augment(Setting, ABC):
    """How training images are varied before the network's input block; validation and test images never are."""

    @abstractmethod
    def prepare(self, images: Split) -> Change:
        """What will vary batches, for the training images (C, H, W) of 8 bits as stored.

        The answer takes a batch (B, C, H, W) and a generator on the CPU, its only source of chance, and leaves the batch as it
        was.
        """

    def check(self, problem: Facts) -> None:
        """Raise a ConfigError for inputs that it cannot take."""
        if not problem.is_image:
            raise ConfigError(
                f"augment: only images are augmented, not inputs of shape {list(problem.input_shape)}; augment=none"
            )
