"""What features select (thesis §5.5.4): class distributions and entropies of the samples that an activation lets through."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effdl.neighbours.entropy import entropy
from effdl.neighbours.given import Values, like, samples_of_classes

FEATURES = 2**22  # decisions that are counted at once


@dataclass(frozen=True, eq=False)
class Selections:
    """What each of f features selects of n samples.

    counts (f, c): selected samples of each class, in the classes' order. entropies (f,): of these distributions, H(Y|S₊) in
    bits, from 0 to log2 c; NaN where a feature selects nothing. entropy: their mean over features that select something, which
    figure 5.21 has layer by layer. silent: features that select nothing.
    """

    counts: Any
    entropies: Any
    entropy: float
    silent: int


def selections(z: Values, y: Values, *, threshold: float = 0.0) -> Selections:
    """Class distributions and entropies of the selections S₊(z_j) = {i: z_ij > threshold} of features z_j.

    These are the thesis's "conditional entropies of features". They are entropies of classes among what is selected, not the
    H(Y|Z) of information theory, which no layer can lower (eq. 5.6).

    Args:
        z: (n, ...) activations, flattened to f features, after a ReLU or before it; of output layers before their units.
        y: (n,) classes, numbers or names.
        threshold: above it an activation is outside the flat region: 0 for ReLU.

    Raises:
        ValueError: NaN features, or lengths that differ.

    >>> import numpy as np
    >>> found = selections(np.array([[1.0, 0.5], [2.0, 0.0], [0.0, 3.0], [-1.0, 4.0]]), np.array(["a", "a", "a", "b"]))
    >>> found.counts
    array([[2, 0],
           [2, 1]])
    >>> found.entropies.round(3)
    array([0.   , 0.918])
    """
    activations, classes = samples_of_classes(z, y)
    counts = activations.new_zeros(activations.shape[1], int(classes.max()) + 1, dtype=torch.float64)
    count_selected(counts, activations, classes, threshold)
    if bool(torch.isnan(counts).any()):
        raise ValueError("z has features that are NaN: drop or mend these samples first")
    found = of_counts(counts)
    return Selections(like(found.counts, z), like(found.entropies, z), found.entropy, found.silent)


def count_selected(counts: Tensor, z: Tensor, y: Tensor, threshold: float = 0.0) -> None:
    """Add to counts (f, c), in float64, the samples of each class that each feature selects of z (n, f) and y (n,).

    A feature that is NaN on a sample has no counts from then on: they are NaN.
    """
    for start in range(0, len(z), step := max(1, FEATURES // z.shape[1])):
        part = z[start : start + step]
        counts.T.index_add_(0, y[start : start + step], (part > threshold).double())
        counts[torch.isnan(part).any(0)] = torch.nan


def of_counts(counts: Tensor) -> Selections:
    """Of samples of each class (f, c) that each feature selects; all in tensors."""
    entropies = entropy(counts)
    heard = entropies[counts.sum(1) > 0]
    mean = float(heard.mean()) if len(heard) else float("nan")
    return Selections(counts.long(), entropies, mean, len(counts) - len(heard))
