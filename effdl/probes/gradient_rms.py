"""Root mean squares of gradients, layer by layer (thesis figures 3.2 and 4.3)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from effdl.probes.gradients import slopes
from effdl.probes.matrices import matrices, with_head
from effdl.probes.of_layers import OfSample
from effdl.probes.sample import can_see
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class GradientRms(OfSample):
    """Of the loss of the network that the segment trains, by automatic differentiation, whatever rule it learns by, and in
    evaluation mode.

    ``weights/<layer>``: the root of the mean of (∂L/∂w)² over a layer's weight matrices, L being the mean loss of the sample
    (figure 3.2). ``deltas/<layer>``: that of (∂Lᵢ/∂z)² over samples i and what the layer puts out (figure 4.3, which does not
    say where errors were taken); "output" is the network before its output units.

    samples: each costs what it costs in training.
    """

    samples: Count = 1000

    def measure(self, look: Look) -> Mapping[str, float]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        weights = {name: w for name, w in matrices(with_head(look)).items() if w.requires_grad}
        sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
        squares: dict[str, Tensor] = {}
        split, index = self.sample.of(look.learning.problem)
        for of_weights, deltas in slopes(look, split, index, [*weights.values()]):
            for name, slope in zip(weights, of_weights, strict=True):
                if slope is not None:
                    sums[name] += slope
            for name, delta in deltas.items():
                squares[name] = squares.get(name, 0) + _squares(delta)
        found = {f"weights/{name}": math.sqrt(float((total / len(index)).square().mean())) for name, total in sums.items()}
        return found | {f"deltas/{name}": math.sqrt(float(total) / len(index)) for name, total in squares.items()}


def _squares(delta: Tensor | None) -> Tensor:
    """The sum over samples of (B, ...) of each one's mean square; of what does not reach the loss, no number."""
    return torch.tensor(float("nan")) if delta is None else delta.double().flatten(1).square().mean(1).sum()
