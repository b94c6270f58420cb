"""Toy problems of the theses, drawn from their formulas."""

import math

import torch

from effdl.datasets.problem import Dataset, Facts, Samples
from effdl.rng import seed_for
from effdl.setting import Count, setting

DRAW = 0  # the data are one fixed draw; the run's seed does not move them


@setting
class Sine(Dataset):
    """y = sin 2πx, two periods with x uniform on (−1, 1) (thesis §7.5): real targets, shapes x (N, 1), y (N, 1).

    samples: training samples, 5,000 in the thesis, which prints training numbers; the test split of as many is effdl's.
    """

    samples: Count = 5000

    def facts(self) -> Facts:
        train, val = self.split_sizes(self.samples)
        return Facts((1,), "vectors", 1, train, val, self.samples, self.batch_size, (-1.0, 1.0))

    def fingerprint(self) -> str:
        return f"formula: sin 2 pi x, {self.samples} samples"

    def load(self) -> tuple[Samples, Samples]:
        def draw(name: str) -> Samples:
            generator = torch.Generator().manual_seed(seed_for(DRAW, f"sine-{name}"))
            x = torch.rand(self.samples, 1, generator=generator) * 2 - 1
            return Samples(x, (2 * math.pi * x).sin())

        return draw("train"), draw("test")
