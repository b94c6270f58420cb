"""MNIST and its like from IDX files, gzipped or not."""

import struct
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from effdl.datasets.dataset import Facts
from effdl.datasets.files import Files
from effdl.datasets.reading import reading
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.setting import setting

Variant = Literal["MNIST", "FashionMNIST", "KMNIST"]
IMAGES, LABELS = 0x00000803, 0x00000801  # magic numbers: unsigned bytes in three dimensions, in one
MAGIC = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES,
    "t10k-labels-idx1-ubyte": LABELS,
}


@setting
class Idx(Files):
    """A set of 28×28 grey images in four IDX files, as torchvision keeps them: <root>/<variant>/raw/, `.gz` or not.

    Source: thesis §6.4 (MNIST, Fashion-MNIST and KMNIST).
    """

    endings: ClassVar[tuple[str, ...]] = ("", ".gz")

    variant: Variant = "MNIST"

    @property
    def test_size(self) -> int:
        return 10_000

    @property
    def title(self) -> str:
        return self.variant

    @property
    def folder(self) -> Path:
        return self.parent / self.variant / "raw"

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(MAGIC)

    def facts(self) -> Facts:
        headers = [self._header(name) for name in MAGIC]
        for (images, labels), split in zip((headers[:2], headers[2:]), ("training", "test"), strict=True):
            if images[0] != labels[0]:
                raise DataError(f"{self.folder}: {images[0]} {split} images but {labels[0]} labels")
        (train, *size), (test, *test_size) = headers[0], headers[2]
        if size != test_size:
            raise DataError(f"{self.folder}: training images are {size}, test images {test_size}")
        sizes = self.split_sizes(train)
        return Facts((1, *size), "classes", 10, sizes[0], sizes[1], test, self.batch_size)

    def load(self) -> tuple[Samples, Samples]:
        train_x, train_y, test_x, test_y = (self._array(name) for name in MAGIC)
        return Samples(train_x.unsqueeze(1), train_y.long()), Samples(test_x.unsqueeze(1), test_y.long())

    def _header(self, name: str) -> tuple[int, ...]:
        """Sizes in the header of an IDX file: big-endian magic number, then one 32-bit size per dimension."""
        path, magic = self.path(name), MAGIC[name]
        length = 4 * (1 + (magic & 0xFF))
        with reading(path) as file:
            data = file.read(length)
        if len(data) < length:
            raise DataError(f"{path} is truncated: {len(data)} bytes, shorter than an IDX header")
        found, *sizes = struct.unpack(f">{length // 4}I", data)
        if found != magic:
            raise DataError(f"{path} is not such an IDX file: magic number {found:#010x} instead of {magic:#010x}")
        return tuple(sizes)

    def _array(self, name: str) -> torch.Tensor:
        sizes, path = self._header(name), self.path(name)
        with reading(path) as file:
            data = file.read()[4 * (1 + len(sizes)) :]
        if len(data) != int(np.prod(sizes)):
            raise DataError(f"{path} is truncated or damaged: {len(data)} bytes of data, its header says {sizes}")
        return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(sizes).copy())
