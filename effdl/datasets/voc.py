"""Pascal VOC 2012 for semantic segmentation, with the labels of the Semantic Boundaries Dataset beside its own (§4.13)."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from effdl.datasets.dataset import Dataset, Facts
from effdl.datasets.decoding import Decoder, Pixels
from effdl.datasets.files import sets_folder
from effdl.datasets.fingerprints import fingerprint
from effdl.datasets.masked import Masked
from effdl.datasets.reading import reading
from effdl.datasets.streamed import CPU, Images, Streamed
from effdl.errors import DataError, shown
from effdl.setting import Count, NonNegative, Size, setting

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CLASSES = (
    *(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
    ),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC, SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
LISTS = {"train": f"{VOC}/ImageSets/Segmentation/train.txt", "val": f"{VOC}/ImageSets/Segmentation/val.txt"}
FETCH = {
    VOC: "VOCtrainval_11-May-2012.tar of the PASCAL VOC 2012 page, or torchvision's VOCSegmentation, brings it",
    SBD: "benchmark.tgz of the Semantic Boundaries Dataset, or torchvision's SBDataset, brings it; or dataset.sbd=none",
}
AND_SBD: dict[str, tuple[str, ...]] = {"none": (), "train": ("train",), "all": ("train", "val")}


@setting
class Voc(Dataset):
    """Photographs of which each pixel is background, one of 20 kinds of objects, or, on their borders, 255, which is ignored.

    Lies as it unpacks: <root>/VOCdevkit/VOC2012/JPEGImages, SegmentationClass and ImageSets/Segmentation, and beside it
    <root>/benchmark_RELEASE/dataset/cls, train.txt and val.txt of the Semantic Boundaries Dataset (SBD, Hariharan et al. 2011).

    sbd: whose labels are added: "train", those of its training list, 8,498 images as in §4.13; "all", those of both its lists,
        which most others take; "none". No image of VOC's validation list is among them, and where both label one, VOC's stand.
    size: pixels a side; §4.13 has 224. The image is made as `decoding.Decoder` makes it, its labels by the nearest pixel.
    memory_mib: the most that images and labels, a byte for each value, may take in memory, where all of them lie.

    The test split is VOC's validation list, 1,449 images, since labels of its test images are kept by its authors alone; the
    validation split, 100 in §4.13, comes out of the training images.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root", "memory_mib", "workers"})

    batch_size: Count = 5
    val_size: Size = 100
    root: str | None = None
    size: Count = 224
    sbd: Literal["none", "train", "all"] = "train"
    memory_mib: NonNegative = 4096.0
    workers: Size = 0

    def class_name(self, label: int) -> str:
        return CLASSES[label]

    def facts(self) -> Facts:
        train, test = self._names()
        sizes = self.split_sizes(len(train))
        return Facts((3, self.size, self.size), "pixels", len(CLASSES), *sizes, len(test), self.batch_size)

    def fingerprint(self) -> str:
        """A hash over those of all images and labels, and of the lists."""
        train, test = self._names()
        named = [self._image(name) for name in (*train, *test)] + [*train.values(), *test.values()]
        return hashlib.sha256("\n".join([fingerprint(self.folder, named), *train, "", *test]).encode()).hexdigest()

    def load(self) -> tuple[Masked, Masked]:
        names = self._names()
        needed = sum(map(len, names)) * 4 * self.size**2 / 2**20
        if needed > self.memory_mib:
            raise DataError(
                f"images and labels of {self.size} pixels take {needed:,.0f} MiB, above dataset.memory_mib={self.memory_mib:g}"
                ": raise it, or lower dataset.size"
            )
        train, test = (self._split(of_split) for of_split in names)
        return train, test

    @property
    def folder(self) -> Path:
        return sets_folder(self.root)

    def _image(self, name: str) -> str:
        return f"{VOC}/JPEGImages/{name}.jpg"

    def _names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Of training and test images by name the file of their labels. Raises DataError where a piece is missing."""
        train, test = ({name: f"{VOC}/SegmentationClass/{name}.png" for name in self._list(LISTS[part])} for part in LISTS)
        if both := sorted(train.keys() & test.keys()):
            raise DataError(f"{shown(self.folder / LISTS['train'])}: {shown(both[0])} is in val.txt as well: fetch both again")
        for part in AND_SBD[self.sbd]:
            for name in self._list(f"{SBD}/{part}.txt"):
                if name not in train and name not in test:
                    train[name] = f"{SBD}/cls/{name}.mat"
        wanted = [file for name, labels in (train | test).items() for file in (self._image(name), labels)]
        there = {str(Path(file).parent) for file in wanted}
        found = {f"{place}/{name.name}" for place in sorted(there) for name in self._within(place)}
        if lost := [file for file in wanted if file not in found]:
            raise self._missing(lost[0], f" with {len(lost) - 1:,} more" if len(lost) > 1 else "")
        return train, test

    def _within(self, place: str) -> list[Path]:
        return [*(self.folder / place).iterdir()] if (self.folder / place).is_dir() else []

    def _list(self, file: str) -> list[str]:
        if not (self.folder / file).is_file():
            raise self._missing(file)
        with reading(self.folder / file) as opened:
            names = opened.read().decode(errors="replace").split()
        if not names or any("/" in name for name in names):
            raise DataError(f"{shown(self.folder / file)} is no list of images' names, a line each: fetch it again")
        return names

    def _missing(self, file: str, more: str = "") -> DataError:
        part = VOC if file.startswith(VOC) else SBD
        what = "Pascal VOC 2012" if part == VOC else "the labels of SBD"
        return DataError(
            f"{what} under {shown(self.folder)}: {shown(file)}{more} is missing: point dataset.root or EFFDL_DATA to the "
            f"folder that holds {part.split('/')[0]}/; {FETCH[part]}"
        )

    def _split(self, names: dict[str, str]) -> Masked:
        source = Pairs(str(self.folder), tuple((self._image(name), labels) for name, labels in names.items()))
        positions = torch.arange(len(names))
        images = Images(source, Labelled(self.size), advice="fetch it again")
        split = Streamed(images, positions, positions, workers=self.workers, fits=True).to(CPU).tensors()
        return Masked(split.x[:, :3], split.x[:, 3])


@dataclass(frozen=True)
class Pairs:
    """Files of images and of their labels, by their place in a list of both names, relative to a folder."""

    folder: str
    names: tuple[tuple[str, str], ...]

    def read(self, position: int) -> bytes:
        """How long the image's file is, in eight bytes, that file, and that of the labels."""
        image, labels = (Path(self.folder, name).read_bytes() for name in self.names[position])
        return len(image).to_bytes(8, "big") + image + labels

    def name(self, position: int) -> str:
        return shown(f"{self.folder}/{self.names[position][1]}")


