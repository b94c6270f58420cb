"""What figure 5.9 shows and claims: how far classes have parted in the first two components of each layer."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, lists

LAYERS = {"input": "input", "conv2": "layer 2", "conv4": "layer 4", "conv6": "layer 6", "conv8": "layer 8", "output": "output"}
CLASSES = {0: "airplane", 1: "automobile", 2: "bird", 3: "cat"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds by layer the share of samples nearest to the mean of their class, the lowest step between pictures, and the gain."""
    found = pd.DataFrame([parted(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.join(found)


def parted(series: Series | None) -> dict[str, float]:
    shares = {layer: nearest_to_mean(*plane(series, layer)) for layer in LAYERS}
    values = list(shares.values())
    steps = [upper - lower for lower, upper in pairwise(values)]
    return {**shares, "lowest_step": min(steps), "gain": values[-1] - values[0]}


def plane(series: Series | None, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Of a layer's last picture (n, 2) samples of the four classes, and (n,) their classes."""
    x, y, labels = (last(series, f"principal_components/{key}") for key in (f"x/{layer}", f"y/{layer}", "class"))
    known = np.isin(labels, list(CLASSES)) if len(x) == len(labels) else np.zeros(len(x), bool)
    return np.column_stack([x, y])[known], labels[known] if len(known) == len(labels) else labels[:0]


def last(series: Series | None, key: str) -> np.ndarray:
    """The list of the last epoch that has one."""
    looks = lists(series, key)
    return looks[max(looks)] if looks else np.empty(0)


def nearest_to_mean(points: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples that the mean of their own class is nearest to; NaN of none."""
    if not len(points):
        return float("nan")
    means = np.stack([points[labels == label].mean(0) for label in np.unique(labels)])
    nearest = np.unique(labels)[((points[:, None] - means) ** 2).sum(-1).argmin(1)]
    return float((nearest == labels).mean())


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The first seed's samples in the plane of each layer's components."""
    cell = declaration.cells(scale)[0]
    own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")].sort_values("seed")
    series = own.iloc[0]["series"] if len(own) else None
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    for axes, (layer, title) in zip(figure.subplots(2, 3).flat, LAYERS.items(), strict=True):
        points, labels = plane(series, layer)
        for label, name in CLASSES.items():
            axes.plot(*points[labels == label].T, ".", markersize=4, label=name)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{title}: {nearest_to_mean(points, labels):.0%} nearest to their mean", loc="left", fontsize=8)
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure
