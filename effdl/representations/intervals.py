"""Discriminative intervals of a feature (thesis §5.5.4, figure 5.22): stretches of the line on which classes hardly vary."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from effdl.neighbours.entropy import entropy
from effdl.neighbours.given import Values, samples_of_classes


@dataclass(frozen=True, slots=True)
class Interval:
    """(low, high] of the projections, −inf and inf at the ends, with its samples and the entropy of their classes in bits."""

    low: float
    high: float
    samples: int
    entropy: float


def intervals(a: Values, y: Values) -> list[Interval]:
    """The line cut where classes change: by least entropy, as long as a cut pays for its description (Fayyad and Irani 1993).

    The thesis names no rule; this one has no knob.

    Args:
        a: (n,) projections of samples, Xw. y: (n,) their classes.

    Returns:
        All intervals, from left to right. Cuts lie midway between neighbouring projections.

    Raises:
        ValueError: NaN or infinite projections, or lengths that differ.

    >>> import numpy as np
    >>> for found in intervals(np.arange(40.0), np.array([0] * 20 + [0, 1] * 10)):
    ...     print(found.low, found.high, found.samples, round(found.entropy, 3))
    -inf 20.5 21 0.0
    20.5 inf 19 0.998
    """
    values, classes = samples_of_classes(a, y)
    if values.shape[1] != 1:
        raise ValueError(f"a must be projections on one line, (n,), not {tuple(a.shape)}")
    line = values[:, 0].double()
    if not bool(torch.isfinite(line).all()):
        raise ValueError("a has projections that are NaN or infinite: drop or mend these samples first")
    order = line.argsort(stable=True)
    line, summed = line[order], torch.nn.functional.pad(one_hot(classes[order]).cumsum(0), (0, 0, 1, 0))
    cuts, open_ = [0, len(line)], [(0, len(line))]
    while open_:
        start, end = open_.pop()
        if (cut := _cut(line, summed, start, end)) is not None:
            cuts.append(cut)
            open_ += [(start, cut), (cut, end)]
    cuts.sort()
    edges = [-math.inf, *(float(line[c - 1] + (line[c] - line[c - 1]) / 2) for c in cuts[1:-1]), math.inf]
    return [
        Interval(edges[i], edges[i + 1], cuts[i + 1] - cuts[i], float(entropy(summed[cuts[i + 1]] - summed[cuts[i]])))
        for i in range(len(cuts) - 1)
    ]


def discriminative_intervals(a: Values, y: Values, *, below: float = 0.5) -> list[Interval]:
    """Those of `intervals` whose entropy is less than so much of that of all classes together; arguments as there.

    >>> import numpy as np
    >>> discriminative_intervals(np.arange(40.0), np.array([0] * 20 + [0, 1] * 10))
    [Interval(low=-inf, high=20.5, samples=21, entropy=0.0)]
    """
    whole = float(entropy(torch.bincount(samples_of_classes(a, y)[1])))
    return [found for found in intervals(a, y) if found.entropy < below * whole]


def _cut(line: Tensor, summed: Tensor, start: int, end: int) -> int | None:
    """Where to cut the samples from start to end, so that it pays; None where it does not."""
    places = (line[start + 1 : end] > line[start : end - 1]).nonzero()[:, 0] + start + 1
    if not len(places):
        return None
    left, right = summed[places] - summed[start], summed[end] - summed[places]
    n = end - start
    after = (left.sum(1) * entropy(left) + right.sum(1) * entropy(right)) / n
    best = int(after.argmin())
    whole, parts = summed[end] - summed[start], (left[best], right[best])
    bits, classes = [float(entropy(one)) for one in (whole, *parts)], [int((one > 0).sum()) for one in (whole, *parts)]
    delta = math.log2(3 ** classes[0] - 2) - (classes[0] * bits[0] - classes[1] * bits[1] - classes[2] * bits[2])
    return int(places[best]) if bits[0] - float(after[best]) > (math.log2(n - 1) + delta) / n else None
