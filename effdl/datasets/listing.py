"""Image sets of which it is known, before an image is opened, which file has which label."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdl.datasets.image_files import ImageFiles, Labelled
from effdl.datasets.labels import check_known, placed
from effdl.errors import shown
from effdl.setting import setting


@dataclass(frozen=True)
class Listing:
    """Images of one split: paths relative to the set's folder (N,) as bytes, and labels (N,), which count its classes."""

    split: str
    classes: tuple[str, ...]
    paths: "np.ndarray[Any, np.dtype[np.bytes_]]"
    labels: "np.ndarray[Any, np.dtype[np.int64]]"


@dataclass(frozen=True)
class Paths:
    """Image files by their place in a listing."""

    folder: str
    paths: "np.ndarray[Any, np.dtype[np.bytes_]]"

    def read(self, position: int) -> bytes:
        return Path(self._path(position)).read_bytes()

    def name(self, position: int) -> str:
        return shown(self._path(position))

    def _path(self, position: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.paths[position]))


@setting
class Listed(ImageFiles, ABC):
    """An image file a sample."""

    @abstractmethod
    def listings(self) -> tuple[Listing, Listing]:
        """Of the training split and of the test split. Raises DataError."""

    def files(self) -> tuple[list[str], list[str]]:
        train, test = ([os.fsdecode(path) for path in listing.paths] for listing in self.listings())
        return train, test

    def labelled(self) -> tuple[tuple[str, ...], Labelled, Labelled]:
        train, test = self.listings()
        check_known(test.classes, train.classes, test.split, str(self.folder))
        of_test = placed(test.classes, train.classes)[test.labels]
        return train.classes, Labelled(train.split, train.labels), Labelled(test.split, of_test)

    def sources(self) -> tuple[Paths, Paths]:
        train, test = (Paths(str(self.folder), listing.paths) for listing in self.listings())
        return train, test
