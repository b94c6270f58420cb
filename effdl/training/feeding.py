"""Feeding a segment: by a feednet, or by the frozen prefix's outputs computed once and kept (Algorithm 3, line 8)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from effdl.datasets.problem import Batch, Choose, Problem, Samples, Split
from effdl.training.feednet import feednet
from effdl.training.handle import SampleFilter
from effdl.training.hardware import Hardware
from effdl.training.ranks import Ranks


class Feeder:
    """What the segment that trains next gets as input, training and validation.

    Args:
        problem: raw batches.
        prefix: the input block; must be in eval mode, like all that `advance` adds.
        limit_bytes: outputs are kept where those of the training and validation set together fit, else a feednet
            computes them for every batch. Both give the same numbers up to rounding, which in bf16 is to 8 bits.
        hardware: precision and layout of what the segment gets.
        ranks: the processes that train together. Each keeps the features of all samples, is fed its part of every batch, and
            augments all of it, so that the images are those of one process.
    """

    def __init__(
        self,
        problem: Problem,
        prefix: nn.Module,
        limit_bytes: int,
        hardware: Hardware | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.problem = problem
        self.limit_bytes = limit_bytes
        self._hardware, self._ranks = hardware or Hardware(), ranks or Ranks()
        self._pending: list[nn.Module] = [prefix]
        self._fast = 0  # so many of them are feednets already
        self._train: Split = problem.train_split
        self._val: Split = problem.val_split
        self.kept_bytes = 0

    @property
    def feednet(self) -> nn.Sequential:
        """Modules between what is stored and the segment's input; empty where the features themselves are kept."""
        return nn.Sequential(*self._pending)

    def advance(self, *blocks: nn.Module) -> None:
        """Freeze further blocks: they belong to the prefix from now on."""
        self._pending.extend(blocks)

    def keep(self) -> bool:
        """Replace what is kept by the prefix's outputs if both fit for a moment; returns whether features are kept.

        Where they are not kept, the prefix feeds, in its fast form.
        """
        if not self._pending:
            return True
        if not self._fits():
            self._pending[self._fast :] = map(self._hardware.compiled, map(feednet, self._pending[self._fast :]))
            self._fast = len(self._pending)
            return False
        train, val = (Samples(self._forward_all(part), part.y) for part in (self._train, self._val))
        self._train, self._val, self.kept_bytes = train, val, train.x.nbytes + val.x.nbytes
        self._pending, self._fast = [], 0
        return True

    def _fits(self) -> bool:
        if self.problem.varies:  # every epoch has other inputs
            return False
        needed = (self.problem.num_train + self.problem.num_val) * self.features(self._train.first()).nbytes
        return needed + self.kept_bytes <= self.limit_bytes

    def train(self, epoch: int, filter: SampleFilter | None = None, seed: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in the problem's order, with the prefix's outputs as x, and of them what the filter keeps.

        Each batch is this rank's part; before that, the filter has chosen among the samples of all ranks.

        seed: of the filter. Samples that it drops without a look at their features are not fed and, where nothing is augmented,
        not even read.
        """
        chosen_before = filter is None or filter.sees == "index"
        if chosen_before and self.problem.augment is None:
            return map(self._feed, self._stored(epoch, self._choice(filter, seed)))
        stored, share, size = self._stored(epoch), self._ranks.share, self.problem.batch_size
        if filter is None:
            return map(self._feed, map(share, stored))
        if chosen_before:
            return map(self._feed, map(share, filter.apply(stored, size, seed)))
        return map(share, filter.apply(map(self._feed, stored), size, seed))

    def _stored(self, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        return self.problem.ordered(self._train, epoch, choose) if self.kept_bytes else self.problem.train(epoch, choose)

    def _choice(self, filter: SampleFilter | None, seed: int) -> Choose | None:
        """What this rank reads of an epoch, where samples are chosen without a look at them; None for all of it."""
        if filter is None and self._ranks.alone:
            return None
        y, size = self._train.y, self.problem.batch_size

        def choose(indices: Sequence[Tensor]) -> Sequence[Tensor]:
            if filter is not None:
                unread = (Batch(index, y[index], index) for index in indices)
                indices = [batch.index for batch in filter.apply(unread, size, seed)]
            return [*map(self._ranks.part, indices)]

        return choose

    def val(self) -> Iterator[Batch]:
        return map(self._feed, self._val.batches(self.problem.batch_size))

    def features(self, x: Tensor) -> Tensor:
        """Outputs of the frozen prefix for stored x, in the hardware's precision and layout; no graph kept."""
        with torch.no_grad(), self._hardware.autocast():
            for module in self._pending:
                x = module(x)
        return x.contiguous(memory_format=self._hardware.memory_format) if x.dim() == 4 else x

    def _feed(self, batch: Batch) -> Batch:
        return batch.passed_on(self.features(batch.x)) if self._pending and len(batch) else batch

    def _forward_all(self, samples: Split) -> Tensor:
        """Outputs for a whole split, filled chunk by chunk."""
        like = self.features(self._train.first())
        layout = self._hardware.memory_format if like.dim() == 4 else torch.contiguous_format
        shape = (len(samples), *like.shape[1:])
        out = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)
        start = 0
        for chunk in samples.batches(self.problem.batch_size):
            out[start : start + len(chunk)] = self.features(chunk.x)
            start += len(chunk)
        return out
