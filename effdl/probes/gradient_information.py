"""What gradients that come back to a layer still tell of those at the output (thesis §8.3.1, equation 8.1)."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.datasets.split import Split
from effdl.errors import ConfigError
from effdl.neighbours.editing import nearest_neighbour_accuracy
from effdl.probes.gradients import slopes
from effdl.probes.of_layers import OfSample
from effdl.probes.sample import can_see, groups
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class GradientInformation(OfSample):
    """``bits/<layer>``: a lower bound, in bits, of the mutual information that equation 8.1 conjectures to fall from the output
    to the first layer::

        I(∂L/∂Ŷ; ∂L/∂Z) ≥ I(B; ∂L/∂Z) ≥ H(B) − h(e) − e log₂(m − 1)

    over samples, each with the gradient of its own loss. B: which of m intervals ∂L/∂Ŷ lies in, Ŷ being the outputs before
    their output units; of several outputs, its first principal component. e: the share of samples whose nearest neighbour by
    ∂L/∂Z, among the others, lies in another interval; the second step is Fano's inequality with it. 0 where that is negative.
    ``bits/output`` is the bound for ∂L/∂Ŷ itself, and ``entropy`` is H(B), which no bound passes.

    What a nearest neighbour does not find may be there still: a bound that falls says that gradients become harder to read, and
    one that does not fall contradicts nothing.

    bins: intervals of equally many samples, from 2; where values are equal, which no interval parts, m is less.
    """

    samples: Count = 2000
    bins: Count = 8

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        if not 2 <= self.bins <= self.counted(problem) // 2:
            raise ConfigError(
                f"probe.gradient_information.bins: of {self.counted(problem):,} samples there may be 2 to "
                f"{self.counted(problem) // 2:,} bins, not {self.bins}"
            )

    def measure(self, look: Look) -> Mapping[str, float]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        split, index = self.sample.of(look.learning.problem)
        _, deltas = next(slopes(look, split, index[:1], []))
        sizes = {layer: len(index) * delta.nbytes for layer, delta in deltas.items() if delta is not None}
        found, intervals = {"entropy": math.nan, **{f"bits/{layer}": math.nan for layer in sizes}}, None
        for layers in groups(dict(reversed(sizes.items())), self.memory_mib * 2**20, self.places["who"], len(index)):
            for layer, delta in _gathered(look, split, index, layers):
                if not bool(torch.isfinite(delta).all()):
                    continue
                if intervals is None:  # of "output", which comes first
                    if layer != "output":
                        return found
                    intervals = in_intervals(_component(delta.double()), self.bins)
                    found["entropy"] = entropy(intervals)
                found[f"bits/{layer}"] = bits(delta, intervals)
        return found


def _gathered(look: Look, split: Split, index: Tensor, layers: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """∂L/∂z of the samples at these positions, (n, d), of each of these layers."""
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for _, deltas in slopes(look, split, index, []):
        for layer, of_layer in parts.items():
            of_layer.append(deltas[layer].flatten(1))  # type: ignore[union-attr]
    for layer in layers:
        yield layer, torch.cat(parts.pop(layer))


def bits(of: Tensor, classes: Tensor) -> float:
    """Fano's lower bound of I(classes; of) from the nearest neighbour of each sample, for of (n, d) and classes (n,), n ≥ 2."""
    error, count = 1 - nearest_neighbour_accuracy(of, classes), len(classes.unique())
    if count < 2:
        return 0.0
    return max(0.0, entropy(classes) - _binary(error) - error * math.log2(count - 1))


def entropy(classes: Tensor) -> float:
    """H in bits of the frequencies of classes (n,)."""
    share = classes.unique(return_counts=True)[1].double() / len(classes)
    return float(-(share * share.log2()).sum())


def in_intervals(values: Tensor, count: int) -> Tensor:
    """(n,) int64: in which of ``count`` intervals of equally many samples each value (n,) lies; equal values in the same."""
    rank = torch.searchsorted(values.sort().values, values)  # how many are less
    return rank * count // len(values)


def _component(gradients: Tensor) -> Tensor:
    """(n,): the first principal component of (n, K); of one column, itself."""
    if gradients.shape[1] == 1:
        return gradients[:, 0]
    centred = gradients - gradients.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    component: Tensor = centred @ axes[:, -1]
    return component


def _binary(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)
