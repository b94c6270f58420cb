"""Published sets of photographs whose labels stand in files of their own, in the folders in which torchvision unpacks them."""

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from effdl.datasets.files import fetch
from effdl.datasets.image_files import ImageFiles
from effdl.datasets.listing import Listed, Listing
from effdl.datasets.reading import cannot_be_read, reading
from effdl.errors import DataError, shown
from effdl.setting import Count, Switch, setting


@setting
class Annotated(Listed, ABC):
    """An image file a sample, in one folder; annotation files say which of them train and which test, and their labels.

    download: fetch a missing set through torchvision, which compares the archives with their published checksums.
    """

    not_identity: ClassVar[frozenset[str]] = ImageFiles.not_identity | {"download"}
    is_complete: ClassVar[bool] = True
    title: ClassVar[str]  # torchvision's class
    images: ClassVar[str]  # where the images lie in the set's folder
    annotations: ClassVar[tuple[str, ...]]  # the files that say what they are

    size: Count = 224
    download: Switch = False

    @abstractmethod
    def annotated(self) -> tuple[Listing, Listing]:
        """What the annotation files say of training and test split. Raises DataError for what they cannot say."""

    @property
    def known_as(self) -> str | None:
        return None

    def listings(self) -> tuple[Listing, Listing]:
        if self.download and self._gap() is not None:
            fetch(self.title, [{"root": str(self.folder.parent)}], self.folder)
        if (gap := self._gap()) is not None:
            raise self._missing(gap)
        train, test = self.annotated()
        self._check_images(train, test)
        return train, test

    def fingerprint(self) -> str:
        """A hash over those of the images and of the annotation files."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for name in self.annotations:
            with reading(self.folder / name) as file:
                digest.update(hashlib.sha256(file.read()).digest())
        return digest.hexdigest()

    def _gap(self) -> str | None:
        """What is missing first of the images' folder and the annotations."""
        if not (self.folder / self.images).is_dir():
            return f"{self.images}/"
        return next((name for name in self.annotations if not (self.folder / name).is_file()), None)

    def _missing(self, gap: str) -> DataError:
        some = any((self.folder / name).exists() for name in (self.images, *self.annotations))
        what = f"{self.title} is incomplete" if some else f"no {self.title}"
        return DataError(
            f"{what} under {shown(self.folder)} ({gap} is missing): point dataset.root or EFFDL_DATA to the folder that holds "
            "all of it, or add dataset.download=true"
        )

    def _check_images(self, train: Listing, test: Listing) -> None:
        """Raise a DataError for images that are listed twice, or are not there."""
        names = np.concatenate([train.paths, test.paths])
        found, counts = np.unique(names, return_counts=True)
        if len(twice := found[counts > 1]):
            raise DataError(
                f"{shown(self.folder)}: {shown(os.fsdecode(twice[0]))} is listed twice (and {len(twice) - 1:,} more), in "
                f"{train.split} or {test.split} or both: the annotations are damaged, fetch them again"
            )
        there = {os.fsencode(f"{self.images}/{name}") for name in _names(self.folder / self.images)}
        if lost := [path for path in found.tolist() if path not in there]:
            more = f" with {len(lost) - 1:,} more" if len(lost) > 1 else ""
            raise self._missing(f"{shown(os.fsdecode(lost[0]))}{more}")


def checked_labels(labels: Any, classes: int, where: str, file: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Labels as the files count them, from 1, counted from 0. Raises DataError for one that is no class."""
    counted: np.ndarray[Any, np.dtype[np.int64]] = np.asarray(labels, np.int64) - 1
    if len(bad := np.flatnonzero((counted < 0) | (counted >= classes))):
        raise DataError(
            f"{where}: label {counted[bad[0]] + 1} in {file} ({len(bad):,} such) is not from 1 to {classes}: the file is "
            "damaged or of another set, fetch it again"
        )
    return counted


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise cannot_be_read(folder, error) from None
