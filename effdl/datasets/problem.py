"""Training and validation data as iterators of batches; the contract that data sets and methods share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from effdl.datasets.batch import Batch as Batch
from effdl.datasets.batch import concatenate as concatenate
from effdl.datasets.checks import as_labels, check_finite, check_same, check_shapes, check_targets
from effdl.datasets.moments import Moments, moments, parts
from effdl.datasets.stratified import by_class, lost
from effdl.datasets.waiting import say_once
from effdl.errors import DataError
from effdl.objectives.objective import Objective, TargetKind, kind_of
from effdl.rng import seed_for
from effdl.setting import Count, Setting, Size, Switch, setting

# Varies training inputs (B, *input) by a generator on the CPU, its only source of chance; gives new ones.
Change = Callable[[Tensor, torch.Generator], Tensor]
Scaling = Literal["channel", "pixel", "unit", "none"]
# Positions (B,) of each batch of an epoch -> of each batch that is wanted.
Choose = Callable[[Sequence[Tensor]], Sequence[Tensor]]


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


class Split(ABC):
    """Some samples of a data set and their targets ``y``, (N,) or (N, K); how inputs come about, each kind knows by itself."""

    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @abstractmethod
    def take(self, index: Tensor) -> Self:
        """Those at these positions, or where a mask is true."""

    @abstractmethod
    def to(self, device: torch.device) -> "Split":
        """The same with its data on a device; ready to be gone through again and again."""

    @property
    def changes(self) -> bool:
        """Whether its samples are made anew in each epoch: where its class says how, in ``epoch``."""
        return type(self).epoch is not Split.epoch

    def epoch(self, number: int, seed: int) -> "Split":
        """What takes its place in an epoch, as many samples; itself, unless they are made anew from this seed."""
        return self

    def check(self, where: str) -> None:
        """Raise a DataError for samples that are others each time that they are gone through. where: "training"."""
        if len(self) and not self.changes:
            once, again = (next(self.gather([torch.zeros(1, dtype=torch.long)])) for _ in range(2))
            for a, b in ((once.x, again.x), (once.y, again.y)):
                check_same(a, b, type(self).__name__, where)

    @abstractmethod
    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """The same each time: one batch for each tensor of positions, in this order; holds no batch that it has yielded."""

    def first(self) -> Tensor:
        """Inputs of the first sample, (1, *input)."""
        return next(self.gather([torch.zeros(1, dtype=torch.long)])).x

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in their own order, for evaluation."""

    @abstractmethod
    def moments(self, by_pixel: bool = False) -> Moments:
        """Of all inputs, see `datasets.moments`."""

    def find_out(self, agree: Callable[[Callable[[], Any]], Any], by_pixel: bool = False) -> None:
        """Learn beforehand what each of several processes would else go through all of it for.

        agree: what one process finds out, on all (`Ranks.agree`). by_pixel: which `moments` will be asked for.
        """
        return

    @abstractmethod
    def reading_seconds(self, samples: int) -> float:
        """What it takes to have so many inputs at hand; 0 where they lie in memory."""

    @abstractmethod
    def tensors(self) -> "Samples":
        """The same, whole in memory. Raises DataError where it does not fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples(Split):
    """A split that lies whole in memory: x (N, *input) and y (N,) or (N, K). Raises DataError where they are not as many."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", as_labels(self.x, self.y))

    def check(self, where: str) -> None:
        check_finite(parts(self.x) if len(self) else (), where)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def take(self, index: Tensor) -> "Samples":
        return Samples(self.x[index], self.y[index])

    def to(self, device: torch.device) -> "Samples":
        return Samples(self.x.to(device), self.y.to(device))

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        for index in indices:
            yield Batch(self.x[index], self.y[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            index = torch.arange(start, stop, device=self.y.device)
            yield Batch(self.x[start:stop], self.y[start:stop], index)

    def moments(self, by_pixel: bool = False) -> Moments:
        return moments(parts(self.x), by_pixel)

    def reading_seconds(self, samples: int) -> float:
        return 0.0

    def tensors(self) -> "Samples":
        return self


class Problem:
    """Training and validation data for one device, and the objective.

    Inputs stay as they were stored (uint8 images): the network's input block standardises them. Epoch ``e`` has its own
    order, seeded from (seed, "order", e). A last batch of a single sample joins the one before it: batch normalisation
    cannot take one sample.

    Args:
        augment: how training inputs are varied, batch by batch, with a generator seeded from (seed, "augment", e, batch).
        is_outline: its tensors are fake, with a form and nothing in them: it can be counted with, not computed.

    ``varies``: whether each epoch has inputs of its own, so that nothing made of them can be kept.

    Raises:
        DataError: samples that no network can learn from, see `datasets.checks`.
    """

    def __init__(
        self,
        train: Split,
        val: Split,
        objective: Objective,
        *,
        outputs: int,
        batch_size: int,
        seed: int = 0,
        augment: Change | None = None,
        is_outline: bool = False,
    ) -> None:
        if batch_size > len(train):
            raise DataError(f"dataset.batch_size={batch_size} is larger than the {len(train)} training samples")
        self.objective = objective
        self.outputs = outputs
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.is_outline = is_outline
        self.train_split, self.val_split = train, val
        self.varies = augment is not None or train.changes
        if not is_outline:
            if len(val):
                check_shapes(train.input_shape, val.input_shape)
            for where, part in (("training", train), ("validation", val)):
                check_targets(part.y, outputs, objective, where)
                part.check(where)

    @classmethod
    def outline(cls, facts: Facts, objective: Objective, seed: int = 0, augment: Change | None = None) -> "Problem":
        """A problem known by its facts alone, to be made and used among fake tensors.

        Images count as bytes and other inputs as float32, as they are stored. augment: whether there is one is what counts.
        """

        def samples(count: int) -> Samples:
            x = torch.empty(count, *facts.input_shape, dtype=torch.uint8 if facts.is_image else torch.float32)
            of_classes = facts.targets == "classes"
            return Samples(x, torch.empty(count, dtype=torch.long) if of_classes else torch.empty(count, facts.outputs))

        made = cls(
            samples(facts.train),
            samples(facts.val),
            objective,
            outputs=facts.outputs,
            batch_size=facts.batch_size,
            seed=seed,
            augment=augment,
            is_outline=True,
        )
        made.varies |= facts.changes
        return made

    def to(self, device: torch.device) -> "Problem":
        """The same problem with its data on a device."""
        moved = copy(self)
        moved.train_split, moved.val_split = self.train_split.to(device), self.val_split.to(device)
        return moved

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train_split.input_shape

    @property
    def num_train(self) -> int:
        return len(self.train_split)

    @property
    def num_val(self) -> int:
        return len(self.val_split)

    @property
    def facts(self) -> Facts:
        """What was known of it before its data were read, but for the test split."""
        sizes = self.num_train, self.num_val, 0
        return Facts(
            self.input_shape,
            kind_of(self.train_split.y),
            self.outputs,
            *sizes,
            self.batch_size,
            changes=self.train_split.changes,
        )

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return len(cut(self.num_train, self.batch_size))

    def train(self, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        """Epoch ``epoch``'s batches in its own random order, as varied for this epoch.

        choose: as in `ordered`; not with an augmentation, which depends on what else is in a batch.
        """
        assert choose is None or self.augment is None
        made = self.train_split.epoch(epoch, seed_for(self.seed, "samples", epoch))
        if len(made) != self.num_train:
            raise DataError(f"epoch {epoch} of {type(made).__name__} has {len(made):,} samples, not {self.num_train:,}")
        stored = self.ordered(made, epoch, choose)
        return stored if self.augment is None else self._varied(stored, epoch, self.augment)

    def _varied(self, stored: Iterator[Batch], epoch: int, change: Change) -> Iterator[Batch]:
        generator = torch.Generator()
        for step, batch in enumerate(stored):
            generator.manual_seed(seed_for(self.seed, "augment", epoch, step))
            yield batch.passed_on(change(batch.x, generator))

    def ordered(self, samples: Split, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        """The epoch's batches out of ``samples``, one for each training sample: features take the place of inputs.

        choose: the positions of the epoch's batches -> of those that are read; what is left out is not.
        """
        generator = torch.Generator().manual_seed(seed_for(self.seed, "order", epoch))
        order = torch.randperm(self.num_train, generator=generator).to(samples.y.device)
        indices = order.split(cut(self.num_train, self.batch_size))
        return samples.gather(indices if choose is None else choose(indices))

    def val(self) -> Iterator[Batch]:
        return self.val_split.batches(self.batch_size)

    def train_tensors(self) -> Samples:
        """The training data whole in memory, for methods that need them at once. Raises DataError where they do not fit."""
        return self.train_split.tensors()

    def val_tensors(self) -> Samples:
        return self.val_split.tensors()


def cut(samples: int, batch_size: int) -> list[int]:
    """Batch sizes of one epoch; a single sample left over joins the batch before it."""
    sizes = [batch_size] * (samples // batch_size)
    rest = samples % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


AnySplit = TypeVar("AnySplit", bound=Split)


@setting
class Dataset(Setting, ABC):
    """A data set: where its samples come from, how they are split and batched.

    batch_size: samples a step. val_size: samples held out of the training set to choose by, 0 for none. train_limit: keep
    only so many training samples (after the validation split).
    stratify: draw both class by class, in proportion to all samples; null does where a draw from all would lose a class.
    scaling: what the network's input block does with raw inputs, by what it finds in the training samples. "channel"
        standardises each channel of images, each feature of vectors; "pixel" each pixel too; "unit" divides by the largest
        value, 255 where images of bytes have white in them; "none" leaves them alone.
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
    order, y = torch.randperm(len(samples), generator=generator), samples.y.cpu()
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
