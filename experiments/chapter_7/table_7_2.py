"""What table 7.2's declaration cannot say in its vocabulary: training accuracies have printed values too."""

from functools import cache

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import published
from effdl.reproduce.figure import GREYS, MARKERS

METHODS = {"random_w": "Random. W", "random_p": "Random. P", "platonic_pca": "Platonic PCA", "sorted_pca": "Sorted PCA"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds train_printed and test_printed (percent), test_printed_share, and train_gap and test_gap: ours minus printed, as
    fractions."""
    for split in ("train", "test"):
        shown = [printed(split, method, width) for method, width in zip(runs["method"], runs["width"], strict=True)]
        runs = runs.assign(**{f"{split}_printed": shown})
        ours = runs.get(f"{split}/acc", pd.Series(index=runs.index, dtype=float))
        runs = runs.assign(**{f"{split}_gap": ours.astype(float) - runs[f"{split}_printed"].astype(float) / 100})
    return runs.assign(test_printed_share=runs["test_printed"].astype(float) / 100)


@cache
def printed(split: str, method: str, width: str) -> float | None:
    """Percent; None where there is no such row."""
    return published.number("table_7_2.csv", {"split": split, "method": METHODS[method], "width": width}, "value")


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Training and test accuracy against width, ours as lines, printed as crosses."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    own = runs[(runs["status"] == "finished") & (runs["cell"].str.count(",") == 1)]  # under our own choices
    for axes, split in zip(figure.subplots(1, 2, sharey=True), ("train", "test"), strict=True):
        for i, method in enumerate(METHODS):
            of_method = own[own["method"] == method].groupby(own["width"].astype(int))
            if not len(of_method):
                continue
            mean, spread = 100 * of_method[f"{split}/acc"].mean(), 100 * of_method[f"{split}/acc"].std()
            style = {"marker": MARKERS[i], "color": GREYS[i], "markersize": 4, "capsize": 2, "linewidth": 1}
            axes.errorbar(mean.index, mean, spread, label=declaration.label("method", method), **style)
            axes.plot(mean.index, of_method[f"{split}_printed"].first().astype(float), "x", color="tab:red", markersize=6)
        axes.plot([], [], "x", color="tab:red", label="printed")
        axes.set_xscale("log", base=2)
        axes.set_xticks([98, 196, 392, 784, 1568], ["98", "196", "392", "784", "1568"])
        axes.set_xlabel("hidden units")
        axes.set_title(f"{split} accuracy (percent); bars: sd over trials", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
