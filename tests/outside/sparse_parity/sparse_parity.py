"""Sparse parity: whether an even number of k bits out of n are set, the samples drawn anew in each epoch."""

from dataclasses import dataclass

import torch

from effdl.datasets.dataset import Dataset, Facts, Scaling
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.setting import Count, setting


@dataclass(frozen=True, eq=False)
class Anew(Samples):
    """Samples in whose place each epoch has others."""

    of: "SparseParity"

    def epoch(self, number, seed):
        return self.of.draw(len(self), seed).to(self.y.device)

    def take(self, index):
        return Anew(self.x[index], self.y[index], self.of)

    def to(self, device):
        return Anew(self.x.to(device), self.y.to(device), self.of)


@setting
class SparseParity(Dataset):
    """Bits −1 and 1; the class is whether the product of the first k is positive.

    samples: of an epoch and of the test split. bits: n. of_bits: k.
    """

    samples: Count = 2000
    bits: Count = 10
    of_bits: Count = 3
    scaling: Scaling = "none"

    def facts(self):
        train, val = self.split_sizes(self.samples)
        return Facts((self.bits,), "classes", 2, train, val, self.samples, self.batch_size, changes=True)

    def fingerprint(self):
        return f"parity of {self.of_bits} of {self.bits} bits, {self.samples} samples"

    def load(self):
        if self.of_bits > self.bits:
            raise DataError(f"dataset.of_bits={self.of_bits} is more than there are: dataset.bits={self.bits}")
        train = self.draw(self.samples, 1)
        return Anew(train.x, train.y, self), self.draw(self.samples, 2)

    def draw(self, samples, seed):
        x = torch.randint(0, 2, (samples, self.bits), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
        return Samples(x, (x[:, : self.of_bits].prod(1) > 0).long())
