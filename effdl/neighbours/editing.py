"""Edited and condensed nearest neighbours, and how well the nearest neighbour classifies."""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from effdl.neighbours.given import Values, like, samples_of_classes
from effdl.neighbours.nearest import nearest
from effdl.neighbours.points import Points
from effdl.neighbours.watching import Watch, unwatched

MEMORY = 2**30  # bytes


def nearest_neighbour_accuracy(x: Values, y: Values, queries: Values | None = None, truth: Values | None = None) -> float:
    """The share of samples whose nearest neighbour is of their class, in [0, 1] (thesis §5.4, by layer as in its [119]).

    Args:
        x: (n, ...) samples. y: (n,) their classes.
        queries: (q, ...) samples to classify by those of x, with truth (q,) their classes; None: each of x by the others.

    Of equal distances the lower index is the nearer. Raises ValueError for NaN or infinite features, or lengths that differ.

    >>> import numpy as np
    >>> nearest_neighbour_accuracy(np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 1, 0]))
    0.5
    """
    samples, classes = samples_of_classes(x, y)
    every = torch.arange(len(samples), device=samples.device)
    if queries is None or truth is None:
        if queries is not truth:
            raise ValueError("queries and truth go together: give both, or neither")
        if len(samples) < 2:
            raise ValueError("a single sample has no neighbour")
        asked, among = every, every
    else:
        more, _ = samples_of_classes(queries, truth)
        both = np.concatenate([torch.as_tensor(one).cpu() if isinstance(one, Tensor) else one for one in (y, truth)])
        samples, classes = samples_of_classes(torch.cat([samples, more.to(samples.device)]), both)
        asked, among = torch.arange(len(every), len(samples), device=samples.device), every
    with torch.autocast(samples.device.type, enabled=False):
        neighbour = nearest(Points.of(samples, MEMORY), asked, among, 1)[1][:, 0]
    return float((classes[neighbour] == classes[asked]).double().mean())


def edited_nearest_neighbours(
    x: Values, y: Values, k: int = 3, *, vote: Literal["majority", "all"] = "majority", watch: Watch = unwatched
) -> Any:
    """Edited nearest neighbours (Wilson 1972): samples whose neighbours agree with their class.

    Args:
        x: (n, ...) samples. y: (n,) their classes.
        k: neighbours that vote, less than n. Of classes with equal votes the first in the classes' order has it.
        vote: "majority", or "all": every neighbour must agree. The opposite of `k_redundant`, if also all must.
        watch: as in `k_filter`.

    Returns:
        Indices of those kept, rising; a tensor where x is one, else a NumPy array.

    Raises:
        ValueError: NaN or infinite features, k beyond its range, or lengths that differ.

    >>> import numpy as np
    >>> edited_nearest_neighbours(np.array([[0.0], [1.0], [2.0], [3.0], [9.0]]), np.array([0, 1, 0, 0, 0]))
    array([0, 2, 3, 4])
    """
    samples, classes = samples_of_classes(x, y)
    if not 1 <= k < len(samples):
        raise ValueError(f"k must be from 1 to {len(samples) - 1}, one less than there are samples, not {k}")
    every = torch.arange(len(samples), device=samples.device)
    with torch.autocast(samples.device.type, enabled=False):
        around = classes[nearest(Points.of(samples, MEMORY), every, every, k, watch=watch)[1]]
    agree = (around == classes[:, None]).all(1) if vote == "all" else one_hot(around).sum(1).argmax(1) == classes
    return like(agree.nonzero()[:, 0], x)


def condensed_nearest_neighbours(x: Values, y: Values, start: Values | None = None, *, watch: Watch = unwatched) -> Any:
    """Condensed nearest neighbours (Hart 1968): a store by whose nearest member all samples are classified as they are.

    Samples are gone through in their order, again and again until none is added: what its nearest in the store does not
    classify joins the store. Each sample that joins costs its distances to all, O(n d).

    Args:
        x: (n, ...) samples. y: (n,) their classes.
        start: indices of the store to begin with; None: the first sample.
        watch: as in `k_filter`; of each pass by itself, since nobody knows how many there will be.

    Returns:
        Indices of the store, rising; a tensor where x is one, else a NumPy array. Of samples that are the same in all features
        but not in class no more than one of each class is ever stored, and those of the later class stay misclassified.

    Raises:
        ValueError: NaN or infinite features, or lengths that differ.

    >>> import numpy as np
    >>> condensed_nearest_neighbours(np.array([[0.0], [1.0], [2.0], [8.0], [9.0]]), np.array([0, 0, 0, 1, 1]))
    array([0, 3])
    """
    samples, classes = samples_of_classes(x, y)
    points = Points.of(samples, 0)
    stored = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    near = samples.new_full((len(samples),), torch.inf, dtype=torch.float64)
    holder = torch.full_like(classes, len(samples))

    def store(index: int) -> None:
        every = torch.arange(len(samples), device=samples.device)
        distance = points.exact(every, torch.full_like(every, index))
        nearer = (distance < near) | ((distance == near) & (index < holder))
        near[nearer], holder[nearer], stored[index] = distance[nearer], index, True

    for index in [0] if start is None else torch.as_tensor(start).tolist():
        store(index)
    number = 0
    while len(_wrong(classes, holder, stored)):
        number += 1
        passed = _pass(classes, holder, stored, store)
        for _ in watch(passed, len(samples), f"condensing {len(samples):,} samples, pass {number}"):
            pass
    return like(stored.nonzero()[:, 0], x)


def _pass(classes: Tensor, holder: Tensor, stored: Tensor, store: Callable[[int], None]) -> Iterator[None]:
    """Goes through the samples, of which it stores each whose nearest in the store is of another class at that moment."""
    position = 0
    while len(later := (wrong := _wrong(classes, holder, stored))[wrong >= position]):
        found = int(later[0])
        yield from repeat(None, found - position)
        store(found)
        yield
        position = found + 1
    yield from repeat(None, len(classes) - position)


def _wrong(classes: Tensor, holder: Tensor, stored: Tensor) -> Tensor:
    """Samples, rising, whose nearest in the store is of another class."""
    return ((classes != classes[holder]) & ~stored).nonzero()[:, 0]
