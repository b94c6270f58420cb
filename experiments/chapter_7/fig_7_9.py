"""The drawing of figure 7.9: the training loss by epoch, under each of our readings of the output and of the spirals."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce import published

PANELS = {"tanh": "tanh output into the logistic loss", "linear": "linear output into the logistic loss"}
SPIRALS = {
    "turns_1": ("1 turn", "0.7"),
    "turns_1.25": ("1.25 turns", "black"),
    "turns_1.5": ("1.5 turns", "0.45"),
    "table_7.1": ("table 7.1's", "tab:blue"),
}
FLOOR = math.log(1 + math.exp(-1))


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The median over seeds of each cell, every run thin behind it; the printed loss as a cross after the last epoch."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    finished = runs[runs["status"] == "finished"]
    last = 0
    for axes, (output, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for spirals, (label, color) in SPIRALS.items():
            curves = [curve(series) for series in finished[finished["cell"] == name(output, spirals)].get("series", [])]
            if not any(len(one) for one in curves):
                continue
            table = pd.concat(curves, axis=1)
            last = max(last, table.index[-1])
            axes.plot(table.index, table, color=color, linewidth=0.4)
            axes.plot(table.index, table.median(axis=1), color=color, linewidth=1.4, label=label)
        axes.set_yscale("log" if output == "linear" else "linear")
        axes.plot(last, float(published.claim("ch7.spirals_bp_ce")["value"]), "x", color="tab:red", label="printed")
        if output == "tanh":
            axes.axhline(FLOOR, color="0.6", linewidth=0.8, linestyle=":", label="ln(1 + 1/e), the least that it can be")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_title(title, loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("training loss (nats)")
    return figure


def name(output: str, spirals: str) -> str:
    """The cell's."""
    choices = {"spirals": spirals, "output": output}
    first = {"spirals": "turns_1.25", "output": "tanh"}
    order = ("output", "spirals")
    return ",".join(["network=printed", *(f"{key}={choices[key]}" for key in order if choices[key] != first[key])])


def curve(series: dict[str, list[list[float]]] | None) -> pd.Series:
    """epoch, from 1 -> its loss."""
    points = series.get("train/loss", []) if isinstance(series, dict) else []
    return pd.Series({int(epoch) + 1: value for _, epoch, value in points}, dtype=float)
