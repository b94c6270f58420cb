"""Small sets in the very folders and files in which CINIC-10, Oxford-IIIT Pet and Oxford 102 Flower are published."""

from pathlib import Path
from typing import Any

import numpy as np
from picture import encoded
from scipy.io import savemat

CINIC = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BREEDS = [f"Breed_{chr(97 + i % 26)}{i}" if i % 2 else f"cat{i}" for i in range(37)]
KINDS = 102


def image(label: int, seed: int, height: int, width: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """(height, width, 3): one colour for each label, under noise."""
    colour = np.random.default_rng(label).integers(30, 190, 3)
    noise = np.random.default_rng([label, seed]).integers(0, 60, (height, width, 3))
    return (colour + noise).astype(np.uint8)


def cinic10(root: Path, train: int = 3, valid: int = 2, test: int = 2) -> Path:
    for split, count in {"train": train, "valid": valid, "test": test}.items():
        for label, name in enumerate(CINIC):
            folder = root / "CINIC-10" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                called = f"cifar10-train-{i}.png" if i % 2 else f"n0{label}-{i}.png"
                (folder / called).write_bytes(encoded(image(label, 100 * len(split) + i + 7 * ord(split[0]), 32, 32)))
    return root / "CINIC-10"


def pets(root: Path, trainval: int = 2, test: int = 1) -> Path:
    """Of many sizes, some grey, and some other kinds of files under the name of a JPEG, as there are in the published set."""
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, breed in enumerate(BREEDS):
        for i in range(trainval + test):
            pixels = image(label, i, 20 + label % 5, 30 - label % 13)
            kind = "PNG" if (label + i) % 11 == 0 else "JPEG"
            data = encoded(pixels[..., 0] if (label, i) == (5, 0) else pixels, kind)
            (folder / "images" / f"{breed}_{i + 1}.jpg").write_bytes(data)
            lines["test" if i >= trainval else "trainval"].append(f"{breed}_{i + 1} {label + 1} {2 - label % 2} 1")
    (folder / "images" / f"{BREEDS[0]}_1.mat").write_bytes(b"not an image")
    for split, some in lines.items():
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(some) + "\n")
    return folder


def flowers(root: Path, each: int = 3) -> Path:
    """Images in an order that has nothing to do with their labels, in the three published splits in turn."""
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1, KINDS + 1), each))
    splits: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    seen = dict.fromkeys(range(1, KINDS + 1), 0)
    for number, label in enumerate(labels.tolist(), 1):
        (folder / "jpg" / f"image_{number:05d}.jpg").write_bytes(encoded(image(label, number, 18, 16 + number % 9), "JPEG"))
        [*splits.values()][seen[label] % 3].append(number)
        seen[label] += 1
    write_splits(folder, **splits)
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    return folder


def write_splits(folder: Path, **splits: list[int]) -> None:
    shuffled = {name: np.random.default_rng(1).permutation(ids)[None].astype(np.uint16) for name, ids in splits.items()}
    savemat(folder / "setid.mat", shuffled)
