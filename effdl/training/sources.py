"""Sources: where the batches come from that a segment learns from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.rows import Rows
from effdl.datasets.split import Choose, Samples, Split
from effdl.errors import ConfigError
from effdl.rng import seed_for
from effdl.training.features import NOTHING, Stack, Through
from effdl.training.feednet import feednet
from effdl.training.handle import SampleFilter
from effdl.training.hardware import Hardware
from effdl.training.offload import Streamed
from effdl.training.ranks import Ranks
from effdl.training.recording import Recording
from effdl.training.shelf import Shelf
from effdl.training.untrained import OfBatch

Prepare = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True, slots=True)
class Sieve:
    """A filter in one epoch of one segment, from whose seed all its chance comes. at: the moment that it is told of."""

    filter: SampleFilter
    seed: int
    at: Any = None

    @property
    def again(self) -> bool:
        """Whether it chooses again among what was recorded below: told of no moment, only if it looks at features."""
        return self.filter.sees == "features" if self.at is None else self.filter.again

    def apply(self, batches: Iterable[Batch], batch_size: int) -> Iterator[Batch]:
        """What it keeps of an epoch's batches, regrouped."""
        if self.at is None:
            return self.filter.apply(batches, batch_size, self.seed)
        return self.filter.apply(batches, batch_size, self.seed, self.at)


def share_left(filter: SampleFilter | None, recordings: int) -> float:
    """Of an epoch's samples those that a filter is expected to leave a segment above so many recordings, see `Replay`."""
    if filter is None:
        return 1.0
    return filter.expected_share ** (1 + recordings if filter.sees == "features" else 1)


class Source(ABC):
    """What a segment gets: training batches by epoch, and validation batches."""

    @abstractmethod
    def train(self, epoch: int, sieve: Sieve | None = None, joined: int = 1) -> Iterator[Batch]:
        """The batches of an epoch of the data, and of them what the sieve leaves.

        joined: so many may come as one, in their order, which is less work to read; as long as it makes no difference to what
        is in them, and not where there is a sieve.
        """

    @abstractmethod
    def val(self) -> Iterator[Batch]:
        """The validation set."""


