"""Pure Voronoi maps and pure entropy (thesis §5.3.4, definitions 5 to 7)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effdl.neighbours.entropy import entropy
from effdl.neighbours.given import Values, like, samples_of_classes
from effdl.neighbours.points import Points

ROUNDING = 1e-12  # of the largest squared norm: distances that differ by less are equal
PRODUCTS = 2**23  # distances that are worked out at once


@dataclass(frozen=True, eq=False)
class PureVoronoi:
    """A pure Voronoi map of n samples.

    centroids (c, d) and classes (c,): the labelled centroids. cell (n,): of each sample, the nearest centroid, which is of its
    class; also one on the sample itself, where another class has the same sample. entropy: the pure entropy of the map in bits,
    from 0 to log2 c (definition 7).
    """

    centroids: Any
    classes: Any
    cell: Any
    entropy: float


def pure_voronoi(x: Values, y: Values) -> PureVoronoi:
    """A pure Voronoi map with few cells, by a greedy rule of ours; the thesis's own is not stated.

    It begins with the mean of each class. While a cell holds samples of other classes, their mean, class by class, becomes one
    more centroid; where that does not make fewer of them, the sample next to that mean does, whose own distance is then 0, so
    that there is an end. Then centroids go that can be missed, those of small cells first. The least map (H* of definition 7)
    is a hard problem: what is found has about as many cells as the best that has samples as its centroids.

    Definition 6 lets a centroid of another class be as near. Then one centroid a class, all in one place, would be pure on any
    data; here it must be farther, beyond rounding, unless the sample lies on a centroid of its own class.

    Args:
        x: (n, ...) samples, flattened to d features. y: (n,) their classes, numbers or names.

    Returns:
        The map; its arrays are tensors where x is one, else NumPy's. classes has indices into the classes' order.

    Raises:
        ValueError: NaN or infinite features, or lengths that differ.

    Costs O(n c d) operations and a float64 copy of x.

    >>> import numpy as np
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0], [0.0, 9.0], [0.0, 8.0], [9.0, 9.0], [9.0, 8.0]])
    >>> found = pure_voronoi(x, np.array([0, 0, 1, 1, 1, 1, 0, 0]))
    >>> len(found.centroids), found.entropy
    (4, 2.0)
    """
    samples, labels = samples_of_classes(x, y)
    with torch.autocast(samples.device.type, enabled=False), torch.no_grad():
        points = Points.of(samples, 0)
        wide = points.wide(slice(None))
        cells = _Cells(wide, labels, ROUNDING * float(points.squares.max()))
        cells.grow()
        cells.prune()
    live = cells.live.nonzero()[:, 0]
    cell = torch.searchsorted(live, cells.cell)
    centroids = cells.centroids[live] * points.scale + points.middle
    return PureVoronoi(
        like(centroids, x),
        like(cells.classes[live], x),
        like(cell, x),
        float(entropy(torch.bincount(cell, minlength=len(live))[None])),
    )


class _Cells:
    """Labelled centroids that may change, and the cell of each sample."""

    def __init__(self, x: Tensor, y: Tensor, tolerance: float) -> None:
        self.x, self.y, self.tolerance = x, y, tolerance
        self.centroids, self.classes = x[:0], y[:0]
        self.cell, self.rival = torch.full_like(y, -1), torch.full_like(y, -1)
        self.own, self.other = x.new_full((2, len(x)), torch.inf).unbind()

    def grow(self) -> None:
        self._add(*_means(self.x, self.y, self.y))
        before = len(self.x) + 1
        while len(wrong := self._impure(self.own, self.other).nonzero()[:, 0]):
            group = self.rival[wrong] * (int(self.y.max()) + 1) + self.y[wrong]
            means, classes, members = *_means(self.x[wrong], self.y[wrong], group), torch.unique(group, return_inverse=True)[1]
            if len(wrong) >= before:
                distance = (self.x[wrong] - means[members]).square().sum(1)
                order = distance.argsort(stable=True)
                order = order[members[order].argsort(stable=True)]
                means = self.x[wrong[order[torch.searchsorted(members[order], torch.arange(len(means), device=order.device))]]]
            before = len(wrong)
            self._add(means, classes)

    def _add(self, centroids: Tensor, classes: Tensor) -> None:
        known = len(self.centroids)
        self.centroids, self.classes = torch.cat([self.centroids, centroids]), torch.cat([self.classes, classes])
        step = max(1, PRODUCTS // len(centroids))
        for part in (slice(start, start + step) for start in range(0, len(self.x), step)):
            distances = squared_distances(self.x[part], centroids)
            mine = self.y[part, None] == classes
            for best, at, masked in (
                (self.own, self.cell, distances.masked_fill(~mine, torch.inf)),
                (self.other, self.rival, distances.masked_fill_(mine, torch.inf)),
            ):
                least = masked.min(1)
                nearer = least.values < best[part]
                at[part] = torch.where(nearer, least.indices + known, at[part])
                best[part] = torch.where(nearer, least.values, best[part])

    def _impure(self, own: Tensor, other: Tensor) -> Tensor:
        """Of squared distances to the nearest centroid of the own class and of others: whether a sample has no pure cell."""
        return (other <= own + self.tolerance) & (own > self.tolerance)

    def prune(self) -> None:
        """Remove centroids without which every cell stays pure, again and again until each is needed.

        One that is needed stays so as long as the centroid does to which, without it, it would lose a sample: that sample
        stays its own, and others of its class, which may go as well, do not come nearer.
        """
        self.live = torch.ones(len(self.classes), dtype=torch.bool, device=self.x.device)
        self.needed_for = [-1] * len(self.classes)  # the centroid because of which one could not go
        self._class_of, self._left = self.classes.tolist(), torch.bincount(self.classes).tolist()  # how many a class has
        self._of_class = [self.classes == name for name in range(len(self._left))]
        self._of_others = [~mine for mine in self._of_class]
        fits = len(self.x) * len(self.centroids) <= PRODUCTS
        self._distances = squared_distances(self.x, self.centroids) if fits else None  # infinite to those that are gone
        removed = 1
        while removed:
            sizes, live = torch.bincount(self.cell, minlength=len(self.live)), self.live.tolist()
            removed = 0
            for c in sizes.argsort(stable=True).tolist():
                if live[c] and not (self.needed_for[c] >= 0 and live[self.needed_for[c]]) and self._without(c):
                    live[c] = False
                    removed += 1

    def _without(self, centroid: int) -> bool:
        """Whether a centroid can go; if so it goes, and its samples are where they then belong."""
        members, name = (self.cell == centroid).nonzero()[:, 0], self._class_of[centroid]
        if len(members):
            if self._left[name] == 1:
                return False
            moved = []
            for part in members.split(max(1, PRODUCTS // len(self.live))):
                distances = self._to_live(part)
                distances[:, centroid] = torch.inf
                own = distances.masked_fill(self._of_others[name], torch.inf).min(1)
                other = distances.masked_fill_(self._of_class[name], torch.inf).min(1)
                impure = self._impure(own.values, other.values)
                if bool(impure.any()):
                    self.needed_for[centroid] = int(other.indices[impure.int().argmax()])
                    return False
                moved.append(own.indices)
            self.cell[members] = torch.cat(moved)
        self.live[centroid] = False
        self._left[name] -= 1
        if self._distances is not None:
            self._distances[:, centroid] = torch.inf
        return True

    def _to_live(self, samples: Tensor) -> Tensor:
        """Squared distances of samples to all centroids, infinite to those that are gone; the caller's to change."""
        if self._distances is not None:
            return self._distances[samples]
        return squared_distances(self.x[samples], self.centroids).masked_fill_(~self.live, torch.inf)


def squared_distances(x: Tensor, centroids: Tensor) -> Tensor:
    """(a, c) from (a, d) and (c, d), by a product."""
    products = x @ centroids.T
    return products.mul_(-2).add_(x.square().sum(1)[:, None]).add_(centroids.square().sum(1)).clamp_min_(0)


def _means(x: Tensor, y: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and class of each group of samples, in the groups' order."""
    names, member = torch.unique(group, return_inverse=True)
    counts = torch.bincount(member).to(x)
    means = x.new_zeros(len(names), x.shape[1]).index_add_(0, member, x) / counts[:, None]
    return means, torch.zeros_like(names).scatter_(0, member, y)
