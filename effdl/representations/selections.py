"""What features select (thesis §5.5.4): class distributions and entropies of the samples that an activation lets through."""

from dataclasses import dataclass
from typing import Any

import torch

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
    n, f = activations.shape
    counts = torch.zeros(f, int(classes.max()) + 1, dtype=torch.long, device=classes.device)
    for start in range(0, n, step := max(1, FEATURES // f)):
        part = activations[start : start + step]
        if bool(torch.isnan(part).any()):
            raise ValueError("z has features that are NaN: drop or mend these samples first")
        counts.T.index_add_(0, classes[start : start + step], (part > threshold).long())
    entropies = entropy(counts)
    heard = entropies[counts.sum(1) > 0]
    mean = float(heard.mean()) if len(heard) else float("nan")
    return Selections(like(counts, z), like(entropies, z), mean, f - len(heard))
