"""What figure 7.7's declaration cannot say in its vocabulary: errors by layer on a logarithmic scale, and their drawing."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PANELS = {"(a) α, with β = 1": "alpha_", "(b) β, with α = 0.1": "beta_"}
SHARED = "alpha_0.1"  # the cell of β = 1 in panel (b)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, of the decimal logarithm of the errors of a run's layers: lowest_log10 and lowest_layer (from 1), last_log10, rise
    (last minus lowest), and above_others: the lowest minus that of all other α of the same seed."""
    curves = [curve(series) for series in runs.get("series", [None] * len(runs))]
    runs = runs.assign(
        lowest_log10=[c.min() if len(c) else np.nan for c in curves],
        lowest_layer=[c.idxmin() if len(c) else np.nan for c in curves],
        last_log10=[c.iloc[-1] if len(c) else np.nan for c in curves],
    )
    group = runs["precision"] if "precision" in runs else pd.Series("", index=runs.index)
    alphas = runs.assign(group=group.fillna(""))[runs["factors"].str.startswith("alpha_")]
    above = pd.Series(np.nan, index=runs.index)
    for _, of_seed in alphas.groupby(["group", "seed"]):
        for i, lowest in of_seed["lowest_log10"].items():
            above[i] = lowest - of_seed["lowest_log10"].drop(i).min()
    return runs.assign(rise=runs["last_log10"] - runs["lowest_log10"], above_others=above)


def curve(series: dict[str, list[list[float]]] | None) -> pd.Series:
    """layer, from 1 -> log10 of its error."""
    points = series.get("train/lsd", []) if isinstance(series, dict) else []
    return pd.Series({int(layer) + 1: np.log10(value) for layer, _, value in points}, dtype=float)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Errors by layer, a line for the median over seeds; a row for each precision."""
    figure = Figure(figsize=(9.5, 6), layout="constrained")
    finished = runs[runs["status"] == "finished"]
    precisions = {"single": "32 bits", "double": "64 bits"}
    rows = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes_of_row, (precision, told) in zip(rows, precisions.items(), strict=True):
        suffix = "" if precision == "single" else ",precision=double"
        for axes, (title, prefix) in zip(axes_of_row, PANELS.items(), strict=True):
            panel(axes, declaration, finished, prefix, suffix)
            axes.set_title(f"{title}; {told}", loc="left", fontsize=9)
    for axes in rows[-1]:
        axes.set_xlabel("layer")
    for axes in rows[:, 0]:
        axes.set_ylabel("MSE of its linear fit")
    for axes in rows.flat:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="median", title_fontsize=8)
    return figure


def panel(axes, declaration, runs: pd.DataFrame, prefix: str, suffix: str) -> None:
    """One line for each level of one factor, the darker the higher."""
    from matplotlib import colormaps

    levels = [name for name in declaration.artefact.axes["factors"] if name.startswith(prefix) or name == SHARED]
    for i, level in enumerate(levels):
        curves = [curve(series) for series in runs[runs["cell"] == f"factors={level}{suffix}"].get("series", [])]
        if not curves:
            continue
        median = 10 ** pd.concat(curves, axis=1).median(axis=1)
        name = "1" if prefix == "beta_" and level == SHARED else level.split("_")[1]
        color = colormaps["viridis_r"](0.1 + 0.9 * i / (len(levels) - 1))
        symbol = "α" if prefix == "alpha_" else "β"
        axes.plot(median.index, median, color=color, linewidth=1.2, label=f"{symbol} = {name}")
    axes.set_yscale("log")
