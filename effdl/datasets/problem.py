"""Training and validation data as iterators of batches; the contract that data sets and methods share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from effdl.datasets.moments import Moments, moments, parts
from effdl.errors import DataError
from effdl.objectives.objective import Objective, TargetKind
from effdl.rng import seed_for
from effdl.setting import Count, Setting, Size, setting

# Varies training inputs (B, *input) by a generator on the CPU, its only source of chance; gives new ones.
Change = Callable[[Tensor, torch.Generator], Tensor]
Scaling = Literal["channel", "pixel", "unit", "none"]
# Positions (B,) of each batch of an epoch -> of each batch that is wanted.
Choose = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Batch:
    """What flows between data and step: inputs, targets, and what is known of each sample.

    x: (B, *input); y: (B,) class indices or (B, K) reals; index: (B,) positions in the training (or validation) set;
    sample_weight: (B,) or None; loss: (B,) once a step has filled it, else None.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    sample_weight: Tensor | None = None
    loss: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def passed_on(self, x: Tensor, loss: Tensor | None = None) -> "Batch":
        """The same samples, ``x`` in the place of their inputs; without `dataclasses.replace`, which every step would feel."""
        return Batch(x, self.y, self.index, self.sample_weight, self.loss if loss is None else loss)

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda tensor: tensor.to(device))

    def take(self, index: Tensor) -> "Batch":
        """The samples at these positions within the batch, copied."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, **{k: change(v) for k in self.__slots__ if (v := getattr(self, k)) is not None})


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches in their order as one; what is None in one must be None in all."""
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, Tensor] = {}
    for name in Batch.__slots__:
        parts = [part for batch in batches if (part := getattr(batch, name)) is not None]
        assert len(parts) in (0, len(batches)), f"{name} is known of some batches only"
        if parts:
            joined[name] = torch.cat(parts)
    return Batch(**joined)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a problem before its data are read.

    outputs: of the network: one a class or real target; a single one tells two classes by its sign. target_range: closed bounds
    of real targets, None where they are not known.
    """

    input_shape: tuple[int, ...]
    targets: TargetKind
    outputs: int
    train: int
    val: int
    test: int
    batch_size: int
    target_range: tuple[float, float] | None = None

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

    @abstractmethod
    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """One batch for each tensor of positions, in this order; holds no batch that it has yielded."""

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
    """A split that lies whole in memory: x (N, *input) and y (N,) or (N, K)."""

    x: Tensor
    y: Tensor

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

    @classmethod
    def outline(cls, facts: Facts, objective: Objective, seed: int = 0, augment: Change | None = None) -> "Problem":
        """A problem known by its facts alone, to be made and used among fake tensors.

        Images count as bytes and other inputs as float32, as they are stored. augment: whether there is one is what counts.
        """

        def samples(count: int) -> Samples:
            x = torch.empty(count, *facts.input_shape, dtype=torch.uint8 if facts.is_image else torch.float32)
            of_classes = facts.targets == "classes"
            return Samples(x, torch.empty(count, dtype=torch.long) if of_classes else torch.empty(count, facts.outputs))

        return cls(
            samples(facts.train),
            samples(facts.val),
            objective,
            outputs=facts.outputs,
            batch_size=facts.batch_size,
            seed=seed,
            augment=augment,
            is_outline=True,
        )

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
        kind: TargetKind = "vectors" if self.train_split.y.is_floating_point() else "classes"
        return Facts(self.input_shape, kind, self.outputs, self.num_train, self.num_val, 0, self.batch_size)

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return len(cut(self.num_train, self.batch_size))

    def train(self, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        """Epoch ``epoch``'s batches in its own random order, as varied for this epoch.

        choose: as in `ordered`; not with an augmentation, which depends on what else is in a batch.
        """
        assert choose is None or self.augment is None
        stored = self.ordered(self.train_split, epoch, choose)
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
    scaling: what the network's input block does with raw inputs, by what it finds in the training samples. "channel"
        standardises each channel of images, each feature of vectors; "pixel" each pixel too; "unit" divides by the largest
        value, 255 where images of bytes have white in them; "none" leaves them alone.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root"})

    batch_size: Count = 128
    val_size: Size = 0
    train_limit: Count | None = None
    scaling: Scaling = "channel"

    @property
    def test_size(self) -> int | None:
        """How many samples the test split has by the set's own definition, which needs no files; None where only files tell."""
        return None

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
    """A seeded random split of the training samples into (training, validation)."""
    train, val = dataset.split_sizes(len(samples))
    if train < 1:
        raise DataError(f"dataset.val_size={val} leaves none of the {len(samples)} samples to train on")
    generator = torch.Generator().manual_seed(seed_for(seed, "split"))
    order = torch.randperm(len(samples), generator=generator)
    return samples.take(order[val : val + train]), samples.take(order[:val])


def check_classes(splits: Mapping[str, Split], classes: int) -> None:
    """Every class stands in every non-empty split, and no label lies outside; else a DataError that names both."""
    for name, samples in splits.items():
        if len(samples) == 0:
            continue
        low, high = int(samples.y.min()), int(samples.y.max())
        if low < 0 or high >= classes:
            raise DataError(f"the {name} split has label {low if low < 0 else high}, outside 0..{classes - 1}")
        missing = torch.bincount(samples.y, minlength=classes).eq(0).nonzero().flatten().tolist()
        if missing:
            raise DataError(
                f"class {missing[0]} is missing from the {name} split of {len(samples)} samples: "
                "raise dataset.train_limit or dataset.val_size, or try another seed"
            )
