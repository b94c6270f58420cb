"""Histograms of the error deltas of the output layer (thesis chapter 4, figure 4.2)."""

from collections.abc import Mapping
from typing import Any

import torch

from effdl.probes.of_outputs import OfOutputs
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class OutputDeltas(OfOutputs):
    """δ = ∂L/∂a of each sample's loss by its outputs a before their units, over all samples and outputs: y − t of softmax with
    cross-entropy, from −1 to 1; of gradient amplification whatever it makes of that.

    ``rms``, ``mean``, ``min``, ``max``; and a histogram, bin by bin from the least to the largest: ``low`` and ``high``, its
    edges, and ``count``. A bin has its lower edge, the last one both. Where all are equal one bin has them all.

    bins: at most.
    """

    bins: Count = 50

    def measure(self, look: Look) -> Mapping[str, Any]:
        if (outputs := self.outputs(look)) is None or look.learning is None or look.learning.problem is None:
            return {}
        y = self.sample.targets(look.learning.problem)
        with torch.enable_grad():
            a = outputs.detach().clone().requires_grad_()
            (deltas,) = torch.autograd.grad(look.learning.objective.loss(a, y).sum(), a)
        d = deltas.double().flatten().cpu()
        low, high = float(d.min()), float(d.max())
        found: dict[str, Any] = {"rms": float(d.square().mean().sqrt()), "mean": float(d.mean()), "min": low, "max": high}
        if not bool(torch.isfinite(d).all()):
            return found
        if high <= low:
            return {**found, "low": [low], "high": [high], "count": [len(d)]}
        counts, edges = torch.histogram(d, self.bins)
        return {**found, "low": edges[:-1].tolist(), "high": edges[1:].tolist(), "count": counts.long().tolist()}
