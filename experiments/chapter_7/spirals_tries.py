"""What the declaration of spirals-tries cannot say in its vocabulary: where the one printed fit stands among ours."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import published
from effdl.reproduce.figure import GREYS


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds printed (percent), and no_better: 1 where a fit's accuracy is at or below it, else 0."""
    shown = pd.Series([printed(fit) for fit in runs["fit"]], index=runs.index)
    ours = runs.get("train/acc", pd.Series(index=runs.index, dtype=float)).astype(float)
    return runs.assign(printed=shown, no_better=(100 * ours <= shown).astype(float).where(ours.notna()))


def printed(fit: str) -> float:
    """Training accuracy of the unlucky seed."""
    return float(published.claim(f"ch7.spirals_pp_{fit}_acc")["value"])


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The accuracies of all fits under our own choices, their mean, and the printed one; beside it what they took."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    accuracy, cost = figure.subplots(1, 2, width_ratios=[3, 2])
    levels = declaration.artefact.axes["fit"]
    finished = runs[runs["status"] == "finished"]
    for x, fit in enumerate(levels):
        own = finished[finished["cell"] == f"fit={fit}"].sort_values("train/acc")
        first = x == 0
        if len(own):
            places = x + pd.Series(range(len(own))) / max(1, len(own) - 1) * 0.6 - 0.3
            accuracy.plot(places, 100 * own["train/acc"], ".", color=GREYS[2], markersize=3, label="ours" if first else None)
            mean = 100 * own["train/acc"].mean()
            accuracy.plot(x, mean, "_", color="black", markersize=14, label="their mean" if first else None)
            cost.plot(x, own["time/fit_cpu_s"].median(), "o", color="black", markersize=4, label="ours, CPU" if first else None)
        accuracy.plot(x, printed(fit), "x", color="tab:red", markersize=6, label="printed, one seed" if first else None)
        if f"ch7.spirals_pp_{fit}_time" in published.claims():
            seconds = float(published.claim(f"ch7.spirals_pp_{fit}_time")["value"])
            cost.plot(x, seconds, "x", color="tab:red", markersize=6, label="printed, GPU" if first else None)
    cost.set_yscale("log")
    for axes, title in ((accuracy, "training accuracy (percent), each fit's"), (cost, "median time of a fit (s)")):
        axes.set_xticks(range(len(levels)), [str(level.label).replace(", ", "\n") for level in levels.values()], fontsize=7)
        axes.set_title(title, loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="lower right" if axes is accuracy else "upper left")
    return figure
