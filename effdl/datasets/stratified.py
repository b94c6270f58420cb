"""Which samples train and which validate, drawn class by class, so that rare classes stand in both."""

import torch
from torch import Tensor


def by_class(y: Tensor, order: Tensor, train: int, val: int) -> tuple[Tensor, Tensor] | None:
    """Positions of training and of validation samples, out of a random order of all; None where they are too few.

    Of each class the first in the order validate and those after them train: as large a share as of all samples, but one at
    least wherever there are two, and one at least is left to train.

    Args:
        y: (N,) classes. order: a permutation of N.
    """
    classes, of, counts = y.unique(return_inverse=True, return_counts=True)
    least = (counts > 1).long() if val else torch.zeros_like(counts)
    if train < len(classes) or not int(least.sum()) <= val <= int((counts - 1).sum()):
        return None
    validate = apportioned(val, counts, least, counts - 1)
    left = counts - validate
    learn = apportioned(train, left, torch.ones_like(left), left)
    place = _places(of[order], len(classes))
    validate, learn = validate[of[order]], learn[of[order]]
    return order[(place >= validate) & (place < validate + learn)], order[place < validate]


def lost(y: Tensor, train: Tensor, val: Tensor) -> list[int]:
    """The classes that are missing from what trains, or from what validates (if anything does) though there are two of them."""
    classes, counts = y.unique(return_counts=True)
    missing = ~torch.isin(classes, y[train])
    if len(val):
        missing |= ~torch.isin(classes, y[val]) & (counts > 1)
    found: list[int] = classes[missing].tolist()
    return found


def apportioned(total: int, counts: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Whole numbers (C,) that add up to ``total``, in proportion to ``counts``, each within its bounds.

    By largest remainders: each has the whole part of its share, and those farthest below it get one more. ``total`` must lie
    between the sums of ``least`` and ``most``.
    """
    share = counts.double() * total / counts.sum()
    given = share.long().clamp(least, most)
    while (short := total - int(given.sum())) != 0:
        step, bound = (1, most) if short > 0 else (-1, least)
        open_ = (given != bound).nonzero().flatten()
        far = (step * (share - given))[open_].sort(descending=True, stable=True).indices[: abs(short)]
        given[open_[far]] += step
    return given


def _places(of: Tensor, classes: int) -> Tensor:
    """Of each sample, how many of its class stand before it."""
    by_class = of.argsort(stable=True)
    counts = torch.bincount(of, minlength=classes)
    begins = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.empty_like(of)
    places[by_class] = torch.arange(len(of)) - begins
    return places
