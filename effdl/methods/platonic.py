"""Platonic projections: multi-layer perceptrons fitted layer by layer by least squares, without gradients (chapter 7)."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.least_squares.normal_equations import summed
from effdl.methods.closed_form import Carried, ClosedForm, Slot, normal
from effdl.methods.features import Features, Fitted, closest
from effdl.methods.projections import (
    Parts,
    Signs,
    centred_components,
    correlation,
    evenly_along,
    independent_components,
    principal_components,
)
from effdl.methods.shaping import aligned, low_rank, mixed_in, most_telling
from effdl.setting import Count, NonNegative, Positive, Probability, Real, Share, Size, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware

Projection = Literal[
    "random",
    "platonic_pca",
    "weighted_platonic_pca",
    "ica",
    "sorted_pca",
    "sorted_platonic_pca",
    "uniform_samples",
    "components",
    "deterministic",
]
WEIGHTED = ("weighted_platonic_pca", "deterministic")
DRAWN = ("random", "uniform_samples")
OF_SAMPLES = ("sorted_pca", "sorted_platonic_pca", "uniform_samples")


@setting
class Platonic(ClosedForm):
    """Layer i learns W = Z⁺T for targets T = α[Z | βY]P, in which the classes are apart (§7.3).

    projection: how P is found.
        "random" draws it from N(0, 1); of ``tries`` draws a layer the one whose outputs have the least squares distance that
        is lowest wins (§7.5.1).
        "platonic_pca" takes principal components of [Z | βY] (§7.8.1), "weighted_platonic_pca" those of [Z | βd⊙Y], d being a
        moving average of each sample's squared error (§7.9.3); "ica" takes the independent components (§7.10.3), ``pca``
        or not. All give at most n + k.
        Others have no P and no bias. "sorted_pca": weight vectors are samples, evenly spaced along the first principal
        component of Z (§7.8.2), at most m − 1; "sorted_platonic_pca" takes the part in Z of that of [Z | Y], "uniform_samples"
        draws samples without choosing. "components": the parts in Z of the principal components of [Z | βY], which §7.8.1
        finds worse as weights than as projections.
        "deterministic" is sorted PCA in the first layer and weighted Platonic PCA above (§7.8.3).
    targets: "labels" leaves Z out, T = αβYP, which §7.10.2 finds not to work.
    pca: of "covariance" or of "correlation", which makes components blind to β and to the scale of each feature; P is applied
        to the features as they are in both. The thesis does not say which. The default, correlations, is fitted: tables 7.2
        and 7.3 come out with it. A large β, so that components turn towards Y (§7.8.1), has a meaning with covariances alone.
    signs: of principal components, which nothing fixes: such that the "sum" of their entries is positive or, as in
        scikit-learn, the "largest" of them in size. The thesis names no rule.
    importance: where d weighs Y. The default, "targets", is fitted and is not what the thesis prints: d weighs Y in the
        projection and in the targets T as well, and so table 7.3 comes out. "projection" is the thesis's, which uses d "only
        when we compute the projection matrices" (§7.9.3).
    alpha, beta: scale the targets, and Y within them (§7.5.2); 1 and 10 are §7.9.2's for random projections.
    ema: λ of d ← λd + (1 − λ)e; the thesis says 0.2 and 0.02. null leaves all d at 1.

    What the thesis proposes beyond (§7.10), all off by default:
    improve: so many random P a layer are mixed, one after the other, into the best weights found, ``step`` of their size, and
        kept where the outputs come closer: a found solution gets better.
    surplus: so many times the units are found, and those kept that spare most error (pruning).
    noise: standard deviation of normal noise on each P that is found, not drawn.
    rank: W is cut to so many directions. active: biases are shifted such that each unit is positive on this share of the
        samples (alignment with the activation).
    """

    # Of 1, correlations in single precision took columns for constant beside a βY far larger. Of 2, components of covariances
    # were lost in the rounding of β².
    numerics_version: ClassVar[int] = 3

    projection: Projection = "random"
    targets: Literal["features_and_labels", "labels"] = "features_and_labels"
    tries: Count = 1
    alpha: Positive = 1.0
    beta: Real = 10.0
    ema: Probability | None = 0.2
    pca: Literal["covariance", "correlation"] = "correlation"
    signs: Signs = "sum"
    importance: Literal["projection", "targets"] = "targets"
    improve: Size = 0
    step: Positive = 0.3
    surplus: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    noise: NonNegative = 0.0
    rank: Count | None = None
    active: Share | None = None

    def __post_init__(self) -> None:
        if self.tries > 1 and self.projection not in DRAWN:
            raise ValueError(f"method.tries: only random projections are tried, {self.projection} finds the same each time")
        if self.targets == "labels" and self.projection in (*OF_SAMPLES, "components"):
            raise ValueError(f"method.targets: {self.projection} has none, its weights come from the features themselves")
        if self.improve and self.projection in WEIGHTED and not self.solver.by_rows:
            raise ValueError("method.improve: among weighted samples only method/solver=ridge judges several weights")
        if self.noise and self.projection in (*OF_SAMPLES, "random"):
            raise ValueError(f"method.noise: {self.projection} has no P that is found, platonic_pca and deterministic have")
        if self.active is not None and not self.bias:
            raise ValueError("method.active: shifts biases, which method.bias=false takes away")

    def version(self) -> int:
        if self.pca == "covariance" and self.projection not in ("random", "uniform_samples", "ica"):
            return 3
        of_labels = self.projection in ("platonic_pca", "weighted_platonic_pca", "components")
        return 2 if of_labels and self.pca == "correlation" and self.precision == "float32" else 1

    @property
    def draws(self) -> tuple[str, ...]:
        of_projection = {"random": "P", "uniform_samples": "which samples", "ica": "start of ICA"}.get(self.projection)
        noise, improvements = "noise on P" if self.noise else None, "improvements" if self.improve else None
        return tuple(what for what in (of_projection, noise, improvements) if what)

    def found(self, units: int) -> int:
        return math.ceil(self.surplus * units)

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        known: set[tuple[str, int, int]] = set()  # a thousand layers may be alike
        for i, (fan_in, units) in enumerate(pairwise([math.prod(problem.input_shape), *(arch.linear or ())])):
            kind = self._kind(i)
            if kind == "random" or (kind, fan_in, units) in known:
                continue
            known.add((kind, fan_in, units))
            width = self.found(units)
            if kind in OF_SAMPLES:
                limit = problem.train - (kind != "uniform_samples")
                source = f"{_words(kind)} of {problem.train:,} samples"
            else:
                limit = fan_in + problem.outputs
                source = f"{_words(kind)} of {fan_in:,} features and {problem.outputs} targets"
            if width > limit:
                more = f" (method.surplus of {units:,})" if width > units else ""
                raise ConfigError(
                    f"arch.hidden: {width:,} units{more} in layer {i + 1}, where {source} gives at most {limit:,}"
                )

    def layer(self, slot: Slot, carried: Carried, run: RunHandle) -> Fitted:
        found = closest(slot.fitted(self._shaped(slot, w)) for w in self._candidates(slot, carried, run))
        for attempt in range(self.improve):
            (other,) = self._drawn(slot.below, slot.width, [run.seed("improvement", slot.index, attempt)])
            found = closest([found, slot.fitted(self._shaped(slot, mixed_in(found[0], other, self.step)))])
        return found

    def _shaped(self, slot: Slot, w: Tensor) -> Tensor:
        """The weights as layers get them: as many as there are units, of the rank and with the biases that are wanted."""
        if w.shape[1] > slot.width:
            wide = slot.above(w)
            w = w[
                :, most_telling(summed(wide.design.rows(), wide.design.features, wide.design.targets), wide.biased, slot.width)
            ]
        if self.rank is not None:
            w = low_rank(w, self.rank)
        return w if self.active is None else aligned(w, lambda: (z for z, _ in slot.below.design.rows()), self.active)

    def _candidates(self, slot: Slot, carried: Carried, run: RunHandle) -> Iterator[Tensor]:
        """Weights (n, surplus·width) to choose from, by Z⁺T or as the projection has them."""
        below, width, kind = slot.below, self.found(slot.width), self._kind(slot.index)
        seeds = [run.seed("projection", slot.index, attempt) for attempt in range(self.tries)]
        if kind == "random":
            yield from self._drawn(below, width, seeds)
            return
        for seed in seeds:
            if kind in OF_SAMPLES:
                yield below.unbiased(self._samples(kind, below, width, seed).T)
            else:
                weights = self._importance(slot.index, below, carried) if kind == "weighted_platonic_pca" else None
                p = self._directions(kind, below, width, weights, seed)
                if self.noise:
                    p = p + self.noise * normal(len(p), width, run.seed("noise", slot.index), p)
                p_z, p_y = below.unbiased(p[: below.width]), p[below.width :]
                yield p_z if kind == "components" else self._solved(below, p_z, p_y, weights)

    def _drawn(self, below: Features, width: int, seeds: list[int]) -> Iterator[Tensor]:
        """Weights by P ~ N(0, 1), solved for all draws at once where as many features as that might lie in memory."""
        if len(seeds) > 1:
            below = below.judged()
        design = below.design
        step = len(seeds) if self._fits(max(design.samples, design.features), len(seeds) * width) else 1
        for i in range(0, len(seeds), step):
            draws = [normal(design.features + design.targets, width, seed, design.like) for seed in seeds[i : i + step]]
            p_z, p_y = torch.cat(draws, 1).split([design.features, design.targets])
            yield from self._solved(below, p_z, p_y).split(width, 1)

    def _solved(self, below: Features, p_z: Tensor, p_y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Z⁺T for T = α[Z | βY]P or α[Z | βd⊙Y]P (§7.5.2, §7.9.3), P being stacked as [P_Z; P_Y]."""
        if self.targets == "labels":
            p_z = torch.zeros_like(p_z)
        weighted = None
        if weights is not None and self.importance == "targets":
            weighted = weights * torch.cat([y for _, y in below.design.rows()])
        return below.fit.mixture(self.alpha * p_z, self.alpha * self.beta * p_y, weighted)

    def _samples(self, kind: str, below: Features, width: int, seed: int) -> Tensor:
        """The samples (width, n) that are the weight vectors, their column of ones left out."""
        design = below.design
        if kind == "uniform_samples":
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(design.samples, generator=generator)[:width].to(design.like.device)
        else:
            beta = None if kind == "sorted_pca" else 1.0
            first = self._components(lambda: self._augmented(below, beta), 1)[: below.width, 0]
            chosen = evenly_along(torch.cat([below.plain(z) @ first for z, _ in design.rows()]), width)
        return below.plain(design.take(chosen))

    def _directions(self, kind: str, below: Features, width: int, weights: Tensor | None, seed: int) -> Tensor:
        """P (n + k, width) from [Z | βY] or [Z | βd⊙Y], n without the column of ones."""

        def parts() -> Iterator[Tensor]:
            return self._augmented(below, self.beta, weights)

        return independent_components(parts, width, seed) if kind == "ica" else self._components(parts, width)

    def _components(self, parts: Parts, count: int) -> Tensor:
        if self.pca == "covariance":
            return centred_components(parts, count, self.signs)
        return principal_components(correlation(parts), count, self.signs)

    def _augmented(self, below: Features, beta: float | None, weights: Tensor | None = None) -> Iterator[Tensor]:
        """[Z | βd⊙Y] in parts, d (m, 1) being 1 by default; Z alone without β. Z is without its column of ones."""
        start = 0
        for z, y in below.design.rows():
            stop = start + len(y)
            weighted = y if weights is None else y * weights[start:stop]
            yield below.plain(z) if beta is None else torch.cat([below.plain(z), beta * weighted], 1)
            start = stop

    def _importance(self, layer: int, below: Features, carried: Carried) -> Tensor | None:
        """d ← λd + (1 − λ)e (§7.9.3), after each hidden layer; all are 1 before the first."""
        if layer == 0 or self.ema is None:
            return None
        errors = below.errors[:, None]
        carried["importance"] = self.ema * carried.get("importance", torch.ones_like(errors)) + (1 - self.ema) * errors
        return carried["importance"]

    def _kind(self, layer: int) -> str:
        """The projection of a layer, counted from 0."""
        if self.projection != "deterministic":
            return self.projection
        return "sorted_pca" if layer == 0 else "weighted_platonic_pca"


def _words(kind: str) -> str:
    return kind.replace("_", " ").replace("pca", "PCA").replace("platonic", "Platonic")
