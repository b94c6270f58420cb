"""What figure 7.10's declaration cannot say in its vocabulary: errors by layer on a logarithmic scale, and their drawing."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce import published
from effdl.reproduce.figure import GREYS

FACTORS = {"25": "black", "200": "tab:orange"}
STYLES = {"pinv": "-", "lstsq": ":"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds lowest_log10 and lowest_layer (from 1) of the errors of a run's layers, last_log10, and best_log10: the lowest of
    the runs that differ in α and β alone."""
    curves = [curve(series) for series in runs.get("series", [None] * len(runs))]
    lowest = runs.get("train/lowest_lsd", pd.Series(index=runs.index, dtype=float)).astype(float)
    runs = runs.assign(
        lowest_log10=np.log10(lowest.clip(lower=1e-300)),  # an error of 0 is drawn and compared as this
        lowest_layer=[c.idxmin() if len(c) else np.nan for c in curves],
        last_log10=[c.iloc[-1] if len(c) else np.nan for c in curves],
    )
    alike = runs["cell"].str.replace(r"factors=\w+", "", regex=True) + runs["seed"].astype(str)
    return runs.assign(best_log10=runs.groupby(alike)["lowest_log10"].transform("min"))


def curve(series: dict[str, list[list[float]]] | None) -> pd.Series:
    """layer, from 1 -> log10 of its error."""
    points = series.get("train/lsd", []) if isinstance(series, dict) else []
    return pd.Series({int(layer) + 1: np.log10(max(value, 1e-300)) for layer, _, value in points}, dtype=float)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel for each network and precision; a line for the median over seeds of each α, β and solver, runs thin behind it."""
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    finished = runs[runs["status"] == "finished"]
    axes_of = declaration.artefact.axes
    rows = figure.subplots(2, 2, sharex="row", sharey=True)
    for of_row, network in zip(rows, dict.fromkeys(cell.at["network"] for cell in declaration.cells(scale)), strict=True):
        for axes, precision in zip(of_row, axes_of["precision"], strict=True):
            for factors, color in FACTORS.items():
                for choice, style in (*STYLES.items(), ("pinv,tolerance=absolute", "--")):
                    solver, _, rest = choice.partition(",")
                    cell = f"network={network},factors={factors},solver={solver},precision={precision}"
                    cell += f",{rest}" if rest else ""
                    label = f"{declaration.label('factors', factors)}; {solver}{', cut-off 1e-5' if rest else ''}"
                    lines(axes, finished[finished["cell"] == cell], label, color=color, linestyle=style)
            if (network, precision) == ("deep", "double"):
                lowest = float(published.claim("ch7.checker_best_mse")["value"])
                axes.axhline(lowest, color="tab:red", linewidth=0.8, label="lowest, as printed")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("layer")
            told = [declaration.label("network", network), declaration.label("precision", precision)]
            axes.set_title("; ".join(told), loc="left", fontsize=9)
        of_row[0].set_ylabel("MSE of its linear fit")
    shown = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if shown:
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def lines(axes, runs: pd.DataFrame, label: str, **style) -> None:
    """Every run thin, the median over them thick."""
    curves = [10 ** curve(series) for series in runs.get("series", [])]
    if not any(len(one) for one in curves):
        return
    table = pd.concat(curves, axis=1)
    axes.plot(table.index, table, linewidth=0.4, **{**style, "color": GREYS[2]})
    axes.plot(table.index, table.median(axis=1), linewidth=1.3, label=label, **style)
