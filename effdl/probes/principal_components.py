"""Layers in the plane, by their first two principal components (thesis §5.3.3, figure 5.9)."""

from collections.abc import Mapping
from typing import Any

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.probes.of_layers import LayerView, check_classes
from effdl.probes.sample import can_see, seen
from effdl.representations.principal_components import principal_components
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class PrincipalComponents(LayerView):
    """``x/<layer>`` and ``y/<layer>``: the first ``shown`` samples in the plane of the layer's first two components, see
    `representations.principal_components`, point by point, with their ``class``. ``share/<layer>``: of its variance, both
    together. Components are those of all ``samples``.

    every: by default before the first and after the last epoch. shown: figure 5.9 shows four classes, which a reader picks.
    """

    every: Count = 1000
    shown: Count = 300

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)

    def measure(self, look: Look) -> Mapping[str, Any]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        y, found = self.sample.targets(look.learning.problem), dict[str, Any]()
        for layer, z in seen(look, self.view(look)):
            if not bool(z.isfinite().all()):
                found[f"share/{layer}"] = float("nan")
                continue
            plane = principal_components(z)
            found[f"share/{layer}"] = float(plane.shares.sum())
            for axis, values in zip("xy", plane.scores[: self.shown].T, strict=True):
                found[f"{axis}/{layer}"] = [float(f"{value:.6g}") for value in values.tolist()]
        return {**found, "class": y[: self.shown].tolist()} if found else found
