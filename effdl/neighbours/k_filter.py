"""k-filtering and k-redundancy (thesis §5.4): what lies among its own class need not be trained on."""

import numbers
import warnings
from typing import Any

import torch
from torch import Tensor

from effdl.neighbours.given import Values, like, samples_of_classes
from effdl.neighbours.nearest import in_order, nearest
from effdl.neighbours.points import Points
from effdl.neighbours.redundant import redundant
from effdl.neighbours.watching import Watch, unwatched


def k_redundancy(
    x: Values, y: Values, k: int, *, chunk: int | None = None, itself: bool = False, memory_mib: int = 1024
) -> float:
    """The share of samples that `k_filter` removes (thesis definition 8, which gives it in percent), in [0, 1].

    With k = 1 it is the accuracy of the nearest neighbour, each sample left out of its own. Arguments as in `k_filter`.

    >>> import numpy as np
    >>> x, y = np.arange(10.0)[:, None], np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    >>> [k_redundancy(x, y, k) for k in (1, 2, 3)]
    [0.9, 0.8, 0.7]
    """
    return float(torch.as_tensor(k_redundant(x, y, k, chunk=chunk, itself=itself, memory_mib=memory_mib)).double().mean())


def k_redundant(x: Values, y: Values, k: int, *, chunk: int | None = None, itself: bool = False, memory_mib: int = 1024) -> Any:
    """Whether each sample is redundant: all of its k nearest neighbours are of its own class. Arguments as in `k_filter`.

    Returns:
        (n,) booleans, a tensor where x is one, else a NumPy array.

    >>> import numpy as np
    >>> k_redundant(np.array([[0.0], [1.0], [2.0], [9.0]]), np.array(["a", "a", "a", "b"]), 2)
    array([ True,  True,  True, False])
    """
    samples, classes = samples_of_classes(x, y)
    return like(_redundant(samples, classes, k, chunk, itself, memory_mib), x)


def k_filter(
    x: Values,
    y: Values,
    k: int,
    *,
    least: int = 1,
    chunk: int | None = None,
    itself: bool = False,
    memory_mib: int = 1024,
    watch: Watch = unwatched,
) -> Any:
    """The samples that k-filtering keeps (thesis §5.4): those of which not all k nearest neighbours are of their own class.

    Exact, as by float64 distances of all pairs, and several times as fast as these. Neighbours are the other samples by their
    Euclidean distance; of equal distances the lower index is the nearer. A class of no more than k samples is kept whole: none
    of its samples has k neighbours of the class.

    Args:
        x: (n, ...) samples, flattened; any real dtype, bytes too.
        y: (n,) their classes, numbers or names.
        k: from 1. The thesis takes 5 to 104 on images, 10 for the features of partitions (§6.8.2).
        least: of each class so many samples are kept, or all there are: where the criterion leaves fewer, those nearest to
            another class beside, with a RuntimeWarning that says so. With 0 a class, or all, may go.
        chunk: neighbours are sought among so many consecutive samples, the last chunk having what is left; None: among all.
            The thesis filters large mini-batches.
        itself: whether a sample counts as the first of its own k neighbours, as where a search for neighbours is asked for the
            samples that it holds. The printed shares of table 5.1 are nearer to that, with chunks of about 5,500.
        memory_mib: MiB to work in, beside x and some 900 bytes a sample.
        watch: (parts, total, doing) -> the same parts, one by one: to show how far the search is. By default nothing is shown.

    Returns:
        Indices of those kept, rising; a tensor where x is one, else a NumPy array.

    Raises:
        ValueError: NaN or infinite features, k < 1, or lengths that differ.

    >>> import numpy as np
    >>> x, y = np.arange(10.0)[:, None], np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    >>> k_filter(x, y, 2)
    array([4, 5])
    """
    samples, classes = samples_of_classes(x, y)
    _whole("least", least, 0)
    kept = ~_redundant(samples, classes, k, chunk, itself, memory_mib, watch)
    _restore(samples, classes, kept, k, least, memory_mib)
    return like(kept.nonzero()[:, 0], x)


def _restore(samples: Tensor, classes: Tensor, kept: Tensor, k: int, least: int, memory_mib: int) -> None:
    """Keep so many of each class at least, and warn where the criterion leaves fewer."""
    counts, left = torch.bincount(classes), torch.bincount(classes[kept])
    short = (counts.clamp(max=least) > torch.nn.functional.pad(left, (0, len(counts) - len(left)))).nonzero()[:, 0]
    for code in short.tolist():
        kept[_nearest_to_others(samples, classes, kept, code, least, memory_mib)] = True
    if len(short):
        warnings.warn(
            f"k_filter: k = {k} leaves fewer than least = {least} samples of {len(short)} of {len(counts)} classes; so many of "
            "each are kept, those nearest to other classes; take a larger k, or least=0 to let them go",
            RuntimeWarning,
            stacklevel=3,
        )


def _redundant(
    samples: Tensor, classes: Tensor, k: int, chunk: int | None, itself: bool, memory_mib: int, watch: Watch = unwatched
) -> Tensor:
    _whole("k", k, 1)
    _whole("memory_mib", memory_mib, 1)
    if chunk is not None:
        _whole("chunk", chunk, 1)
    if k == 1 and itself:
        return torch.ones_like(classes, dtype=torch.bool)
    step = len(samples) if chunk is None else chunk
    parts = list(zip(samples.split(step), classes.split(step), strict=True))
    return redundant(parts, k - itself, memory_mib * 2**20, watch)


def _nearest_to_others(samples: Tensor, classes: Tensor, kept: Tensor, code: int, least: int, memory_mib: int) -> Tensor:
    """Of a class those removed that are nearest to another class, as many as it lacks."""
    removed, others = ((classes == code) & ~kept).nonzero()[:, 0], (classes != code).nonzero()[:, 0]
    lacking = least - int(((classes == code) & kept).sum())
    if not len(others):
        return removed[:lacking]
    distances = nearest(Points.of(samples, memory_mib * 2**20), removed, others, 1, memory_mib * 2**14)[0][:, 0]
    return removed[in_order(torch.zeros_like(removed), distances, removed)[:lacking]]


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")
