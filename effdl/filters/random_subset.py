"""A random subset of the training samples, drawn anew in every epoch: what any clever filter must beat."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.filters.filter import Filter
from effdl.setting import setting


@setting
class RandomSubset(Filter):
    """Keep a random share of the samples, in every epoch another one; not from the theses: their filters' control.

    share: of the epoch's samples, in (0, 1]; of N exactly round(share · N) are kept. chunk: as for the filter that it stands
    beside; the share is kept in each chunk, but for rounding.
    """

    numerics_version: ClassVar[int] = 2  # of 1, a chunk of chosen samples waited in memory, and counted
    sees = "index"

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5

    @property
    def expected_share(self) -> float:
        return self.share

    def keep(self, chunk: Batch, seen: int, generator: torch.Generator) -> Tensor:
        return random_subset(len(chunk), quota(seen, len(chunk), self.share), generator)

    def check(self, problem: Facts) -> None:
        kept = quota(0, problem.train, self.share)
        if kept < min(2, problem.train):  # batch normalisation cannot take one sample
            raise ConfigError(
                f"filter.share: {self.share:g} of {problem.train} training samples is {kept}, too few to train on"
            )


def quota(seen: int, samples: int, share: float) -> int:
    """How many of the epoch's next ``samples`` to keep: round(share · (seen + samples)) − round(share · seen).

    Over an epoch the differences add up to round(share · N) however chunks fall, with no need to know N beforehand; each
    chunk gets its share rounded down or up, the remainder going on to the next.
    """
    return round(share * (seen + samples)) - round(share * seen)


def random_subset(samples: int, kept: int, generator: torch.Generator) -> Tensor:
    """A uniformly drawn subset as (samples,) booleans, of which ``kept`` are true."""
    mask = torch.zeros(samples, dtype=torch.bool)
    mask[torch.randperm(samples, generator=generator)[:kept]] = True
    return mask
