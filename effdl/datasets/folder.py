"""Image folders: a folder for each class."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdl.datasets.image_files import ImageFiles, Labelled, check_same_classes, split_to_test
from effdl.errors import DataError
from effdl.setting import setting

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".gif")


@setting
class Folder(ImageFiles):
    """Images in <root>/<name>/train/<class>/ and <root>/<name>/val/<class>/, at any depth below: torchvision's ImageFolder.

    The test split is ``test`` or else ``val``; the validation split comes out of ``train``. Classes are the folders of
    ``train`` in alphabetical order; names that begin with a dot, and files that are no images by their ending, do not count.
    """

    def files(self) -> list[str]:
        return [os.fsdecode(path) for listing in self._listings() for path in listing.paths]

    def labelled(self) -> tuple[int, Labelled, Labelled]:
        train, test = self._listings()
        return len(train.classes), Labelled("train", train.labels), Labelled(test.split, test.labels)

    def sources(self) -> tuple["Paths", "Paths"]:
        train, test = (Paths(str(self.folder), listing.paths) for listing in self._listings())
        return train, test

    def _listings(self) -> tuple["Listing", "Listing"]:
        if not (self.folder / "train").is_dir():
            raise DataError(
                f"no image folders under {self.folder} (train/<class>/ is missing): point dataset.root or EFFDL_DATA to the "
                "folder that holds the set's, and dataset.name to the set's own"
            )
        splits = {path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"train"}
        test = split_to_test(splits, self.test_split, str(self.folder))
        listings = listed(self.folder, "train"), listed(self.folder, test)
        check_same_classes(listings[0].classes, listings[1].classes, test, str(self.folder))
        return listings


@dataclass(frozen=True)
class Listing:
    """Images of one split: paths relative to the set's folder (N,) as bytes, labels (N,), and the folders that were read."""

    split: str
    classes: tuple[str, ...]
    paths: "np.ndarray[Any, np.dtype[np.bytes_]]"
    labels: "np.ndarray[Any, np.dtype[np.int64]]"
    read: dict[str, int]

    def holds(self) -> bool:
        """Whether no folder has got or lost an entry since."""
        try:
            return all(os.stat(path).st_mtime_ns == time for path, time in self.read.items())
        except OSError:
            return False


@dataclass(frozen=True)
class Paths:
    """Image files by their place in a listing."""

    folder: str
    paths: "np.ndarray[Any, np.dtype[np.bytes_]]"

    def read(self, position: int) -> bytes:
        return Path(self.name(position)).read_bytes()

    def name(self, position: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.paths[position]))


_listed: dict[tuple[Path, str], Listing] = {}


def listed(folder: Path, split: str) -> Listing:
    """What lies in a split's folders, in ImageFolder's order; a million names are not listed twice in a process."""
    known = _listed.get((folder, split))
    if known is None or not known.holds():
        known = _listed[folder, split] = _list(folder, split)
    return known


def _list(folder: Path, split: str) -> Listing:
    read = {str(folder / split): os.stat(folder / split).st_mtime_ns}
    classes = sorted(entry.name for entry in os.scandir(folder / split) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{folder / split} has no folders of classes in it")
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [os.fsencode(os.path.relpath(path, folder)) for path in _images(folder / split / name, read)]
        if not found:
            raise DataError(
                f"{folder / split / name} has no images ({', '.join(ENDINGS[:4])} ...): a class needs some, delete its folder"
            )
        paths += found
        labels += [label] * len(found)
    return Listing(split, tuple(classes), np.array(paths), np.array(labels, np.int64), read)


def _images(folder: Path, read: dict[str, int]) -> Iterator[str]:
    walked = []
    for parent, children, names in os.walk(folder, followlinks=True):
        children[:] = [child for child in children if not child.startswith(".")]
        read[parent] = os.stat(parent).st_mtime_ns
        walked.append((parent, names))
    for parent, names in sorted(walked):
        yield from (
            os.path.join(parent, name) for name in sorted(names) if name.lower().endswith(ENDINGS) and not name.startswith(".")
        )
