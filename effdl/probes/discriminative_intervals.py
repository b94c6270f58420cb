"""Discriminative intervals of features, layer by layer (thesis §5.5.4, figure 5.22)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.neighbours.entropy import entropy
from effdl.probes.of_layers import Meter, OfLayers, check_classes
from effdl.representations.intervals import intervals
from effdl.setting import Count, Share, setting
from effdl.training.look import Look


@setting
class DiscriminativeIntervals(OfLayers):
    """The line of each feature cut where classes change, see `representations.intervals`; an interval is discriminative whose
    classes have an entropy below a share of that of all samples.

    Means over the first ``features`` features of a layer: ``intervals/<layer>``, how many its line has,
    ``discriminative/<layer>``, how many of these are, and ``samples/<layer>``, the share of samples that lie in such.

    features: in the layer's order, each some milliseconds for a thousand samples. below: in (0, 1).
    """

    features: Count = 16
    below: Share = 0.5

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)

    def kinds(self) -> Sequence[str]:
        return ["intervals", "discriminative", "samples"]

    def meter(self, look: Look, y: Tensor) -> Meter:
        bound = self.below * float(entropy(torch.bincount(y)))

        def meter(layer: str, z: Tensor) -> Sequence[float]:
            lines = [intervals(line, y) for line in z[:, : self.features].T]
            good = [[one for one in line if one.entropy < bound] for line in lines]
            sums = sum(map(len, lines)), sum(map(len, good)), sum(one.samples for line in good for one in line) / len(z)
            return [total / len(lines) for total in sums]

        return meter
