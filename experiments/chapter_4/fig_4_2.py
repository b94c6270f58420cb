"""What figure 4.2 shows and claims: histograms of output deltas before training and at the start of the fourth epoch."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from effdl.reproduce.series import Series, lists

TARGETS = {"softmax": 1.0, "exp": 6.0, "pow3": 10.0}  # of the right class
OUTPUTS = 10
NEAR = 1.0


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds range and RMS of the deltas at both looks, and which share of the right classes' lies within 1 of −target."""
    rows = [
        numbers(series, TARGETS[output])
        for series, output in zip(runs.get("series", [None] * len(runs)), runs["output"], strict=True)
    ]
    return runs.join(pd.DataFrame(rows, index=runs.index))


def numbers(series: Series | None, target: float) -> dict[str, float]:
    looks = [at_look(series, which) for which in (0, -1)]
    (low, high, rms, near), (low_after, high_after, rms_after, near_after) = (
        (of["min"], of["max"], of["rms"], clustered(of["bins"], target)) for of in looks
    )
    return {
        "delta_min_before": low,
        "delta_max_before": high,
        "delta_rms_before": rms,
        "clustered_before": near,
        "delta_min_after": low_after,
        "delta_max_after": high_after,
        "delta_rms": rms_after,
        "clustered_after": near_after,
        "delta_min": min(low, low_after),
        "delta_max": max(high, high_after),
    }


def at_look(series: Series | None, which: int) -> dict:
    """Of the first look (0) or the last (−1): "min", "max", "rms", and "bins", rows of lower edge, upper edge and count."""
    found = {name: lists(series, f"output_deltas/{name}") for name in ("min", "max", "rms", "low", "high", "count")}
    if not found["count"]:
        return {"min": np.nan, "max": np.nan, "rms": np.nan, "bins": np.empty((3, 0))}
    epoch = sorted(found["count"])[which]
    single = {name: float(found[name][epoch][0]) for name in ("min", "max", "rms")}
    return {**single, "bins": np.array([found[name][epoch] for name in ("low", "high", "count")])}


def clustered(bins: NDArray[np.float64], target: float) -> float:
    """The share of the right classes' deltas, a tenth of all, that lies within 1 of the negated target, by the middles of bins;
    at most 1, where others lie there too."""
    low, high, count = bins
    middle = (low + high) / 2
    total = count.sum()
    return float(min(1.0, count[np.abs(middle + target) <= NEAR].sum() * OUTPUTS / total)) if total else float("nan")


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Of each output's first seed the histogram before training, and below it that of the fourth epoch's start."""
    outputs = list(declaration.artefact.axes["output"])
    figure = Figure(figsize=(3.2 * len(outputs), 4.6), layout="constrained")
    grid = figure.subplots(2, len(outputs), squeeze=False)
    for column, output in zip(grid.T, outputs, strict=True):
        own = runs[(runs["cell"] == f"output={output}") & (runs["status"] == "finished")].sort_values("seed")
        for axes, which, when in zip(column, (0, -1), ("before training", "start of epoch 4"), strict=True):
            if len(own):
                low, high, count = at_look(own.iloc[0]["series"], which)["bins"]
                axes.bar(low, count, high - low, align="edge", color="0.4")
            axes.set_yscale("log")
            axes.set_title(f"{declaration.label('output', output)}, {when}", loc="left", fontsize=8)
            axes.tick_params(labelsize=7)
        column[1].set_xlabel("error delta", fontsize=8)
    return figure
