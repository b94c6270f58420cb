"""The drawing of figure 7.15: squared error and accuracy of both splits against the width of the hidden layer."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.figure import GREYS, MARKERS

PANELS = {
    "train/mse": "training MSE",
    "test/mse": "test MSE",
    "train/acc": "training accuracy (percent)",
    "test/acc": "test accuracy (percent)",
}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Of each method the trial that does best on the test split, as in print, and as bars all trials."""
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    finished = runs[(runs["status"] == "finished") & (runs["cell"].str.count(",") == 1)]  # under our own choices
    widths = sorted({int(width) for width in finished["width"]})
    for axes, (metric, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        factor = 100 if metric.endswith("acc") else 1
        for i, method in enumerate(declaration.artefact.axes["method"]):
            of_width = finished[finished["method"] == method].assign(width=lambda found: found["width"].astype(int))
            if of_width.empty or metric not in of_width:
                continue
            of_width = of_width.sort_values("test/acc").groupby("width")[metric]
            best, low, high = (factor * part.astype(float) for part in (of_width.last(), of_width.min(), of_width.max()))
            style = {"marker": MARKERS[i], "color": GREYS[i], "markersize": 4, "capsize": 2, "linewidth": 1}
            label = declaration.label("method", method)
            axes.errorbar(best.index, best, [best - low, high - best], label=label, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        if factor == 100:  # the lower row
            axes.set_xlabel("hidden units")
        axes.set_title(title, loc="left", fontsize=9)
        if factor == 1:
            axes.set_yscale("log")
    if handles := axes.get_legend_handles_labels()[0]:
        title = {"title": "best of all trials by test accuracy; bars: all trials", "title_fontsize": 8}
        labels = [handle.get_label() for handle in handles]
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8, **title)
    return figure
