"""What figure 5.21 shows and claims: mean entropies of selections by layer and epoch."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

LAYERS = {"linear1": "first", "linear2": "second", "linear3": "third"}
# Samples of each digit in MNIST's training set; those that the probe sees are a uniform draw of them.
DIGITS = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
PRIOR = float(-(DIGITS / DIGITS.sum() * np.log2(DIGITS / DIGITS.sum())).sum())


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds each layer's mean entropy before and after training, and the largest step upwards in depth and over time."""
    found = pd.DataFrame([entropies(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.join(found)


def entropies(series: Series | None) -> dict[str, float]:
    curves = [curve(series, f"selection_entropy/entropy/{layer}") for layer in LAYERS]
    before = [values[0][1] if values else float("nan") for values in curves]
    after = [values[-1][1] if values else float("nan") for values in curves]
    return {
        **{f"entropy_{name}_before": value for name, value in zip(LAYERS.values(), before, strict=True)},
        **{f"entropy_{name}": value for name, value in zip(LAYERS.values(), after, strict=True)},
        "worst_step": max(upper - lower for lower, upper in pairwise(after)),
        "least_fall": max(last - first for first, last in zip(before, after, strict=True)),
        "above_prior": max(after) - PRIOR,
    }


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By cell the entropies over epochs, and below them the validation loss; means over seeds."""
    cells = [cell for cell in declaration.cells(scale) if set(cell.at) == set(declaration.artefact.axes)]
    figure = Figure(figsize=(3.2 * len(cells), 4.6), layout="constrained")
    upper, lower = figure.subplots(2, len(cells), squeeze=False, height_ratios=[3, 2])
    for above, below, cell in zip(upper, lower, cells, strict=True):
        own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")]
        for i, layer in enumerate(LAYERS):
            _plot(above, own, f"selection_entropy/entropy/{layer}", color=f"C{i}", label=f"layer {i + 1}")
        above.axhline(PRIOR, color="0.6", linestyle=":", linewidth=1, label="all samples")
        _plot(below, own, "val/loss", color="0.3")
        below.set(xlabel="epochs", ylim=(0, None))
        above.set_title(", ".join(declaration.label(axis, level) for axis, level in cell.at.items()), loc="left", fontsize=8)
    upper[0].set_ylabel("entropy of selections, bits", fontsize=8)
    lower[0].set_ylabel("squared error (validation)", fontsize=8)
    upper[0].legend(frameon=False, fontsize=7)
    return figure


def _plot(axes, runs: pd.DataFrame, key: str, **style) -> None:
    points = [point for series in runs.get("series", []) for point in curve(series, key)]
    if points:
        means = pd.DataFrame(points, columns=["epoch", "value"]).groupby("epoch")["value"].mean()
        axes.plot(means.index, means, **style)
