"""Filters drop training samples: an iterator of batches to an iterator of batches, large chunks in, batches out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from effdl.datasets.batch import Batch, concatenate
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import cut
from effdl.errors import ConfigError
from effdl.setting import Count, Setting, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class Filter(Setting, ABC):
    """Decides for each sample of a chunk whether this epoch trains on it.

    ``sees``: what `keep` may look at. "index": only which samples there are (index, y, sample_weight), so that what is
    dropped need not be fed; "features": ``x`` too, as the segment will get it.

    What goes by more than a chunk overrides `begin`, which may write down what it finds, and `choose` in the place of `keep`;
    both are told of the epoch by a `training.sieving.Moment`. Filters get training samples alone.

    ``needs_moments``: whether it does so: then it runs in one process, on samples that are the same in all epochs.
    ``watches``: whether the loss of each sample's last step is to stand in ``memory["loss"]``, NaN before the first.
    ``rescales``: whether it fills ``scale`` of what it keeps. ``compounds``: whether each segment drops its share of what the
    one below was left.

    chunk: samples that `keep` sees at once, or more where the batches do not add up to it (the thesis: about 6,000).
    """

    needs_moments: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    rescales: ClassVar[bool] = False

    chunk: Count = 6000

    @property
    def sees(self) -> Literal["index", "features"]:
        return "features"

    @property
    def again(self) -> bool:
        """Whether it chooses again among what was recorded below, which it has chosen already; see `sources.Replay`."""
        return self.sees == "features"

    @property
    def compounds(self) -> bool:
        return False

    @property
    def scope(self) -> str:
        """Of what it chooses, and by what, in words; it stands beside the kept share."""
        return f"{self.sees}, chunks of {self.chunk:,}"

    @property
    @abstractmethod
    def expected_share(self) -> float:
        """The share of the samples that it keeps in an epoch, in (0, 1]: for costs and progress."""

    def keep(self, chunk: Batch, seen: int, generator: torch.Generator) -> Tensor:
        """Which samples to train on: (B,) booleans on any device; a pure function of its arguments.

        Args:
            chunk: consecutive samples of the epoch.
            seen: how many samples of the epoch came before.
            generator: the filter's own random stream, on the CPU, one for the whole epoch.
        """
        raise ConfigError(f"the filter {type(self).__name__} writes neither keep nor choose, see CONTRIBUTING.md")

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        """What is kept of a chunk, in its order; arguments as of `keep`."""
        return chunk.take(self.keep(chunk, seen, generator).to(chunk.y.device).nonzero().flatten())

    def begin(self, at: "Moment") -> None:
        """Before an epoch of a segment; of segments that learn at once, of each."""
        return

    def between(self, batches: Iterator[Batch], batch_size: int, at: "Moment") -> Iterable[Batch]:
        """Of what one segment puts out as it learns (x, and the loss of its step), what the one above it gets, whose moment it
        is; by default all."""
        return batches

    def check_training(self, epochs: Sequence[int], at_once: bool) -> None:
        """Raise a ConfigError for a training that it does not go with; called before the first step.

        Args:
            epochs: of each segment, from the bottom up. at_once: whether segments learn at once (§6.8.3).
        """
        return

    def check(self, problem: Facts) -> None:
        """Raise a ConfigError where nothing to train on would be left; called before any data are read."""
        return

    def apply(self, batches: Iterable[Batch], batch_size: int, seed: int, at: "Moment | None" = None) -> Iterator[Batch]:
        """What is kept of an epoch's batches, in its order and in batches of ``batch_size``, see `regroup`."""
        return regroup(self._kept(batches, seed, at), batch_size)

    def _kept(self, batches: Iterable[Batch], seed: int, at: "Moment | None") -> Iterator[Batch]:
        generator, seen = torch.Generator().manual_seed(seed), 0
        for chunk in chunked(batches, self.chunk):
            with nullcontext() if at is None else at.timer("filter"):
                kept = [self.choose(chunk, seen, generator, at)]
            seen += len(chunk)
            del chunk
            yield kept.pop()


def chunked(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Consecutive batches joined until there are at least ``size`` samples; the last chunk has what is left."""
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= size:
            chunk, held = [concatenate(held)], []
            yield chunk.pop()
    if held:
        chunk, held = [concatenate(held)], []
        yield chunk.pop()


def regroup(parts: Iterable[Batch], batch_size: int) -> Iterator[Batch]:
    """Parts of any size, empty ones too, as batches of ``batch_size`` in the same order; holds a part and a rest.

    The sizes are those of `problem.cut`: a last single sample joins the batch before it (batch normalisation cannot take
    one), a last short batch of more stays one. Joined too, it would nearly double the batch and with it the training memory,
    and a filter that keeps all would not be no filter.
    """
    rest: Batch | None = None
    for part in parts:
        rest = part if rest is None else concatenate([rest, part])
        del part
        start = 0
        while len(rest) - start > batch_size + 1:  # what stays behind is never a single sample
            yield rest.take(torch.arange(start, start + batch_size, device=rest.y.device))
            start += batch_size
        rest = rest.take(torch.arange(start, len(rest), device=rest.y.device))
    if rest is not None and len(rest):
        yield from (
            rest.take(index) for index in torch.arange(len(rest), device=rest.y.device).split(cut(len(rest), batch_size))
        )
