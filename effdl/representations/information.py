"""Entropies of what representations tell apart, and of classes given it (thesis §5.3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.neighbours.entropy import entropy
from effdl.neighbours.given import Values, samples_of_classes

AT_ONCE = 2**22  # numbers


@dataclass(frozen=True)
class Information:
    """In bits, by the frequencies of n samples. entropy: H(Z), at most log2 n. conditional: H(Y|Z), at most H(Y).

    mutual: I(Y; Z) = H(Y) − H(Y|Z).
    """

    entropy: float
    conditional: float
    mutual: float


def information(z: Values, y: Values) -> Information:
    """What a discrete representation has of entropy, and of classes.

    Samples with equal features have one value of Z. Where all are distinct, as real features mostly are, H(Z) = log2 n and
    H(Y|Z) = 0 whatever they are: features want to be put into intervals before, see `in_intervals`.

    Args:
        z: (n, ...) samples, flattened. y: (n,) their classes, numbers or names.

    >>> import numpy as np
    >>> information(np.array([[0], [0], [1], [2]]), np.array(["a", "b", "a", "a"]))
    Information(entropy=1.5, conditional=0.5, mutual=0.31127812445913283)
    """
    samples, classes = samples_of_classes(z, y)
    return of_values(equal_rows(samples)[1], classes)


def of_values(value: Tensor, classes: Tensor) -> Information:
    """Of each sample's value of Z and class, as indices (n,)."""
    joint = torch.zeros(int(value.max()) + 1, int(classes.max()) + 1, dtype=torch.float64, device=value.device)
    joint.index_put_((value, classes), torch.ones_like(value, dtype=torch.float64), accumulate=True)
    sizes = joint.sum(1)
    conditional = float((sizes / sizes.sum() * entropy(joint).nan_to_num()).sum())
    return Information(float(entropy(sizes)), conditional, float(entropy(joint.sum(0))) - conditional)


def equal_rows(z: Tensor) -> tuple[Tensor, Tensor]:
    """Where each distinct row of z (n, ...) stands first, (u,), and which of these each row is, (n,).

    Rows are told apart by sums of their mixed bits times random odd numbers, modulo 2⁶⁴: that two of a million distinct ones
    have the same is less likely than one in a million. Comparing wide rows whole takes many times as long.
    """
    rows = (z if z.dtype in (torch.float32, torch.float64) else z.double()).flatten(1) + 0.0  # of 0 and -0 one
    as_bits = torch.int32 if rows.dtype == torch.float32 else torch.int64
    least, most = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    factors = torch.randint(least, most, (rows.shape[1],), generator=torch.Generator().manual_seed(0)) | 1
    factors = factors.to(z.device)
    step = max(1, AT_ONCE // rows.shape[1])
    sums = torch.cat([(_mixed(part.contiguous().view(as_bits).long()) * factors).sum(1) for part in rows.split(step)])
    which: Tensor = torch.unique(sums, return_inverse=True)[1]
    first = torch.full((int(which.max()) + 1,), len(z), device=z.device)
    return first.scatter_reduce_(0, which, torch.arange(len(z), device=z.device), "amin"), which


def _mixed(bits: Tensor) -> Tensor:
    """Of round numbers only the highest bits are set, of which products modulo 2⁶⁴ would keep little: all depend on all."""
    for shift in (32, 29):
        bits = (bits ^ (bits >> shift)) * -7046029254386353131  # 2⁶⁴ less which is the golden ratio's, odd
    return bits ^ (bits >> 32)


def in_intervals(z: Tensor, bins: int) -> Tensor:
    """Features at the middles of intervals of equal width, so many from the least of all values of z to the greatest."""
    least, most = z.aminmax()
    width = (most - least) / bins
    if not bool(width > 0):
        return z
    return least + (((z - least) / width).floor().clamp(0, bins - 1) + 0.5) * width
