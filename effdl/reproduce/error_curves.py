"""Validation errors over epochs, a panel for each network and a line for each output."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.artefact import Declaration
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.runs import Runs
from effdl.reproduce.series import curve

Curves = Sequence["pd.Series[float]"]  # of each run the error in percent, by epochs behind
Line = Callable[[Any, Curves, str, str], None]  # axes, curves, colour, label


def errors_by_network(declaration: Declaration, runs: Runs, line: Line) -> Figure:
    """Of cells with the axes network and output; ``line`` draws the runs of one, `quartiles` or `each_and_mean`."""
    axes_of = declaration.artefact.axes
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, network in zip(figure.subplots(1, len(axes_of["network"])), axes_of["network"], strict=True):
        for i, output in enumerate(axes_of["output"]):
            told: Any = of_cell(runs, f"network={network},output={output}").get("series", [])
            curves = [100 * (1 - pd.Series(points, dtype=float)) for one in told if (points := dict(curve(one, "val/acc")))]
            if curves:
                line(axes, curves, f"C{i}", f"{declaration.label('output', output)} (n {len(curves)})")
        axes.set(xlabel="epochs", ylabel="validation error (percent)")
        axes.set_title(declaration.label("network", network), loc="left", fontsize=9)
        if axes.get_lines():
            axes.legend(frameon=False, fontsize=7)
    return figure


def quartiles(axes: Any, curves: Curves, colour: str, label: str) -> None:
    """Medians over runs, with the range between quartiles."""
    low, middle, high = (pd.concat(curves, axis=1).quantile(q, axis=1) for q in (0.25, 0.5, 0.75))
    axes.plot(middle.index, middle, color=colour, label=label)
    axes.fill_between(middle.index, low, high, color=colour, alpha=0.15, linewidth=0)


def each_and_mean(axes: Any, curves: Curves, colour: str, label: str) -> None:
    """Means over runs, with all of these thinly behind."""
    for one in curves:
        axes.plot(one.index, one, color=colour, linewidth=0.5, alpha=0.4)
    mean = pd.concat(curves, axis=1).mean(axis=1)
    axes.plot(mean.index, mean, color=colour, label=label)
