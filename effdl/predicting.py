"""`effdl predictions`: what a finished run says of each pixel of a few images, in colours, beside images and labels."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effdl import config
from effdl.datasets.dataset import Dataset, split
from effdl.errors import ConfigError, DataError, disk_errors, shown
from effdl.objectives.objective import Objective, at_least_float32, confusion, unions
from effdl.records.networks import load_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Part = Literal["train", "val"]  # the test split is the run's own
Bytes = NDArray[np.uint8]
PICTURE = "predictions.png"
LEGEND_COLUMNS = 6


@dataclass(frozen=True)
class Shown:
    """An image (C, H, W) of 8 bits, its labels and what was predicted, (H, W) each, and "iou/k" and "miou" of it alone."""

    image: Tensor
    labels: Tensor
    predicted: Tensor
    scores: dict[str, float]


def palette() -> Bytes:
    """(256, 3): the colours of Pascal VOC's labels, 255 being the ignored one.

    Of label k = b₇…b₀ red takes bits b₀, b₃, b₆ from the highest place on, green b₁, b₄, b₇ and blue b₂, b₅. Source: VOCcode's
    VOClabelcolormap of the development kit (Everingham et al. 2010).
    """
    labels, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for place in range(3):
        for channel in range(3):
            bit = labels >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def coloured(labels: Tensor) -> Bytes:
    """(H, W) labels -> (H, W, 3) colours."""
    found: Bytes = palette()[labels.numpy()]
    return found


def predicted(path: Path, part: Part = "val", count: int = 6) -> tuple[list[Shown], Dataset]:
    """The first images of the run's training or validation samples, and the data set that names their classes.

    Raises:
        RecordError: no finished run there. ConfigError: it is not of pixels. DataError: no such samples, or other data.
    """
    network = load_network(path)
    stored: dict[str, Any] = json.loads((path / "spec.json").read_text())
    if stored["facts"]["targets"] != "pixels":
        raise ConfigError(f"{shown(path)}: its samples have one target each; a run on dataset=voc or garments is wanted")
    dataset, objective = (config.build_setting(stored["config"][group], group) for group in ("dataset", "objective"))
    if dataset.fingerprint() != stored.get("identity", {}).get("data"):
        raise DataError(f"{shown(path)}: the data that are here are not those of this run")
    train, val = split(dataset, dataset.load()[0], stored["config"]["seed"])
    samples = (val if part == "val" else train).tensors()
    if not len(samples):
        raise DataError(f"{shown(path)}: no validation samples (dataset.val_size=0): take --split train")
    pairs = zip(samples.x[:count].split(1), samples.y[:count].split(1), strict=True)
    return [_shown(network, objective, x, y) for x, y in pairs], dataset


def _shown(network: nn.Module, objective: Objective, x: Tensor, y: Tensor) -> Shown:
    """Of one image: x (1, C, H, W), y (1, H, W)."""
    with torch.no_grad():
        outputs = at_least_float32(network(x))
    decided, counts = objective.decide(outputs), y != objective.ignore_index
    scores = unions(confusion(y[counts], decided[counts], outputs.shape[1]))
    return Shown(x[0], y[0], decided[0], scores)


def write(path: Path, shown: list[Shown], dataset: Dataset) -> Path:
    """The picture's path, in the folder of the run. Raises RecordError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with disk_errors(path):
        FigureCanvasAgg(draw(shown, dataset)).print_figure(path / PICTURE, dpi=150, metadata={"Software": None})
    return path / PICTURE


def draw(shown: list[Shown], dataset: Dataset) -> "Figure":
    """A row for each image: it, its labels, the predictions with the IoU of each class below; at the foot the colours."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(6.6, 2.5 * len(shown) + 0.8), layout="constrained")
    grid = figure.subplots(len(shown), 3, squeeze=False)
    for axes, title in zip(grid[0], ("image", "labels", "predicted"), strict=True):
        axes.set_title(title, loc="left", fontsize=7)
    for row, one in zip(grid, shown, strict=True):
        pixels = one.image.permute(1, 2, 0).numpy()
        _panel(row[0], pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        _panel(row[1], coloured(one.labels))
        _panel(row[2], coloured(one.predicted))
        row[2].set_xlabel(told(one.scores), fontsize=6)
    there = sorted({int(k) for one in shown for y in (one.labels, one.predicted) for k in y.unique()})
    colours, ignored = palette() / 255, Objective.ignore_index
    names = ["ignored" if k == ignored else f"{k} {dataset.class_name(k)}" for k in there]
    patches = [Patch(facecolor=colours[k], edgecolor="0.4", label=name) for k, name in zip(there, names, strict=True)]
    columns = min(len(patches), LEGEND_COLUMNS)
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=6, frameon=False)
    return figure


def _panel(axes: "Axes", pixels: Bytes) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def told(scores: dict[str, float], in_line: int = 4) -> str:
    """mIoU of an image, and by class, in percent."""
    parts = [f"{name.removeprefix('iou/')}: {100 * value:.0f}" for name, value in scores.items() if name != "miou"]
    lines = [", ".join(parts[i : i + in_line]) for i in range(0, len(parts), in_line)]
    return "\n".join([f"mIoU {100 * scores['miou']:.1f}%", *lines])


def to_json(path: Path, shown: list[Shown]) -> dict[str, Any]:
    return {"picture": str(path), "images": [one.scores for one in shown]}


def text(path: Path, shown: list[Shown]) -> str:
    of_each = ", ".join(f"{100 * one.scores['miou']:.1f}%" for one in shown)
    return f"{path}\nmIoU of each image alone: {of_each}"
