"""Filters drop training samples: an iterator of batches to an iterator of batches, large chunks in, batches out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from effdl.datasets.batch import Batch, concatenate
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import cut
from effdl.setting import Count, Setting, setting


@setting
class Filter(Setting, ABC):
    """Decides for each sample of a chunk whether this epoch trains on it.

    ``sees``: what `keep` may look at. "index": only which samples there are (index, y, sample_weight), so that what is
    dropped need not be fed; "features": ``x`` too, as the segment will get it.

    chunk: samples that `keep` sees at once, or more where the batches do not add up to it (the thesis: about 6,000).
    """

    sees: ClassVar[Literal["index", "features"]] = "features"

    chunk: Count = 6000

    @property
    @abstractmethod
    def expected_share(self) -> float:
        """The share of the samples that it keeps in an epoch, in (0, 1]: for costs and progress."""

    @abstractmethod
    def keep(self, chunk: Batch, seen: int, generator: torch.Generator) -> Tensor:
        """Which samples to train on: (B,) booleans on any device; a pure function of its arguments.

        Args:
            chunk: consecutive samples of the epoch.
            seen: how many samples of the epoch came before.
            generator: the filter's own random stream, on the CPU, one for the whole epoch.
        """

    def check(self, problem: Facts) -> None:
        """Raise a ConfigError where nothing to train on would be left; called before any data are read."""
        return

    def apply(self, batches: Iterable[Batch], batch_size: int, seed: int) -> Iterator[Batch]:
        """What is kept of an epoch's batches, in its order and in batches of ``batch_size``, see `regroup`."""
        return regroup(self._kept(batches, seed), batch_size)

    def _kept(self, batches: Iterable[Batch], seed: int) -> Iterator[Batch]:
        generator, seen = torch.Generator().manual_seed(seed), 0
        for chunk in chunked(batches, self.chunk):
            mask = self.keep(chunk, seen, generator)
            seen += len(chunk)
            kept = [chunk.take(mask.to(chunk.y.device).nonzero().flatten())]
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
