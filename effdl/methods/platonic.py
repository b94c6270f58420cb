"""Platonic projections: multi-layer perceptrons fitted layer by layer by least squares, without gradients (chapter 7)."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.problem import Facts
from effdl.errors import ConfigError
from effdl.methods.closed_form import ClosedForm, Features, Memory
from effdl.setting import Count, Positive, Probability, Real, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware

Projection = Literal["random", "sorted_pca", "platonic_pca", "weighted_platonic_pca", "deterministic"]


@setting
class Platonic(ClosedForm):
    """Layer i learns W = Z⁺T for targets T = α[Z | βY]P, in which the classes are apart (§7.3).

    projection: how P is found. "random" draws it from N(0, 1); of ``tries`` draws a layer the one whose outputs have the least
        squares distance that is lowest wins (§7.5.1). "platonic_pca" takes principal components of [Z | βY] (§7.8.1), at most
        n + k; "weighted_platonic_pca" those of [Z | βd⊙Y], d being a moving average of each sample's squared error (§7.9.3),
        while T has Y itself. "sorted_pca" has no P: samples are the weight vectors, evenly spaced along the first principal
        component of Z, without bias (§7.8.2), at most m − 1. "deterministic" is sorted PCA in the first layer and weighted
        Platonic PCA above (§7.8.3).
    alpha, beta: scale the targets, and Y within them (§7.5.2); 1 and 10 are §7.9.2's for random projections.
    ema: λ of d ← λd + (1 − λ)e; the thesis says 0.2 and 0.02. null leaves all d at 1.
    """

    projection: Projection = "random"
    tries: Count = 1
    alpha: Positive = 1.0
    beta: Real = 10.0
    ema: Probability | None = 0.2

    def __post_init__(self) -> None:
        if self.tries > 1 and self.projection != "random":
            raise ValueError(f"method.tries: only random projections are tried, {self.projection} finds the same each time")

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        for i, (fan_in, width) in enumerate(pairwise([math.prod(problem.input_shape), *(arch.linear or ())])):
            if self._kind(i) == "sorted_pca":
                limit, source = problem.train - 1, f"sorted PCA of {problem.train:,} samples"
            elif self._kind(i) == "random":
                continue
            else:
                limit = fan_in + problem.outputs
                source = f"Platonic PCA of {fan_in:,} features and {problem.outputs} targets"
            if width > limit:
                raise ConfigError(f"arch.hidden: {width:,} units in layer {i + 1}, where {source} gives at most {limit:,}")

    def candidates(self, layer: int, below: Features, width: int, memory: Memory, run: RunHandle) -> Iterator[Tensor]:
        kind = self._kind(layer)
        if kind == "weighted_platonic_pca" and self.ema is not None:
            self._reweight(layer, below, memory)
        if kind == "sorted_pca":
            samples = below.plain[evenly_along_first_component(below.plain, width)].T
            yield torch.cat([samples.new_zeros(1, width), samples]) if below.biased else samples
        elif kind == "random":
            for attempt in range(self.tries):
                generator = torch.Generator().manual_seed(run.seed("projection", layer, attempt))
                p = torch.randn(below.z.shape[1] + below.y.shape[1], width, generator=generator, dtype=below.z.dtype)
                yield below.fit(self._targets(below, p.to(below.z.device)))
        else:
            y = below.y * memory["importance"] if "importance" in memory else below.y
            p = principal_components(torch.cat([below.plain, self.beta * y], 1), width)
            yield below.fit(self._targets(below, torch.cat([p.new_zeros(1, width), p]) if below.biased else p))

    def _targets(self, below: Features, p: Tensor) -> Tensor:
        """T = α[Z | βY]P (§7.5.2), P being stacked as [P_Z; P_Y]."""
        n = below.z.shape[1]
        return self.alpha * (below.z @ p[:n] + self.beta * below.y @ p[n:])

    def _reweight(self, layer: int, below: Features, memory: Memory) -> None:
        """d ← λd + (1 − λ)e (§7.9.3), after each hidden layer; all are 1 before the first."""
        assert self.ema is not None
        before = memory.get("importance", below.y.new_ones(len(below.y), 1))
        memory["importance"] = before if layer == 0 else self.ema * before + (1 - self.ema) * below.errors[:, None]

    def _kind(self, layer: int) -> str:
        """The projection of a layer, counted from 0."""
        if self.projection != "deterministic":
            return self.projection
        return "sorted_pca" if layer == 0 else "weighted_platonic_pca"


def principal_components(a: Tensor, count: int) -> Tensor:
    """The first principal components (n, count) of a (m, n), centred: eigenvectors of its covariance, largest first.

    Their signs are free; here the entry of largest magnitude is positive.
    """
    centred = a - a.mean(0)
    vectors: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :count]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def evenly_along_first_component(z: Tensor, count: int) -> Tensor:
    """(count,) positions of samples of z (m, n), evenly spaced along its first principal component (fig. 7.14)."""
    order = (z @ principal_components(z, 1)[:, 0]).argsort()
    return order[torch.arange(0, len(order) - 1, len(order) / count).round().long().to(order.device)]
