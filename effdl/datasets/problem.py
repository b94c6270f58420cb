"""A problem: training and validation data as iterators of batches, and the objective."""

from collections.abc import Callable, Iterator
from copy import copy

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.checks import check_shapes, check_targets
from effdl.datasets.dataset import Facts
from effdl.datasets.split import Choose, Samples, Split
from effdl.errors import DataError
from effdl.objectives.objective import Objective, kind_of
from effdl.rng import seed_for

# Varies training inputs (B, *input) by a generator on the CPU, its only source of chance; gives new ones.
Change = Callable[[Tensor, torch.Generator], Tensor]


class Problem:
    """Training and validation data for one device, and the objective.

    Inputs stay as they were stored (uint8 images): the network's input block standardises them. Epoch ``e`` has its own
    order, seeded from (seed, "order", e). A last batch of a single sample joins the one before it: batch normalisation
    cannot take one sample.

    Args:
        augment: how training inputs are varied, batch by batch, with a generator seeded from (seed, "augment", e, batch).
        is_outline: its tensors are fake, with a form and nothing in them: it can be counted with, not computed.

    ``changes``: whether each epoch has samples of its own, see `Split.epoch`; the validation set is the same in all of them.
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
        self.changes = train.changes
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
            if facts.targets == "vectors":
                return Samples(x, torch.empty(count, facts.outputs))
            of_each = facts.input_shape[1:] if facts.targets == "pixels" else ()
            return Samples(x, torch.empty(count, *of_each, dtype=torch.long))

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
        made.changes = facts.changes
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
            changes=self.changes,
        )

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return len(cut(self.num_train, self.batch_size))

    def train(self, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        """Epoch ``epoch``'s batches in its own order, as varied for this epoch.

        choose: as in `ordered`; not with an augmentation, which depends on what else is in a batch.
        """
        assert choose is None or self.augment is None
        made = self.made(epoch)
        if len(made) != self.num_train:
            raise DataError(f"epoch {epoch} of {type(made).__name__} has {len(made):,} samples, not {self.num_train:,}")
        stored = self.ordered(made, epoch, choose)
        return stored if self.augment is None else self._varied(stored, epoch, self.augment)

    def made(self, epoch: int) -> Split:
        """The training samples of an epoch, in their own order, and not varied."""
        return self.train_split.epoch(epoch, seed_for(self.seed, "samples", epoch))

    def _varied(self, stored: Iterator[Batch], epoch: int, change: Change) -> Iterator[Batch]:
        generator = torch.Generator()
        for step, batch in enumerate(stored):
            generator.manual_seed(seed_for(self.seed, "augment", epoch, step))
            yield batch.passed_on(change(batch.x, generator))

    def ordered(self, samples: Split, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        """The epoch's batches out of ``samples``, one for each training sample: features take the place of inputs.

        Their order is random, and the epoch's own, unless the training split says that its own is kept.

        choose: the positions of the epoch's batches, and its targets -> the positions that are read; what is left out is not.
        """
        generator = torch.Generator().manual_seed(seed_for(self.seed, "order", epoch))
        if self.train_split.in_order:
            order = torch.arange(self.num_train)
        else:
            order = torch.randperm(self.num_train, generator=generator)
        indices = order.to(samples.y.device).split(cut(self.num_train, self.batch_size))
        return samples.gather(indices if choose is None else choose(indices, samples.y))

    def val(self) -> Iterator[Batch]:
        return self.val_split.batches(self.batch_size)

    def train_tensors(self) -> Samples:
        """The training data whole in memory, for methods that need them at once; of data made anew, those of epoch 0.

        Raises DataError where they do not fit.
        """
        return self.made(0).tensors()

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
