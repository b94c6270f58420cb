"""Scenes of several garments of Fashion-MNIST, each pixel with its label: segmentation of real images, made of single ones."""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from effdl.datasets.dataset import Dataset, Facts
from effdl.datasets.idx import Idx
from effdl.datasets.masked import Masked
from effdl.datasets.split import Samples
from effdl.setting import Count, Size, Switch, setting

SHOWS = 24  # of 255: from here on a pixel is of the garment; the background of the images is 0
IGNORED = 255


@setting
class Garments(Dataset):
    """Square grey images in which garments lie at random places, later ones over earlier ones. A pixel's label is 0 on the
    background, else 1 + the class of the garment; borders of garments, a pixel wide as VOC has them, are 255 and ignored.

    side: pixels. garments: in each scene. train_scenes, test_scenes: how many, of images of Fashion-MNIST's own training and
    test split; always the same. Scenes are made by effdl's own rule, so that numbers compare with no one else's.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root", "download"})

    batch_size: Count = 16
    val_size: Size = 100
    side: Count = 64
    garments: Count = 3
    train_scenes: Count = 2000
    test_scenes: Count = 500
    root: str | None = None
    download: Switch = False

    @property
    def test_size(self) -> int:
        return self.test_scenes

    def __post_init__(self) -> None:
        if self.side < 28:
            raise ValueError(f"dataset.side={self.side}: garments have 28 pixels a side, so that scenes have as many or more")

    def class_name(self, label: int) -> str:
        return "background" if label == 0 else f"garment {label - 1}"

    def facts(self) -> Facts:
        sizes = self.split_sizes(self.train_scenes)
        return Facts((1, self.side, self.side), "pixels", 11, *sizes, self.test_scenes, self.batch_size)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def load(self) -> tuple[Masked, Masked]:
        train, test = self._source.load()
        return self._scenes(train, self.train_scenes, seed=1), self._scenes(test, self.test_scenes, seed=2)

    @property
    def _source(self) -> Idx:
        return replace(Idx(variant="FashionMNIST"), root=self.root, download=self.download)

    def _scenes(self, images: Samples, count: int, seed: int) -> Masked:
        generator = torch.Generator().manual_seed(seed)
        x = torch.zeros(count, self.side, self.side, dtype=torch.uint8)
        y = torch.zeros(count, self.side, self.side, dtype=torch.uint8)
        for scene in range(count):
            which = torch.randint(len(images), (self.garments,), generator=generator)
            places = torch.randint(self.side - 27, (self.garments, 2), generator=generator).tolist()
            for image, (row, column) in zip(which, places, strict=True):
                part = scene, slice(row, row + 28), slice(column, column + 28)
                garment = images.x[image, 0]
                mine = garment >= SHOWS
                x[part] = torch.where(mine, garment, x[part])
                y[part] = torch.where(mine, (1 + images.y[image]).to(torch.uint8), y[part])
        return Masked(x[:, None], y.masked_fill(borders(y), IGNORED))


def borders(y: Tensor) -> Tensor:
    """Of labels (N, H, W) where one of the four neighbours has another: (N, H, W) booleans."""
    down, right = (F.pad(y[:, 1:] != y[:, :-1], (0, 0, 0, 1)), F.pad(y[:, :, 1:] != y[:, :, :-1], (0, 1)))
    return down | right | F.pad(down[:, :-1], (0, 0, 1, 0)) | F.pad(right[:, :, :-1], (1, 0))
