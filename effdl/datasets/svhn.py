"""Street View House Numbers, cropped digits, from its MATLAB files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdl.datasets.dataset import Facts
from effdl.datasets.files import Files
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.setting import Switch, setting


@setting
class Svhn(Files):
    """32×32 colour images of ten digits: <root>/SVHN/train_32x32.mat and test_32x32.mat, 73,257 + 26,032 images.

    extra: train on the 531,131 easier images of extra_32x32.mat too; the thesis does not say which of them it used (§6.7).
    Source: Netzer et al. 2011. The files write the digit 0 as class 10; here it is class 0.
    """

    extra: Switch = False

    @property
    def test_size(self) -> int:
        return 26_032

    @property
    def title(self) -> str:
        return "SVHN"

    @property
    def folder(self) -> Path:
        return self.parent / "SVHN"

    @property
    def files(self) -> tuple[str, ...]:
        return (*self._train, "test_32x32.mat")

    @property
    def _train(self) -> tuple[str, ...]:
        return ("train_32x32.mat", "extra_32x32.mat") if self.extra else ("train_32x32.mat",)

    def fetches(self) -> Any:
        for name in self.files:
            yield {"root": str(self.folder), "split": name.partition("_")[0]}

    def facts(self) -> Facts:
        train = sum(self._count(name) for name in self._train)
        return Facts((3, 32, 32), "classes", 10, *self.split_sizes(train), self._count("test_32x32.mat"), self.batch_size)

    def load(self) -> tuple[Samples, Samples]:
        parts = [self._samples(name) for name in self._train]
        train = Samples(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
        return train, self._samples("test_32x32.mat")

    def _count(self, name: str) -> int:
        """Images in a file, from the headers of its variables."""
        from scipy.io import whosmat

        shapes = {variable: shape for variable, shape, _ in self._read(name, whosmat)}
        x, y = shapes.get("X", ()), shapes.get("y", ())
        if x[:3] != (32, 32, 3) or len(x) != 4 or y != (x[3], 1):
            raise DataError(f"{self.path(name)} is not SVHN's: its variables are {shapes}, not X (32, 32, 3, n) and y (n, 1)")
        return int(x[3])

    def _samples(self, name: str) -> Samples:
        from scipy.io import loadmat

        self._count(name)
        content = self._read(name, loadmat)
        x = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)))
        return Samples(x, torch.from_numpy(content["y"].astype(np.int64).ravel()) % 10)

    def _read(self, name: str, reader: Any) -> Any:
        path = self.path(name)
        try:
            return reader(path)
        except Exception as error:  # scipy raises many kinds for a damaged file
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}; delete it and fetch it again") from None
