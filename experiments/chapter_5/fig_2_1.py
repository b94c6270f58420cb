"""What figure 2.1 shows: a network of three inputs, four hidden units and two outputs, with weights that it has learned."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, lists

WIDTHS = {"linear1": 4, "head": 2}
POSITIVE, NEGATIVE = "tab:blue", "tab:red"


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds how many weights and biases the network has; NaN of runs that recorded none."""
    found = [layers(series) for series in runs.get("series", [None] * len(runs))]
    counts = [sum(w.size + b.size for w, b in one) if one else np.nan for one in found]
    return runs.assign(parameters=np.array(counts, dtype=float))


def layers(series: Series | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (out, in) and biases (out,) after training, from the bottom up."""
    looks = [[lists(series, f"weights/{name}/{row}") for row in (*range(n), "bias")] for name, n in WIDTHS.items()]
    if not all(look for of_layer in looks for look in of_layer):
        return []
    found = [[look[max(look)] for look in of_layer] for of_layer in looks]
    return [(np.stack(weights), bias) for *weights, bias in found]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Of the first seed; edges as wide as their weights."""
    own = runs[runs["status"] == "finished"].sort_values("seed")
    network = layers(own.iloc[0]["series"] if len(own) else None)
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set(xlim=(-0.35, 2.35), ylim=(-1.35, 1.35))
    widths = [3, *WIDTHS.values()]
    columns = [[(x, y) for y in np.linspace(0.3, -0.3, n) * (n - 1)] for x, n in enumerate(widths)]
    for i, (weights, _) in enumerate(network):
        for unit, row in zip(columns[i + 1], weights, strict=True):
            for place, weight in zip(columns[i], row, strict=True):
                ink = {
                    "color": POSITIVE if weight > 0 else NEGATIVE,
                    "linewidth": 0.4 + 3 * abs(weight) / np.abs(weights).max(),
                }
                axes.plot(*zip(place, unit, strict=True), alpha=0.8, solid_capstyle="round", zorder=1, **ink)
    for letter, column in zip("xzy", columns, strict=True):
        for i, (x, y) in enumerate(column):
            axes.plot(x, y, "o", markersize=30, markerfacecolor="white", markeredgecolor="black", zorder=2)
            name = f"\\hat{{y}}_{{{i + 1}}}" if letter == "y" else f"{letter}_{{{i + 1}}}"
            axes.text(x, y, f"${name}$", ha="center", va="center", fontsize=12, zorder=3)
    for x, text in ((0.5, "$W_1$, 3 × 4"), (1.5, "$W_2$, 4 × 2")):
        axes.text(x, -1.25, text, ha="center", fontsize=10)
    for x, text in ((0, "inputs"), (1, "hidden layer"), (2, "outputs")):
        axes.text(x, 1.25, text, ha="center", fontsize=10)
    return figure