@dataclass(frozen=True)
class Labelled:
    """What is made of an image and its labels, a palette PNG or SBD's .mat: (4, size, size), of which the last are the labels.

    The image as `Decoder` makes it, the labels by the same rule, each from the nearest pixel.
    """

    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return 4, self.size, self.size

    def __call__(self, data: bytes) -> Pixels:
        """Raises ValueError for labels of another size than the image, for a file that has colours in the place of classes, and
        for labels that are no classes."""
        from PIL import Image

        start = 8 + int.from_bytes(data[:8], "big")
        image, labels = data[8:start], data[start:]
        found = _of_mat(labels) if labels.startswith(b"MATLAB") else _of_png(labels)
        with Image.open(BytesIO(image)) as opened:
            if opened.size != found.shape[::-1]:
                of_labels, of_image = (f"{size[0]}×{size[1]}" for size in (found.shape[::-1], opened.size))
                raise ValueError(f"its labels are {of_labels} pixels and its image {of_image}")
        if len(wrong := np.unique(found[(found >= len(CLASSES)) & (found != 255)])):
            raise ValueError(f"it has label {wrong[0]}, and classes are 0 to {len(CLASSES) - 1}, 255 for none")
        return np.concatenate([Decoder(self.size)(image), self._cut_out(Image.fromarray(found))[None]])

    def _cut_out(self, labels: "Picture") -> Pixels:
        from PIL import Image

        size, short = self.size, min(labels.size)
        width, height = (size if side == short else int(size * side / short) for side in labels.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(labels.resize((width, height), Image.Resampling.NEAREST))[top : top + size, left : left + size]


def _of_png(data: bytes) -> Pixels:
    from PIL import Image

    with Image.open(BytesIO(data)) as opened:
        if opened.mode not in ("P", "L"):
            raise ValueError(f"it has colours ({opened.mode}) and not the numbers of classes, as a palette PNG has")
        return np.asarray(opened, np.uint8)


def _of_mat(data: bytes) -> Pixels:
    from scipy.io import loadmat

    found: Any = loadmat(BytesIO(data))["GTcls"]["Segmentation"][0, 0]
    return np.asarray(found, np.uint8)
