"""The contract of data sets: what is known beforehand, what is loaded, and how it is split."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch

from effdl.datasets.split import Split
from effdl.datasets.stratified import by_class, lost
from effdl.datasets.waiting import say_once
from effdl.errors import DataError
from effdl.objectives.objective import TargetKind, kind_of
from effdl.rng import seed_for
from effdl.setting import Count, Setting, Size, Switch, setting

Scaling = Literal["channel", "pixel", "unit", "mnist", "none"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a problem before its data are read.

    outputs: of the network: one a class or real target; a single one tells two classes by its sign. target_range: closed bounds
    of real targets, None where they are not known. changes: whether training samples are made anew in each epoch.
    """

    input_shape: tuple[int, ...]
    targets: TargetKind
    outputs: int
    train: int
    val: int
    test: int
    batch_size: int
    target_range: tuple[float, float] | None = None
    changes: bool = False

    @property
    def classes(self) -> int:
        return max(2, self.outputs)

    @property
    def is_image(self) -> bool:
        return len(self.input_shape) == 3


AnySplit = TypeVar("AnySplit", bound=Split)


@setting
class Dataset(Setting, ABC):
    """A data set: where its samples come from, how they are split and batched.

    batch_size: samples a step. val_size: samples held out of the training set to choose by, 0 for none. train_limit: keep
    only so many training samples (after the validation split).
    stratify: draw both class by class, in proportion to all samples; null does where a draw from all would lose a class.
    scaling: what the network's input block does with raw inputs, by what it finds in the training samples. "channel"
        standardises each channel of images, each feature of vectors; "pixel" each pixel too; "unit" divides by the largest
        value, 255 where images of bytes have white in them; "mnist" takes (x − 33.3285) / 78.5655 whatever it finds, MNIST's
        mean and deviation as they are printed, for grey pixels from 0 to 255; "none" leaves them alone.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root"})
    is_complete: ClassVar[bool] = True  # a test split that lacks a class is damaged

    batch_size: Count = 128
    val_size: Size = 0
    train_limit: Count | None = None
    stratify: Switch | None = None
    scaling: Scaling = "channel"

    @property
    def test_size(self) -> int | None:
        """How many samples the test split has by the set's own definition, which needs no files; None where only files tell."""
        return None

    def class_name(self, label: int) -> str:
        """What a class is called where people read it."""
        return str(label)

    @property
    def draws(self) -> tuple[str, ...]:
        """What another seed of a run draws anew of the data, in words."""
        return ("split",) if self.val_size or self.train_limit else ()

    @abstractmethod
    def facts(self) -> Facts:
        """What is known without reading the data."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the data themselves: a published checksum, else a hash of the files. Raises DataError."""

    @abstractmethod
    def load(self) -> tuple[Split, Split]:
        """All training samples (validation included) and all test samples. Raises DataError."""

    def split_sizes(self, samples: int) -> tuple[int, int]:
        """(training, validation) samples out of ``samples``."""
        left = samples - self.val_size
        return max(0, min(left, self.train_limit or left)), self.val_size


def split(dataset: Dataset, samples: AnySplit, seed: int) -> tuple[AnySplit, AnySplit]:
    """A seeded random split of the training samples into (training, validation): the first of a random order validate."""
    train, val = dataset.split_sizes(len(samples))
    if train < 1:
        raise DataError(f"dataset.val_size={val} leaves none of the {len(samples)} samples to train on")
    generator = torch.Generator().manual_seed(seed_for(seed, "split"))
    order, y = torch.randperm(len(samples), generator=generator), samples.strata.cpu()
    drawn = order[val : val + train], order[:val]
    if dataset.stratify and kind_of(y) == "vectors":
        raise DataError("dataset.stratify=true draws class by class, but these targets are real numbers: leave it out")
    if dataset.stratify is not False and kind_of(y) == "classes":
        missing = lost(y, *drawn)
        if (missing or dataset.stratify) and (stratified := by_class(y, order, train, val)) is not None:
            drawn = stratified
            if not dataset.stratify:
                named = dataset.class_name(missing[0])
                say_once(f"samples are drawn class by class (dataset.stratify), lest class {named} be left out of a split")
    return samples.take(drawn[0]), samples.take(drawn[1])
