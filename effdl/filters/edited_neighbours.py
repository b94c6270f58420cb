"""Edited nearest neighbours (Wilson 1972) as a filter: opposite to k-filtering, it drops what disagrees with its neighbours."""

from typing import Any, Literal

import torch
from torch import Tensor

from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.filters.listed import Listed, with_least
from effdl.neighbours.editing import edited_nearest_neighbours
from effdl.neighbours.watching import Watch, unwatched
from effdl.setting import Count, setting


@setting
class EditedNeighbours(Listed):
    """Keep the samples with whose class their k nearest neighbours agree, see `effdl.edited_nearest_neighbours`.

    k: neighbours that vote. vote: "majority", or "all" must agree. least: where a class would have fewer, its first samples.
    Of equal distances the sample with the lower index is the nearer; of equal votes the first class has it.
    """

    k: Count = 3
    vote: Literal["majority", "all"] = "majority"

    def check(self, problem: Facts) -> None:
        super().check(problem)
        if self.k >= problem.train:
            raise ConfigError(
                f"filter.k={self.k}: of {problem.train} training samples each has {problem.train - 1} neighbours; take no more"
            )

    def listed(self, x: Tensor, y: Tensor, generator: torch.Generator, watch: Watch = unwatched) -> Any:
        mask = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        mask[edited_nearest_neighbours(x, y, self.k, vote=self.vote, watch=watch)] = True
        return with_least(mask, y, self.least, torch.arange(len(y), device=y.device)).nonzero()[:, 0]
