"""CINIC-10 from its own folders."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from effdl.datasets.folder import Listings, folders, listed
from effdl.datasets.listing import Listed, Listing
from effdl.errors import DataError, shown
from effdl.setting import Count, Size, Switch, setting

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # CIFAR-10's
HOME = "https://doi.org/10.7488/ds/2448"


@setting
class Cinic10(Listed):
    """32×32 colour images of CIFAR-10's classes: <root>/<name>/{train,valid,test}/<class>/*.png, 90,000 in each split.

    plus: train on ``valid`` too, 180,000 images: the thesis's CINIC10+ (§6.8.1). Without it ``valid`` is not read. Either way
        the samples to choose by are ``val_size`` of those to train on, as in other sets.

    Source: Darlow, Crowley, Antoniou and Storkey 2018. Many of its images come from CIFAR-10, those to test on from both its
    splits, so that a network trained on CIFAR-10 has seen some.
    """

    is_complete: ClassVar[bool] = True

    val_size: Size = 5000
    name: str = "CINIC-10"
    size: Count = 32
    plus: Switch = False

    @property
    def known_as(self) -> str | None:
        return "cinic10_plus" if self.plus else None

    @property
    def test_size(self) -> int:
        return 90_000

    def listings(self) -> tuple[Listing, Listing]:
        *train, test = found = self._found().checked(self.unreadable)
        for listing in found:  # which lists what it finds, and labels count that
            if missing := [name for name in CLASSES if name not in listing.classes]:
                raise self._gap(f"{listing.split}/{missing[0]}/ has no images")
        return joined(train), test

    def remarks(self) -> Iterator[str]:
        yield from super().remarks()
        yield from self._found().remarks()

    def _found(self) -> Listings:
        splits = ("train", "valid", "test") if self.plus else ("train", "test")
        for split in splits:
            self._check(split)
        return listed(self.folder, splits)

    def _check(self, split: str) -> None:
        """Raise a DataError where a split has other folders than those of the ten classes."""
        there = folders(self.folder / split) if (self.folder / split).is_dir() else []
        if missing := [name for name in CLASSES if name not in there]:
            raise self._gap(f"{split}/{missing[0]}/ is missing")
        if more := [name for name in there if name not in CLASSES]:
            raise DataError(
                f"{shown(self.folder / split / more[0])} is no class of CINIC-10, which has {', '.join(CLASSES)}: move it "
                "elsewhere, or read the set by dataset=folder"
            )

    def _gap(self, gap: str) -> DataError:
        what = "CINIC-10 is incomplete" if (self.folder / "train").is_dir() else "no CINIC-10"
        return DataError(
            f"{what} under {shown(self.folder)} ({gap}): point dataset.root or EFFDL_DATA to the folder that holds "
            f"{shown(self.name)}, or fetch CINIC-10.tar.gz from {HOME} and unpack it there by "
            f"tar -xzf CINIC-10.tar.gz -C <that folder>/{shown(self.name)}"
        )


def joined(listings: list[Listing]) -> Listing:
    """Those of the same classes one after another, as one split."""
    return Listing(
        "+".join(listing.split for listing in listings),
        listings[0].classes,
        np.concatenate([listing.paths for listing in listings]),
        np.concatenate([listing.labels for listing in listings]),
    )
