"""Image folders: a folder for each class."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from effdl.datasets.image_files import split_to_test
from effdl.datasets.listing import Listed, Listing
from effdl.datasets.reading import cannot_be_read
from effdl.datasets.walking import Found, walk
from effdl.errors import DataError, shown
from effdl.setting import setting

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".gif")


@setting
class Folder(Listed):
    """Images in <root>/<name>/train/<class>/ and <root>/<name>/val/<class>/, at any depth below: torchvision's ImageFolder.

    The test split is ``test`` or else ``val``; the validation split comes out of ``train``. Classes are the folders of
    ``train`` in alphabetical order; names that begin with a dot, and files that are no images by their ending, do not count.
    Each folder is gone through once: a link to one that belongs to the set anyway, or that holds it, is left out.
    test_split: which split is the test split; null takes the first that there is of test, val, validation, valid.
    """

    test_split: str | None = None

    def listings(self) -> tuple[Listing, Listing]:
        train, test = listed(self.folder, ("train", self._test)).checked(self.unreadable)
        return train, test

    def remarks(self) -> Iterator[str]:
        yield from super().remarks()
        yield from listed(self.folder, ("train", self._test)).remarks()

    @property
    def _test(self) -> str:
        """The name of the test split."""
        if not (self.folder / "train").is_dir():
            advice = "point dataset.root or EFFDL_DATA to the folder that holds the set's, and dataset.name to the set's own"
            if self.folder.is_dir() and (there := folders(self.folder)):
                advice = (
                    f"there are {', '.join(map(shown, there[:4]))}; {advice}, or move folders of classes into train and val"
                )
            raise DataError(f"no image folders under {shown(self.folder)} (train/<class>/ is missing): {advice}")
        return split_to_test(set(folders(self.folder)) - {"train"}, self.test_split, str(self.folder), "<class>/")


@dataclass(frozen=True)
class Listings:
    """Those of all splits, of which the first is to train on, and what was found on the way."""

    splits: tuple[Listing, ...]
    found: Found

    def holds(self) -> bool:
        """Whether no folder has got or lost an entry since; what could not be read may be mended anywhere."""
        try:
            return not self.found.odd and all(os.stat(path).st_mtime_ns == time for path, time in self.found.read.items())
        except OSError:
            return False

    def checked(self, unreadable: Literal["stop", "skip"]) -> tuple[Listing, ...]:
        """The listings. Raises DataError for names of images behind which there are none, unless they are skipped."""
        if self.found.odd and unreadable == "stop":
            path, reason = self.found.odd[0]
            more = f" (and {len(self.found.odd) - 1:,} more)" if len(self.found.odd) > 1 else ""
            raise DataError(
                f"{shown(path)} cannot be read: {reason}{more}: mend or delete what is no image, or dataset.unreadable=skip "
                "leaves it out"
            )
        return self.splits

    def remarks(self) -> Iterator[str]:
        for what, some, how in (
            ("links into folders of the set itself are left out", self.found.again, "which leads to"),
            ("files that are named as images but cannot be read are left out", self.found.odd, "which is"),
        ):
            if some:
                yield f"{what}: {len(some):,}, first {shown(some[0][0])}, {how} {shown(some[0][1])}"


_listed: dict[tuple[Path, tuple[str, ...]], Listings] = {}


def listed(folder: Path, splits: tuple[str, ...]) -> Listings:
    """What lies in the folders of the splits, in ImageFolder's order; a million names are not listed twice in a process."""
    known = _listed.get((folder, splits))
    if known is None or not known.holds():
        known = _listed[folder, splits] = _list(folder, splits)
    return known


def _list(folder: Path, splits: tuple[str, ...]) -> Listings:
    read = {str(folder / split): os.stat(folder / split).st_mtime_ns for split in splits}
    classes = [folders(folder / split) for split in splits]
    for split, names in zip(splits, classes, strict=True):
        if not names:
            raise DataError(
                f"{shown(folder / split)} has no folders of classes in it: images of each class lie in one of its own"
            )
    groups = [[str(folder / split / name) for name in names] for split, names in zip(splits, classes, strict=True)]
    found = walk(groups, ENDINGS)
    _refuse_twice(found, {path for group in groups for path in group})
    found.read.update(read)
    rest = iter(found.names)
    listings = [_listing(folder, split, of, [next(rest) for _ in of]) for split, of in zip(splits, classes, strict=True)]
    return Listings(tuple(listings), found)


def _listing(folder: Path, split: str, classes: list[str], names: list[list[str]]) -> Listing:
    """One of the test split's classes may have no images, as it may have no folder."""
    empty = [name for name, some in zip(classes, names, strict=True) if not some]
    if empty and (split == "train" or len(empty) == len(classes)):
        raise DataError(
            f"{shown(folder / split / empty[0])} has no images ({', '.join(ENDINGS[:4])} ...): a class needs some, "
            "delete its folder"
        )
    there = [(name, some) for name, some in zip(classes, names, strict=True) if some]
    paths = [os.fsencode(os.path.relpath(path, folder)) for _, some in there for path in some]
    labels = np.repeat(np.arange(len(there)), [len(some) for _, some in there])
    return Listing(split, tuple(name for name, _ in there), np.array(paths), labels)


def _refuse_twice(found: Found, classes: set[str]) -> None:
    """Raise a DataError for a class that is a link to what belongs to another, or holds the set."""
    for link, at in found.again:
        if link in classes:
            raise DataError(f"class {shown(link)} is a link into {shown(at)}, whose images have their class: delete the link")


def folders(folder: Path) -> list[str]:
    """Names of the folders in a folder that count, in alphabetical order."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise cannot_be_read(folder, error) from None
    return [name for name in names if os.path.isdir(folder / name)]
