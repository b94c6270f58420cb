"""k-redundancy of layers (thesis §5.4, definition 8), as figure 5.14 has it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.neighbours.k_filter import k_redundancy
from effdl.probes.of_layers import Meter, OfLayers, check_classes
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class KRedundancy(OfLayers):
    """The share of samples whose k nearest neighbours among the sample are all of their class, in [0, 1]: ``<k>/<layer>``.

    With k = 1 it is the accuracy of the nearest neighbour, each sample left out of its own.

    k: from 1; figure 5.14 has 5, 10 and 20. samples: a share of few samples is lower than of many, whose neighbours are nearer.
    """

    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 5, 10, 20)

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)
        if max(self.k) >= (count := self.counted(problem)):
            raise ConfigError(f"probe.k_redundancy.k: {max(self.k)} neighbours are not to be had among {count:,} samples")

    def kinds(self) -> Sequence[str]:
        return [*map(str, self.k)]

    def meter(self, look: Look, y: Tensor) -> Meter:
        return lambda layer, z: [k_redundancy(z, y, k, memory_mib=self.memory_mib) for k in self.k]
