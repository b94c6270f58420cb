"""CIFAR-10 and CIFAR-100, in the binary or the Python version of their distribution."""

import hashlib
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from effdl.datasets.dataset import Facts
from effdl.datasets.files import Files
from effdl.datasets.reading import reading
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.setting import setting

SHAPE = (3, 32, 32)
VALUES = 3 * 32 * 32
TRAIN_10 = tuple(f"data_batch_{i}" for i in range(1, 6))
FOLDERS = {
    "CIFAR10": ("cifar-10-batches-bin", "cifar-10-batches-py"),
    "CIFAR100": ("cifar-100-binary", "cifar-100-python"),
}
MD5 = {  # of the Python version as published: the only pickles that are opened
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


@setting
class Cifar(Files):
    """32×32 colour images of 10 or 100 classes: the binary version where its folder is there, else the Python version.

    Binary: <root>/cifar-10-batches-bin or cifar-100-binary, records of one or two label bytes and three planes of 1,024.
    Python: <root>/cifar-10-batches-py or cifar-100-python; a pickle opens only if its MD5 is the published one.
    labels: CIFAR-100's 100 fine classes, or the 20 coarse ones that group them. Source: Krizhevsky 2009; thesis §6.7.
    """

    variant: Literal["CIFAR10", "CIFAR100"] = "CIFAR10"
    labels: Literal["fine", "coarse"] = "fine"

    def __post_init__(self) -> None:
        if self.labels == "coarse" and self.variant == "CIFAR10":
            raise ValueError("dataset.labels=coarse: only CIFAR-100 has coarse labels; dataset=cifar100")

    @property
    def test_size(self) -> int:
        return 10_000

    @property
    def title(self) -> str:
        return self.variant

    @property
    def folder(self) -> Path:
        folders = [self.parent / name for name in FOLDERS[self.variant]]
        return next((folder for folder in folders if folder.is_dir()), folders[1 if self.download else 0])

    @property
    def files(self) -> tuple[str, ...]:
        train, test = self._parts
        return (*train, *test)

    def facts(self) -> Facts:
        train, test = (sum(self._count(name) for name in names) for names in self._parts)
        classes = 10 if self.variant == "CIFAR10" else 20 if self.labels == "coarse" else 100
        return Facts(SHAPE, "classes", classes, *self.split_sizes(train), test, self.batch_size)

    def load(self) -> tuple[Samples, Samples]:
        train, test = (self._samples(names) for names in self._parts)
        return train, test

    @property
    def _is_binary(self) -> bool:
        return self.folder.name == FOLDERS[self.variant][0]

    @property
    def _parts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the training files and of the test files."""
        train, test = (TRAIN_10, "test_batch") if self.variant == "CIFAR10" else (("train",), "test")
        end = ".bin" if self._is_binary else ""
        return tuple(name + end for name in train), (test + end,)

    @property
    def _record(self) -> int:
        """Bytes of one image with its labels, in the binary version."""
        return VALUES + (1 if self.variant == "CIFAR10" else 2)

    def _count(self, name: str) -> int:
        path = self.path(name)
        if not self._is_binary:
            return 50_000 if name == "train" else 10_000  # what the published checksum stands for
        count, rest = divmod(path.stat().st_size, self._record)
        if rest or not count:
            raise DataError(f"{path} is truncated or damaged: its size is no multiple of {self._record} bytes, one image")
        return count

    def _samples(self, names: tuple[str, ...]) -> Samples:
        read = self._binary if self._is_binary else self._python
        images, labels = zip(*(read(name) for name in names), strict=True)
        x = torch.from_numpy(np.concatenate(images).reshape(-1, *SHAPE))
        return Samples(x, torch.from_numpy(np.concatenate(labels)).long())

    def _binary(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        self._count(name)
        with reading(self.path(name)) as file:
            records = np.frombuffer(file.read(), np.uint8).reshape(-1, self._record)
        column = 0 if self.variant == "CIFAR10" or self.labels == "coarse" else 1  # CIFAR-100: coarse, fine
        return records[:, -VALUES:], records[:, column]

    def _python(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        path = self.path(name)
        with reading(path) as file:
            content = file.read()
        if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != MD5[name]:
            raise DataError(
                f"{path} is not the published file (MD5 {found}, not {MD5[name]}), and a pickle of unknown origin is not "
                "opened: delete it and fetch it again"
            )
        part = pickle.loads(content, encoding="bytes")
        key = b"labels" if self.variant == "CIFAR10" else b"coarse_labels" if self.labels == "coarse" else b"fine_labels"
        return part[b"data"], np.asarray(part[key])
