"""A small set in the very folders and files of Pascal VOC 2012 and SBD: squares of 20 "classes" on a background."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from effdl.datasets.voc import CLASSES, SBD, VOC

COLOURS = np.random.default_rng(0).integers(40, 255, (len(CLASSES), 3)).astype(np.uint8)
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def scene(number: int, side: int = 40) -> tuple[Bytes, Bytes]:
    """(side + 8, side, 3) pixels, one square of the colour of each of two classes, and their labels, 255 around a square."""
    chance = np.random.default_rng([7, number])
    pixels = chance.integers(0, 30, (side + 8, side, 3)).astype(np.uint8)
    labels = np.zeros((side + 8, side), np.uint8)
    for place, label in enumerate((1 + number % 20, 1 + (number + 7) % 20)):
        top, left = 6 + 20 * place, int(chance.integers(2, side - 18))
        labels[top - 1 : top + 15, left - 1 : left + 15] = 255
        labels[top : top + 14, left : left + 14] = label
        pixels[top : top + 14, left : left + 14] = COLOURS[label] - chance.integers(0, 30, (14, 14, 3)).astype(np.uint8)
    return pixels, labels


def voc(root: Path, train: int = 20, val: int = 10, sbd: int = 10) -> Path:
    """Images 0 to train of the training list, further ones of the validation list and of SBD's, which names one of each too."""
    names = [f"2008_{number:06d}" for number in range(train + val + sbd)]
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / VOC / folder).mkdir(parents=True)
    (root / SBD / "cls").mkdir(parents=True)
    for number, name in enumerate(names):
        pixels, labels = scene(number)
        Image.fromarray(pixels).save(root / VOC / "JPEGImages" / f"{name}.jpg", quality=95)
        if number < train + val:
            picture = Image.fromarray(labels, "P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(root / VOC / "SegmentationClass" / f"{name}.png")
        else:
            content = np.array([(labels,)], dtype=[("Segmentation", object)])
            savemat(root / SBD / "cls" / f"{name}.mat", {"GTcls": content})
    lists = {"train": names[:train], "val": names[train : train + val]}
    for part, some in lists.items():
        (root / VOC / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(some) + "\n")
    (root / SBD / "train.txt").write_text("\n".join([names[0], names[train], *names[train + val :]]) + "\n")
    (root / SBD / "val.txt").write_text(names[1] + "\n")
    return root