class Fed(Source):
    """The problem through the modules below a segment, which may have learned anew before each `look`.

    Their outputs are kept where those of the training and validation set together fit, else a feednet computes them for every
    batch. Both give the same numbers up to rounding, which in bf16 is to 8 bits.

    Args:
        problem: raw batches.
        keep_bytes: how much may be kept.
        hardware: precision and layout of what the segment gets.
        ranks: the processes that train together. Each keeps the features of all samples, is fed its part of every batch, and
            augments all of it, so that the images are those of one process.
        parts: each batch goes through the modules in so many parts: less is alive at once, and outputs are the same up to
            rounding.
        only_val: nobody asks for training batches, which are replayed.
        shelf: where features lie that do not fit there.

    ``prepared``: how many samples of the problem this rank gave a rule in the epoch begun last, to make its own batches of.
    """

    def __init__(
        self,
        problem: Problem,
        keep_bytes: int,
        hardware: Hardware | None = None,
        ranks: Ranks | None = None,
        only_val: bool = False,
        parts: int = 1,
        shelf: Shelf | None = None,
    ) -> None:
        self.problem, self._parts, self._shelf = problem, parts, shelf or Shelf()
        self._hardware, self._ranks = hardware or Hardware(), ranks or Ranks()
        self._prepare: Prepare | None = None
        self._inputs = False
        self.prepared = 0
        splits = (problem.val_split,) if only_val else (problem.train_split, problem.val_split)
        # Where every epoch has other inputs nothing can be kept.
        keeps = len(problem.val_split) > 0 if only_val else not problem.varies
        self.through: Through[Split] = Through(
            splits, keep_bytes if keeps else -1, self.passed, self._whole, self.fast, self._laid, self._shelf.heights
        )
        self._crop, self._cropped = NOTHING, list[nn.Module]()

    def look(self, below: Stack, prepare: Prepare | None = None, tried: Iterable[int] = (), inputs: bool = False) -> bool:
        """Feed through these modules from now on; whether their outputs are kept.

        prepare: a rule's own, see `Rule.prepare`; what it makes of a batch is nothing that could be kept.
        tried: as in `Through.replay`, of a run that goes on.
        inputs: whether batches bring their samples as they are stored too, see `Rule.wants_inputs`.
        """
        self._prepare, self._inputs = prepare, inputs
        if prepare is not None:
            self.through.limit_bytes = -1
        self.through.replay(tried, below)
        self.through.look(below)
        # What depends on the batch that a sample comes in is nothing that could be kept.
        return not any(isinstance(module, OfBatch) for module in below.modules) and self.through.keep()

    def train(self, epoch: int, sieve: Sieve | None = None, joined: int = 1) -> Iterator[Batch]:
        """The batches in the problem's order, with the modules' outputs as x, and of them what the sieve leaves.

        Each batch is this rank's part; before that, the filter has chosen among the samples of all ranks. Samples that it drops
        without a look at their features are not fed and, where nothing is augmented, not even read.
        """
        self.prepared = 0
        chosen_before = sieve is None or sieve.filter.sees == "index"
        if chosen_before and self.problem.augment is None:
            return self._fed(self._stored(epoch, self._choice(sieve, joined)), epoch)
        stored, share, size = self._stored(epoch), self._ranks.share, self.problem.batch_size
        if sieve is None:
            return self._fed(map(share, stored), epoch)
        if chosen_before:
            return self._fed(map(share, sieve.apply(stored, size)), epoch)
        if self._prepare is not None:
            raise ConfigError("filter: this method's rule makes batches of its own, of which a filter cannot see the features")
        return map(share, sieve.apply(self._fed(stored, epoch), size))

    @property
    def sample_bytes(self) -> int:
        """Of what a sample is read as: of features where they are kept, else of stored inputs as float32."""
        return self.through.splits[0].first().nbytes if self.through.keeps else 4 * math.prod(self.problem.input_shape)

    def val(self) -> Iterator[Batch]:
        """Through the modules; raw where a rule prepares its own batches, since its predictor begins there."""
        batches = self.problem.val_split if self._prepare is not None else self.through.splits[-1]
        stored = batches.batches(self.problem.batch_size)
        return stored if self._prepare is not None else map(self._feed, stored)

    def _stored(self, epoch: int, choose: Choose | None = None) -> Iterator[Batch]:
        if self.through.keeps:
            return self.problem.ordered(self.through.splits[0], epoch, choose)
        return self.problem.train(epoch, choose)

    def _choice(self, sieve: Sieve | None, joined: int = 1) -> Choose | None:
        """What this rank reads of an epoch, where samples are chosen without a look at them; None for all of it."""
        if sieve is None and self._ranks.alone:
            # A layer of more rows rounds otherwise: it gets each batch by itself, whoever is in company.
            of_layers = self.through.height > 1 and bool(self.through.pending)
            return None if joined == 1 or of_layers or self._prepare is not None else partial(_joined, joined)
        size = self.problem.batch_size

        def choose(indices: Sequence[Tensor], y: Tensor) -> Sequence[Tensor]:
            if sieve is not None:
                unread = (Batch(index, y[index], index) for index in indices)
                indices = [batch.index for batch in sieve.apply(unread, size)]
            return [*map(self._ranks.part, indices)]

        return choose

    def _fed(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        if self._prepare is not None:
            batches = prepared(map(self._counted, batches), self._prepare, self.problem.seed, epoch, self._ranks.rank)
        return map(self._feed, map(self._with_inputs, batches) if self._inputs else batches)

    def _with_inputs(self, batch: Batch) -> Batch:
        """Where features are kept it has these alone, and its samples are read beside them: none of these are varied."""
        if not self.through.keeps or not len(batch):
            return replace(batch, inputs=batch.x)
        (stored,) = self.problem.train_split.gather([batch.index])
        return replace(batch, inputs=stored.x)

    def _counted(self, batch: Batch) -> Batch:
        self.prepared += len(batch)
        return batch

    def _feed(self, batch: Batch) -> Batch:
        return batch.passed_on(self.through.features(batch.x)) if self.through.pending and len(batch) else batch

    def passed(self, modules: Iterable[nn.Module], x: Tensor) -> Tensor:
        """x through them, in the hardware's precision and layout; no graph kept."""
        with torch.no_grad(), self._hardware.autocast():
            if self._parts > 1:
                return self._passed_in_parts(list(modules), x)
            for module in modules:
                x = module(x)
        return x.contiguous(memory_format=self._hardware.memory_format) if x.dim() == 4 else x

    def _passed_in_parts(self, modules: Sequence[nn.Module], x: Tensor) -> Tensor:
        out, start = None, 0
        for part in x.split(-(-len(x) // self._parts)):
            for module in modules:
                part = module(part)
            if out is None:
                layout = self._hardware.memory_format if part.dim() == 4 else torch.contiguous_format
                shape = (len(x), *part.shape[1:])
                out = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout)
            out[start : start + len(part)] = part
            start += len(part)
        return x if out is None else out

    def fast(self, module: nn.Module) -> nn.Module:
        """A frozen module as it is called again and again."""
        return module.fast(self._hardware) if isinstance(module, Streamed) else self._hardware.compiled(feednet(module))

    def cropped(self, stack: Stack) -> list[nn.Module]:
        """Modules as they are called again and again; those that the stack shares with the last one are not made anew."""
        same = self._crop.shared(stack)
        self._cropped = [*self._cropped[:same], *map(self.fast, stack.modules[same:])]
        self._crop = stack
        return self._cropped

    def _whole(self, samples: Split, features: Callable[[Tensor], Tensor]) -> tuple[Split, int]:
        """Outputs for a whole split as one tensor, filled chunk by chunk."""
        like = features(self.through.splits[0].first())
        layout = self._hardware.memory_format if like.dim() == 4 else torch.contiguous_format
        shape = (len(samples), *like.shape[1:])
        out = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)
        start = 0
        for chunk in samples.batches(self.problem.batch_size):
            out[start : start + len(chunk)] = features(chunk.x)
            start += len(chunk)
        return Samples(out, samples.y), out.nbytes

    def _laid(self, samples: Split, features: Callable[[Tensor], Tensor]) -> tuple[Split, int] | None:
        """The same on disk."""
        chunks = (features(chunk.x) for chunk in samples.batches(self.problem.batch_size))
        rows = self._shelf.rows(features(self.through.splits[0].first()), chunks, samples.y, self.through.height)
        return None if rows is None else (rows, 0)

    @property
    def laid_bytes(self) -> int:
        """Of the features that lie on disk."""
        return sum(split.bytes for split in self.through.splits if isinstance(split, Rows))


def _joined(count: int, indices: Sequence[Tensor], y: Tensor) -> Sequence[Tensor]:
    """So many batches' positions at a time as one's."""
    return [torch.cat([*indices[start : start + count]]) for start in range(0, len(indices), count)]


def prepared(batches: Iterable[Batch], prepare: Prepare, seed: int, epoch: int, rank: int = 0) -> Iterator[Batch]:
    """An epoch's batches as a rule wants them."""
    generator = torch.Generator()
    for step, batch in enumerate(batches):
        generator.manual_seed(seed_for(seed, "prepare", epoch, step, *([rank] if rank else [])))
        yield prepare(batch, generator) if len(batch) else batch


class Replay(Source):
    """What was recorded below, in its order, through the frozen modules between there and the segment (§6.2.2): the cropped
    feednet j + 1 … q − 1, where layer j was recorded and q learns.

    What a filter dropped below is not there. One that sees features sees those of this segment too, and may drop more of them
    (§6.8.2: what upper partitions see becomes less as it becomes redundant); one that sees no more than which samples there are
    has chosen.

    Args:
        recording: an epoch of which takes the place of one of the data; after the last one comes the first again.
        fed: looks through all below the segment; validation data come from there.
        below: what lies there. height: so many of its modules are below what was recorded.
        first: how many epochs of the data lie behind when the first one is replayed.
    """

    def __init__(self, recording: Recording, fed: "Fed", below: Stack = NOTHING, height: int = 0, first: int = 0) -> None:
        self._recording, self._fed, self._first = recording, fed, first
        self._modules = fed.cropped(below[height:])

    def train(self, epoch: int, sieve: Sieve | None = None, joined: int = 1) -> Iterator[Batch]:
        batches = map(self._feed, self._recording.epoch(epoch - self._first))
        if sieve is None or not sieve.again:
            return batches
        return sieve.apply(batches, self._fed.problem.batch_size)

    def val(self) -> Iterator[Batch]:
        return self._fed.val()

    def _feed(self, batch: Batch) -> Batch:
        return batch.passed_on(self._fed.passed(self._modules, batch.x)) if self._modules else batch
