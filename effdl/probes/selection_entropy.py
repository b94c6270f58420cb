"""Entropies of the classes that features select (thesis §5.5.4, figures 5.18 to 5.21)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.probes.of_layers import Meter, OfLayers, check_classes
from effdl.probes.sample import Pool, Selected, View, seen
from effdl.representations.selections import of_counts
from effdl.setting import Real, Size, setting
from effdl.training.look import Look


@setting
class SelectionEntropy(OfLayers):
    """What features select: samples on which a feature is above the threshold, outside the flat region of its activation.

    ``entropy/<layer>``: mean over features of the entropy of classes among these, in bits, from 0 to log2 of their number
    (figure 5.21). ``silent/<layer>``: how many features select nothing, which count in no mean.
    ``classes/<layer>/<feature>``: of the first ``shown`` features, samples of each class (figures 5.18 to 5.20), one by one;
    ``feature/<layer>``: their entropies.

    threshold: 0 is right for ReLU. pool: "none" has each place of a map as a feature of its own; means over places are hardly
    ever 0. shown: features in a layer's order.
    """

    pool: Pool = "none"
    threshold: Real = 0.0
    shown: Size = 2

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)

    def view(self, look: Look) -> View:
        assert look.learning is not None and look.learning.problem is not None
        classes = max(2, look.learning.problem.outputs)
        return Selected(self.sample, self.named(look), self.pool, threshold=self.threshold, classes=classes, **self.places)

    def kinds(self) -> Sequence[str]:
        return ["entropy", "silent"]

    def meter(self, look: Look, y: Tensor) -> Meter:
        def meter(layer: str, counts: Tensor) -> Sequence[float]:
            found = of_counts(counts)
            return [found.entropy, float(found.silent)]

        return meter

    def measure(self, look: Look) -> Mapping[str, Any]:
        found = dict[str, Any](super().measure(look))
        for layer, counts in seen(look, self.view(look)) if found and self.shown else ():
            if bool(torch.isfinite(counts).all()):
                first = of_counts(counts[: self.shown])
                found[f"feature/{layer}"] = first.entropies.tolist()
                found |= {f"classes/{layer}/{i}": row for i, row in enumerate(first.counts.tolist())}
        return found
