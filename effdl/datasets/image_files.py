"""Image sets whose images lie in files of their own kind: what folders and Parquet share."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from effdl import torchrun
from effdl.cache import found_out
from effdl.datasets.dataset import Dataset, Facts
from effdl.datasets.decoding import Decoder
from effdl.datasets.files import sets_folder
from effdl.datasets.fingerprints import fingerprint, twins
from effdl.datasets.labels import check_several
from effdl.datasets.streamed import Images, Source, Streamed, Unreadable
from effdl.datasets.waiting import say
from effdl.errors import DataError, shown
from effdl.setting import Count, NonNegative, Size, setting

TESTS = ("test", "val", "validation", "valid")  # where no split is named, the first of these that there is


@dataclass(frozen=True)
class Labelled:
    """The labels of one split (N,), in an order that does not change."""

    split: str
    labels: "np.ndarray[Any, np.dtype[np.int64]]"


@setting
class ImageFiles(Dataset, ABC):
    """A set of image files in <root>/<name>, with a training split ``train`` and a test split.

    name: the set's folder under ``root``, by default the environment variable EFFDL_DATA, else ``data``.
    size, channels: pixels a side, and 3 for colour or 1 for grey; see `decoding.Decoder` for the rule.
    unreadable: stop at images that cannot be decoded, or skip them: they are left out as if they were not there.
    memory_mib: where all decoded images of the run fit, they are decoded once and lie in memory; else they are decoded anew
        in every pass. Both give the same numbers, bit for bit.
    workers: processes that decode; null takes as many as the run has CPU threads, or its share of the cores under torchrun,
        and none beside a single one.

    What depends on every image's bytes (checksum, damaged images) is remembered in the user's cache folder.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root", "name", "unreadable", "memory_mib", "workers"})

    is_complete: ClassVar[bool] = False

    val_size: Size = 500
    root: str | None = None
    name: str = "images"
    size: Count = 96
    channels: Literal[1, 3] = 3
    unreadable: Literal["stop", "skip"] = "stop"
    memory_mib: NonNegative = 4096.0
    workers: Size | None = None

    @property
    def known_as(self) -> str | None:
        return self.name

    @abstractmethod
    def files(self) -> tuple[list[str], list[str]]:
        """Names of the files of training and test split, relative to the set's folder. Raises DataError."""

    @abstractmethod
    def labelled(self) -> tuple[tuple[str, ...], Labelled, Labelled]:
        """The classes, which are those of the training split, and the labels of training and test split; reads no images.

        Raises:
            DataError: what is there is no set.
        """

    @abstractmethod
    def sources(self) -> tuple[Source, Source]:
        """Where the images of the training and of the test split are read."""

    @property
    def which_images(self) -> str:
        """What beside the files decides which images there are."""
        return ""

    @property
    def folder(self) -> Path:
        """The set's own."""
        return sets_folder(self.root) / self.name

    def remarks(self) -> Iterator[str]:
        """What is odd about the set but keeps no run from it."""
        classes, _, test = self.labelled()
        if lacking := sorted({*range(len(classes))} - {*test.labels.tolist()}):
            yield (
                f"{test.split} has no images of {len(lacking):,} of {len(classes):,} classes, first "
                f"{shown(classes[lacking[0]])}: test numbers are of the others"
            )
        train, _ = self.files()
        yield from twins(self.folder, self._names, len(train))

    def class_name(self, label: int) -> str:
        return shown(self.labelled()[0][label])

    def facts(self) -> Facts:
        classes, *splits = self.labelled()
        check_several(classes, str(self.folder))
        train, test = (len(split.labels) - len(bad) for split, bad in zip(splits, self._left_out(), strict=True))
        return Facts(self._decoder.shape, "classes", len(classes), *self.split_sizes(train), test, self.batch_size)

    def fingerprint(self) -> str:
        """A hash over the hashes of all files; it says how many images are left out, so a run that skips some says it too."""
        found, count = fingerprint(self.folder, self._names), sum(map(len, self._left_out()))
        return found if count == 0 else f"{found} without {count} unreadable images"

    def load(self) -> tuple[Streamed, Streamed]:
        _, *splits = self.labelled()
        facts, images = self.facts(), self._images()
        say_remarks(self)
        needed = (facts.train + facts.val + facts.test) * int(np.prod(facts.input_shape))
        fits = needed <= self.memory_mib * 2**20
        unreadable = self._left_out()
        if self.unreadable == "skip":
            self._say_left_out(images, unreadable)
        elif not fits:  # else it is seen when they are decoded, before the first step
            for part, bad, split in zip(images, self._looked_through(), splits, strict=True):
                part.refuse(bad, len(split.labels))

        def made(part: Images, split: Labelled, bad: list[Unreadable]) -> Streamed:
            positions = np.delete(np.arange(len(split.labels)), [position for position, _ in bad])
            y = torch.from_numpy(split.labels[positions])
            return Streamed(part, torch.from_numpy(positions), y, workers=self._workers, fits=fits)

        train, test = (made(*parts) for parts in zip(images, splits, unreadable, strict=True))
        return train, test

    @property
    def _names(self) -> list[str]:
        train, test = self.files()
        return [*train, *test]

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self.size, self.channels)

    @property
    def _workers(self) -> int:
        if self.workers is None:
            here = torchrun.place()  # which leaves each of its processes one thread, whatever the machine has
            cores = torch.get_num_threads() if here.size == 1 else (os.cpu_count() or 1) // here.local_size
            return cores if cores > 1 else 0
        return self.workers

    def _images(self) -> tuple[Images, Images]:
        train, test = (Images(source, self._decoder) for source in self.sources())
        return train, test

    def _left_out(self) -> tuple[list[Unreadable], list[Unreadable]]:
        """Of each split, what is skipped."""
        return self._looked_through() if self.unreadable == "skip" else ([], [])

    def _looked_through(self) -> tuple[list[Unreadable], list[Unreadable]]:
        """Of each split, what cannot be decoded: found out by decoding all of it, once for these files."""
        from PIL import __version__

        def find() -> list[list[Unreadable]]:
            _, *splits = self.labelled()
            return [
                part.unreadable(range(len(split.labels)), self._workers, f"{split.split} images")
                for part, split in zip(self._images(), splits, strict=True)
            ]

        key = f"{fingerprint(self.folder, self._names)} {self.which_images} Pillow {__version__}"
        found = found_out("unreadable", key, find)
        train, test = ([(int(position), str(reason)) for position, reason in some] for some in found)
        return train, test

    def _say_left_out(self, images: tuple[Images, Images], unreadable: tuple[list[Unreadable], list[Unreadable]]) -> None:
        named = [f"{part.source.name(at)} ({why})" for part, bad in zip(images, unreadable, strict=True) for at, why in bad]
        if named:
            say(f"{len(named):,} images cannot be read and are left out, first {named[0]}")


@lru_cache(maxsize=64)
def say_remarks(dataset: ImageFiles) -> None:
    """Once a process, which may do many runs on the same set."""
    for remark in dataset.remarks():
        say(f"{shown(dataset.folder)}: {remark}")


def split_to_test(found: Collection[str], wanted: str | None, where: str, below: str) -> str:
    """The name of the test split among those found. below: what lies in one, for an error. Raises DataError."""
    for name in (wanted,) if wanted is not None else TESTS:
        if name in found:
            return name
    there = (
        f"there are {', '.join(map(shown, sorted(found)))}: dataset.test_split names one"
        if found
        else (f"there is train alone: put some images of each class into test/{below}")
    )
    raise DataError(f"{shown(where)} has no split to test on, {wanted or ' or '.join(TESTS)}; {there}")
