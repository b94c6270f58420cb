"""STL-10 from its binary files."""

from pathlib import Path

import numpy as np
import torch

from effdl.datasets.dataset import Facts
from effdl.datasets.files import Files
from effdl.datasets.reading import reading
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.setting import Size, setting

SIDE = 96
VALUES = 3 * SIDE * SIDE
TRAIN, TEST = ("train_X.bin", "train_y.bin"), ("test_X.bin", "test_y.bin")


@setting
class Stl10(Files):
    """96×96 colour images of 10 classes, 5,000 + 8,000: <root>/stl10_binary/{train,test}_{X,y}.bin; no unlabelled ones.

    Source: Coates, Ng and Lee 2011; thesis §6.7. The files hold columns first and count classes from 1.
    """

    val_size: Size = 500

    @property
    def test_size(self) -> int:
        return 8_000

    @property
    def title(self) -> str:
        return "STL10"

    @property
    def folder(self) -> Path:
        return self.parent / "stl10_binary"

    @property
    def files(self) -> tuple[str, ...]:
        return TRAIN + TEST

    def facts(self) -> Facts:
        return Facts(
            (3, SIDE, SIDE), "classes", 10, *self.split_sizes(self._count(*TRAIN)), self._count(*TEST), self.batch_size
        )

    def load(self) -> tuple[Samples, Samples]:
        return self._samples(*TRAIN), self._samples(*TEST)

    def _count(self, images: str, labels: str) -> int:
        count, rest = divmod(self.path(images).stat().st_size, VALUES)
        known = self.path(labels).stat().st_size
        if rest or count != known:
            size = count + rest / VALUES
            raise DataError(f"{self.path(images)} is truncated or damaged: {size:.10g} images for {known} labels")
        return count

    def _samples(self, images: str, labels: str) -> Samples:
        count = self._count(images, labels)
        with reading(self.path(images)) as file:
            x = np.frombuffer(file.read(), np.uint8).reshape(count, 3, SIDE, SIDE)
        with reading(self.path(labels)) as file:
            y = np.frombuffer(file.read(), np.uint8).astype(np.int64) - 1
        return Samples(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 1, 3, 2))), torch.from_numpy(y))
