"""What is measured of the reasons for amplification: errors, and how often right answers are undone."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve, lists


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds error (fraction) of the test split; val_error after the last epoch; undone, of the training images that were
    right at a look the share that is wrong at the next, and mended, of the wrong ones the share that is right; means over
    epochs."""
    series = list(runs.get("series", [None] * len(runs)))
    error = 1 - runs.get("test/acc", pd.Series(index=runs.index, dtype=float))
    return runs.assign(error=error).join(pd.DataFrame([numbers(one) for one in series], index=runs.index))


def numbers(series: Series | None) -> dict[str, float]:
    points = curve(series, "val/acc")
    looks = [right > 0.5 for epoch, right in lists(series, "right_answers/right").items() if epoch > 0]
    undone = [share(~after, before) for before, after in pairwise(looks)]
    mended = [share(after, ~before) for before, after in pairwise(looks)]
    return {
        "val_error": 1 - points[-1][1] if points else float("nan"),
        "undone": mean(undone),
        "mended": mean(mended),
    }


def share(of: "np.ndarray", among: "np.ndarray") -> float:
    return float(of[among].mean()) if among.any() else float("nan")


def mean(shares: list[float]) -> float:
    """Over those that there are: where nothing was right, nothing can be undone."""
    return float(np.nanmean(shares)) if shares and not np.isnan(shares).all() else float("nan")


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Validation error over epochs, means over runs; and each run's share of right answers that are undone."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    outputs = list(declaration.artefact.axes["output"])
    for i, output in enumerate(outputs):
        own = runs[(runs["cell"] == f"output={output}") & (runs["status"] == "finished")]
        curves = [pd.Series(dict(curve(series, "val/acc")), dtype=float) for series in own.get("series", [])]
        if not curves:
            continue
        means = 100 * (1 - pd.concat(curves, axis=1).mean(axis=1))
        left.plot(means.index, means, color=f"C{i}", label=f"{declaration.label('output', output)} (n {len(own)})")
        right.plot([i] * len(own), 100 * own["undone"], "o", color=f"C{i}", alpha=0.5, markersize=4)
    left.set(xlabel="epochs", ylabel="validation error (percent)")
    right.set(ylabel="right answers undone an epoch (percent)")
    right.set_xticks(range(len(outputs)), outputs, rotation=40, fontsize=6, ha="right")
    if left.get_lines():
        left.legend(frameon=False, fontsize=5)
    return figure
