"""Sketches of weights, from which distances between states of a network can be told afterwards (thesis §6.6.1)."""

from typing import ClassVar

import torch
from torch import Generator, Tensor

from effdl.probes.matrices import matrices, with_head
from effdl.probes.probe import Probe
from effdl.rng import seed_for
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class WeightSketch(Probe):
    """``<layer>``: of each weight matrix a list of numbers, see `count_sketch`, the same sums at each look and in each run.

    How far a layer is from where it ends is known only when it has ended, and weights of all looks would be too much to keep.
    The distance of two sketches is that of the weights, up to an error of about 1 / √(2·size) of it: 6% at 128.

    size: numbers of each; of a matrix with no more weights, the weights themselves.
    """

    begins: ClassVar[bool] = True

    size: Count = 128

    def measure(self, look: Look) -> dict[str, list[float]]:
        return {name: count_sketch(w, self.size).tolist() for name, w in matrices(with_head(look)).items()}


def count_sketch(weight: Tensor, size: int) -> Tensor:
    """(size,) in float64: sums of weights, each of which goes into one of them by chance, and with a sign by chance, both of
    which depend on the number of weights alone (Charikar, Chen and Farach-Colton 2002).

    Linear in the weights. The expectation of its squared norm is theirs, ‖w‖², and its variance at most 2‖w‖⁴ / size. Up to
    ``size`` weights, it is (n,), the weights themselves.
    """
    w = weight.detach().double().flatten().cpu()
    if len(w) <= size:
        return w
    generator = Generator().manual_seed(seed_for(0, "weight_sketch", len(w)))
    place = torch.randint(size, w.shape, generator=generator)
    sign = 2 * torch.randint(2, w.shape, generator=generator) - 1
    return torch.zeros(size, dtype=torch.float64).index_add_(0, place, sign * w)
