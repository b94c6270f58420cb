"""The handwritten digits that come with scikit-learn: real data without a download."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from effdl.datasets.dataset import Dataset, Facts
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.setting import Count, Size, setting

TEST = 355
SHA256 = "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"


@setting
class Digits(Dataset):
    """1,797 grey 8×8 images (values 0..16) of ten digits; 355 of them, the same in every run, are the test split.

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test file, as scikit-learn ships
    it. The set names no training split, so the test split here is effdl's own: every fifth image within its class.
    """

    batch_size: Count = 64
    val_size: Size = 242

    @property
    def test_size(self) -> int:
        return TEST

    def facts(self) -> Facts:
        train, val = self.split_sizes(1797 - TEST)
        return Facts((1, 8, 8), "classes", 10, train, val, TEST, self.batch_size)

    def fingerprint(self) -> str:
        return SHA256

    def load(self) -> tuple[Samples, Samples]:
        images, labels = _read()
        found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        if found != SHA256:
            raise DataError(f"scikit-learn's digits have checksum {found[:12]}, not {SHA256[:12]}: not the published set")
        samples = Samples(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))
        rank = torch.empty_like(samples.y)  # position of each image within its class
        for label in range(10):
            where = (samples.y == label).nonzero().flatten()
            rank[where] = torch.arange(len(where))
        test = rank % 5 == 4
        return samples.take(~test), samples.take(test)


@setting
class DigitsAutoencoder(Dataset):
    """The same images, each its own target: 64 pixels from 0 to 1, in rows (§5.3.4's one-to-one problem)."""

    batch_size: Count = 64
    val_size: Size = 242

    @property
    def test_size(self) -> int:
        return TEST

    def facts(self) -> Facts:
        train, val = self.split_sizes(1797 - TEST)
        return Facts((1, 8, 8), "vectors", 64, train, val, TEST, self.batch_size, (0.0, 1.0))

    def fingerprint(self) -> str:
        return SHA256

    def load(self) -> tuple[Samples, Samples]:
        train, test = (part.tensors() for part in Digits().load())
        return tuple(Samples(part.x, part.x.flatten(1).float() / 16) for part in (train, test))  # type: ignore[return-value]


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Images, n x 8 x 8, and labels, from the file that scikit-learn installs, and by its loader where that file is elsewhere.

    Importing the loader takes longer than reading, and than training a small network.
    """
    installed = find_spec("sklearn")
    if installed is not None and installed.origin is not None:
        path = Path(installed.origin).with_name("datasets") / "data" / "digits.csv.gz"
        if path.is_file():
            rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
