"""The drawing of figure 7.11: mean squared error and accuracy against width."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import published

PANELS = {"train/mse": "training MSE", "train/acc": "training accuracy (percent)"}
PRINTED = {1024: "ch7.checker_w1024_acc", 2048: "ch7.checker_w2048_acc"}
STYLES = {"": ("64 bits", "black", "o-"), ",precision=single": ("32 bits", "0.55", "s--")}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Both numbers against width, a line through the means over seeds, each run a dot."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    finished = runs[runs["status"] == "finished"]
    for axes, (metric, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        factor = 100 if metric == "train/acc" else 1
        for suffix, (label, color, style) in STYLES.items():
            own = finished[finished["cell"] == "width=" + finished["width"] + suffix]
            if len(own):
                widths, values = own["width"].astype(int), factor * own[metric].astype(float)
                mean = values.groupby(widths).mean()
                axes.plot(mean.index, mean, style, color=color, markersize=4, linewidth=1, label=label)
                axes.plot(widths, values, ".", color=color, markersize=3)
        if metric == "train/acc":
            values = [float(published.claim(name)["value"]) for name in PRINTED.values()]
            axes.plot(list(PRINTED), values, "x", color="tab:red", markersize=6, label="printed")
            axes.axhline(50, color="0.8", linewidth=0.8, zorder=0)
            axes.legend(frameon=False, fontsize=8, loc="upper left")
        else:
            axes.set_yscale("log")
        axes.set_xscale("log", base=2)
        axes.set_xticks([2**i for i in range(1, 12)], [str(2**i) for i in range(1, 12)], rotation=45)
        axes.set_xlim(1.6, 2560)
        axes.set_xlabel("units in each of 3 hidden layers")
        axes.set_title(title, loc="left", fontsize=9)
    return figure
