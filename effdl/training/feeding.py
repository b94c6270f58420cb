"""Feeding a segment: by a feednet, or by the frozen prefix's outputs computed once and kept (Algorithm 3, line 8)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from effdl.datasets.problem import Batch, Problem, Samples, Split
from effdl.training.handle import SampleFilter

FIRST = torch.zeros(1, dtype=torch.long)  # the position of a split's first sample


class Feeder:
    """What the segment that trains next gets as input, training and validation.

    Args:
        problem: raw batches.
        prefix: the input block; must be in eval mode, like all that `advance` adds.
        limit_bytes: outputs are kept where those of the training and validation set together fit, else a feednet
            computes them for every batch. Both give the same numbers to float tolerance.
    """

    def __init__(self, problem: Problem, prefix: nn.Module, limit_bytes: int) -> None:
        self.problem = problem
        self.limit_bytes = limit_bytes
        self._pending: list[nn.Module] = [prefix]
        self._train: Split
        self._val: Split
        self._train, self._val = problem.train_split, problem.val_split
        self.kept_bytes = 0

    @property
    def feednet(self) -> nn.Sequential:
        """Modules between what is stored and the segment's input; empty where the features themselves are kept."""
        return nn.Sequential(*self._pending)

    def advance(self, *blocks: nn.Module) -> None:
        """Freeze further blocks: they belong to the prefix from now on."""
        self._pending.extend(blocks)

    def keep(self) -> bool:
        """Replace what is kept by the prefix's outputs if both fit for a moment; returns whether features are kept."""
        if not self._pending:
            return True
        if self.problem.augment is not None:  # every epoch has other inputs
            return False
        like = self.features(next(self._train.gather([FIRST])).x)[0]
        needed = (self.problem.num_train + self.problem.num_val) * like.nbytes
        if needed + self.kept_bytes > self.limit_bytes:
            return False
        self._train, self._val = (Samples(self._forward_all(part, like), part.y) for part in (self._train, self._val))
        self._pending = []
        self.kept_bytes = needed
        return True

    def train(self, epoch: int, filter: SampleFilter | None = None, seed: int = 0) -> Iterator[Batch]:
        """The epoch's batches in the problem's order, x being the prefix's outputs; only what a filter keeps of them.

        seed: of the filter. What it drops without a look at the features is not fed.
        """
        stored = self.problem.ordered(self._train, epoch) if self.kept_bytes else self.problem.train(epoch)
        if filter is None:
            return map(self._feed, stored)
        size = self.problem.batch_size
        if filter.sees == "index":
            return map(self._feed, filter.apply(stored, size, seed))
        return filter.apply(map(self._feed, stored), size, seed)

    def val(self) -> Iterator[Batch]:
        return map(self._feed, self._val.batches(self.problem.batch_size))

    def features(self, x: Tensor) -> Tensor:
        """The feednet: outputs of the frozen prefix for stored x, no graph kept."""
        with torch.no_grad():
            for module in self._pending:
                x = module(x)
        return x

    def _feed(self, batch: Batch) -> Batch:
        return replace(batch, x=self.features(batch.x)) if self._pending else batch

    def _forward_all(self, samples: Split, like: Tensor) -> Tensor:
        """Outputs for a whole split, filled chunk by chunk; ``like`` is one sample's."""
        out, start = like.new_empty(len(samples), *like.shape), 0
        for chunk in samples.batches(self.problem.batch_size):
            out[start : start + len(chunk)] = self.features(chunk.x)
            start += len(chunk)
        return out
