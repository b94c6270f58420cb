"""What a network makes of each region of its inputs (thesis §8.3.2 and §8.3.3)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.neighbours.k_filter import k_redundant
from effdl.probes.gradients import slopes
from effdl.probes.matrices import matrices, with_head
from effdl.probes.of_layers import LayerView, check_classes
from effdl.probes.sample import Features, can_see, ends, seen
from effdl.setting import Count, Switch, setting
from effdl.training.look import Look


@setting
class ByRegion(LayerView):
    """Of the network that the segment trains, in evaluation mode, for each region that the data set knows (`Split.regions`,
    such as the halves of dataset=two_frequency_board); of other data everything is one region, "all".

    ``acc/<region>``: the share of its samples that are decided rightly.
    ``k_redundancy/<k>/<region>/<layer>``: the share of its samples all of whose k nearest neighbours, among the sample of all
    regions, are of their class (definition 8).
    ``deltas/<region>/<layer>``: the mean over its samples i of ‖∂Lᵢ/∂z‖₂, z being what the layer puts out.
    ``weights/<region>/<layer>``: ‖∂L/∂W‖₂ over the layer's weight matrix, L being the mean loss of the region's samples: what
    they have in common, while what they want of a weight in opposite directions cancels. Times the region's share of all
    samples it is what the region contributes to the gradient of all.

    k: none for no redundancy. gradients: whether they are worked out, at what each sample costs in training.
    """

    samples: Count = 2000
    k: tuple[Count, ...] = (5,)
    gradients: Switch = True

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)
        if self.k and max(self.k) >= (count := self.counted(problem)):
            raise ConfigError(f"probe.by_region.k: {max(self.k)} neighbours are not to be had among {count:,} samples")

    def view(self, look: Look) -> Features:
        """The layers measured, and what accuracy is told by."""
        layers = dict.fromkeys((*(self.named(look) if self.k else ()), ends(look)[1]))
        return Features(self.sample, tuple(layers), self.pool, **self.places)

    def measure(self, look: Look) -> Mapping[str, float]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        split, index = self.sample.of(look.learning.problem)
        if (known := split.regions) is None:
            regions = {"all": torch.ones(len(index), dtype=torch.bool, device=index.device)}
        else:
            regions = {name: known.of[index] == place for place, name in enumerate(known.names)}
        found = dict(self._decided(look, split.y[index], regions))
        for name, inside in regions.items() if self.gradients else ():
            found |= self._pulled(look, name, index[inside])
        return found

    def _decided(self, look: Look, y: Tensor, regions: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
        """From what layers put out: k-redundancy and accuracy."""
        assert look.learning is not None
        shown = self.named(look)
        for layer, z in seen(look, self.view(look)):
            finite = bool(torch.isfinite(z).all())
            for k in self.k if layer in shown else ():
                alike = k_redundant(z, y, k, memory_mib=self.memory_mib) if finite else torch.full(y.shape, torch.nan)
                yield from ((f"k_redundancy/{k}/{name}/{layer}", _share(alike[inside])) for name, inside in regions.items())
            if layer == ends(look)[1]:
                right = look.learning.objective.decide(z) == y
                yield from ((f"acc/{name}", _share(right[inside])) for name, inside in regions.items())

    def _pulled(self, look: Look, region: str, index: Tensor) -> dict[str, float]:
        """Gradients of the losses of the samples at these positions."""
        assert look.learning is not None and look.learning.problem is not None
        split, _ = self.sample.of(look.learning.problem)
        shown = self.named(look)
        weights = {name: w for name, w in matrices(with_head(look)).items() if w.requires_grad}
        sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
        lengths: dict[str, list[Tensor]] = {}
        for of_weights, deltas in slopes(look, split, index, [*weights.values()]):
            for name, slope in zip(weights, of_weights, strict=True):
                if slope is not None:
                    sums[name] += slope
            for layer, delta in deltas.items():
                if layer in shown and delta is not None:
                    lengths.setdefault(layer, []).append(delta.double().flatten(1).norm(dim=1))
        found = {f"deltas/{region}/{layer}": float(torch.cat(norms).mean()) for layer, norms in lengths.items()}
        return found | {
            f"weights/{region}/{name}": float((total / len(index)).norm()) for name, total in sums.items() if len(index)
        }


def _share(of: Tensor) -> float:
    """Not a number of none."""
    return float(of.double().mean())
