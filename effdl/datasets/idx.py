"""MNIST and its like from IDX files, gzipped or not."""

import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from effdl.datasets.problem import Dataset, Facts, Samples
from effdl.errors import DataError
from effdl.setting import Size, Switch, setting

Variant = Literal["MNIST", "FashionMNIST", "KMNIST"]
IMAGES, LABELS = 0x00000803, 0x00000801
FILES = (
    ("train-images-idx3-ubyte", IMAGES),
    ("train-labels-idx1-ubyte", LABELS),
    ("t10k-images-idx3-ubyte", IMAGES),
    ("t10k-labels-idx1-ubyte", LABELS),
)


@setting
class Idx(Dataset):
    """A set of 28×28 grey images in four IDX files, as torchvision keeps them: <root>/<variant>/raw/, `.gz` or not.

    root: folder that holds the sets, by default the environment variable EFFDL_DATA, else ``data``.
    download: fetch missing files through torchvision. Source: thesis §6.4 (MNIST, Fashion-MNIST and KMNIST).
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root", "download"})

    variant: Variant = "MNIST"
    val_size: Size = 5000
    root: str | None = None
    download: Switch = False

    def facts(self) -> Facts:
        headers = [self._header(name, magic) for name, magic in FILES]
        for (images, labels), split in zip((headers[:2], headers[2:]), ("training", "test"), strict=True):
            if images[0] != labels[0]:
                raise DataError(f"{self._folder}: {images[0]} {split} images but {labels[0]} labels")
        (train, *size), (test, *test_size) = headers[0], headers[2]
        if size != test_size:
            raise DataError(f"{self._folder}: training images are {size}, test images {test_size}")
        sizes = self.split_sizes(train)
        return Facts((1, *size), "classes", 10, sizes[0], sizes[1], test, self.batch_size)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, _ in FILES:
            digest.update(hashlib.sha256(self._bytes(name)).digest())
        return digest.hexdigest()

    def load(self) -> tuple[Samples, Samples]:
        arrays = [self._array(name, magic) for name, magic in FILES]
        train_x, train_y, test_x, test_y = arrays
        return (
            Samples(train_x.unsqueeze(1), train_y.long()),
            Samples(test_x.unsqueeze(1), test_y.long()),
        )

    @property
    def _folder(self) -> Path:
        return Path(self.root or os.environ.get("EFFDL_DATA", "data")) / self.variant / "raw"

    def _path(self, name: str) -> Path:
        for path in (self._folder / name, self._folder / f"{name}.gz"):
            if path.is_file():
                return path
        if self.download:
            self._fetch()
            return self._folder / name
        some = any((self._folder / f"{other}{end}").is_file() for other, _ in FILES for end in ("", ".gz"))
        what = f"{self.variant} is incomplete" if some else f"no {self.variant}"
        raise DataError(
            f"{what} under {self._folder} ({name}[.gz] is missing): "
            "point dataset.root or EFFDL_DATA to the folder that holds all of it, or add dataset.download=true"
        )

    def _fetch(self) -> None:
        try:
            from torchvision import datasets
        except ImportError as error:
            raise DataError(
                f"no {self.variant} under {self._folder}: downloads need torchvision ({error}): pip install 'effdl[vision]'"
            ) from None
        try:
            getattr(datasets, self.variant)(str(self._folder.parent.parent), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.variant} could not be downloaded to {self._folder}: {' '.join(str(error).split())}"
            ) from None

    def _bytes(self, name: str, size: int = -1) -> bytes:
        path = self._path(name)
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                return file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read: {error}; delete it and fetch it again") from None

    def _header(self, name: str, magic: int) -> tuple[int, ...]:
        """Sizes in the header of an IDX file: big-endian magic number, then one 32-bit size per dimension."""
        dimensions = magic & 0xFF
        data = self._bytes(name, 4 * (1 + dimensions))
        if len(data) < 4 * (1 + dimensions):
            raise DataError(f"{self._path(name)} is truncated: {len(data)} bytes, shorter than an IDX header")
        found, *sizes = struct.unpack(f">{1 + dimensions}I", data)
        if found != magic:
            raise DataError(f"{self._path(name)} is not such an IDX file: magic number {found:#010x} instead of {magic:#010x}")
        return tuple(sizes)

    def _array(self, name: str, magic: int) -> torch.Tensor:
        sizes = self._header(name, magic)
        data = self._bytes(name)[4 * (1 + len(sizes)) :]
        if len(data) != int(np.prod(sizes)):
            raise DataError(f"{self._path(name)} is truncated or damaged: {len(data)} bytes of data, its header says {sizes}")
        return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(sizes).copy())
