"""What figures 5.18 to 5.20 show and claim: entropies of what single features of a layer select, over five epochs."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import published

# Of each figure the layer's name, and in the ids of what is printed of it
LAYERS = {"fig-5.18": ("linear1", "l1"), "fig-5.19": ("linear2", "l2"), "fig-5.20": ("output", "l3")}
EPOCHS = {"before": "epoch0", "after": "epoch5"}
SHOWN = 2  # features


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds mean and range of the entropies of a layer's features before and after, and where what is printed lies."""
    layer, code = LAYERS[runs.attrs["artefact"]]
    printed = {when: float(published.claim(f"ch5.entropy_{code}_f1_{epoch}")["value"]) for when, epoch in EPOCHS.items()}
    rows = [numbers(series, layer, printed) for series in runs.get("series", [None] * len(runs))]
    return runs.join(pd.DataFrame(rows, index=runs.index))


def numbers(series: dict[str, list[list[float]]] | None, layer: str, printed: dict[str, float]) -> dict[str, float]:
    looks = by_epoch(series, f"selection_entropy/feature/{layer}")
    found: dict[str, float] = {}
    for when, values in zip(EPOCHS, [looks[min(looks)], looks[max(looks)]] if looks else [np.full(1, np.nan)] * 2, strict=True):
        known = values[~np.isnan(values)]
        lowest, highest = (known.min(), known.max()) if len(known) else (np.nan, np.nan)
        place = (known < printed[when]).mean() if len(known) else np.nan
        found |= {when: float(known.mean()) if len(known) else np.nan, f"place_{when}": float(place)}
        found |= {f"lowest_{when}": float(lowest), f"highest_{when}": float(highest)}
    return found | {"change": found["after"] - found["before"]}


def by_epoch(series: dict[str, list[list[float]]] | None, key: str) -> dict[int, np.ndarray]:
    """By epochs behind the list that was recorded, in its order; NaN where there was no number."""
    looks: dict[int, list[float]] = {}
    for _, epoch, value in series.get(key, []) if isinstance(series, dict) else []:
        looks.setdefault(int(epoch) + 1, []).append(np.nan if value is None else value)
    return {epoch: np.array(values) for epoch, values in sorted(looks.items())}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Of the first cell's first seed, the classes that two features select, epoch by epoch, with entropy and accuracy."""
    cell = declaration.cells(scale)[0]
    own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")].sort_values("seed")
    series: Any = own.iloc[0]["series"] if len(own) else {}
    layer, _ = LAYERS[declaration.artefact.id]
    entropy, accuracy = by_epoch(series, f"selection_entropy/feature/{layer}"), by_epoch(series, "val/acc")
    figure = Figure(figsize=(1.9 * max(len(entropy), 1), 2.1 * SHOWN), layout="constrained")
    grid = figure.subplots(SHOWN, max(len(entropy), 1), squeeze=False, sharex=True, sharey="row")
    for i, row in enumerate(grid):
        counts = by_epoch(series, f"selection_entropy/classes/{layer}/{i}")
        for axes, epoch in zip(row, entropy, strict=False):
            selected = counts[epoch]
            axes.bar(range(len(selected)), selected / max(selected.sum(), 1), color=f"C{i}")
            axes.set(xticks=range(len(selected)))
            axes.tick_params(labelsize=6)
            reached = f", {100 * accuracy[epoch][0]:.1f}%" if i == 0 and epoch in accuracy else ""
            axes.set_title(f"epoch {epoch}{reached}\n{entropy[epoch][i]:.2f} bits", loc="left", fontsize=7)
        row[0].set_ylabel(f"feature {i + 1}", fontsize=8)
    label = ", ".join(declaration.label(axis, level) for axis, level in cell.at.items())
    figure.suptitle(f"share of each class in what is selected; {label}", fontsize=8)
    return figure
