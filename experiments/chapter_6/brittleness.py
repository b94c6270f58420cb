"""How accuracy varies over learning rates, and the drawing."""

import math

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.counterpart import numbers, of_seed
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.estimate import mean
from effdl.reproduce.figure import GREYS, MARKERS
from effdl.reproduce.runs import NO_RUNS
from effdl.reproduce.verdict import interval

RATES = tuple(f"r{i}" for i in range(1, 7))
CHANCE, NEAR = 0.1, 0.05  # accuracies as fractions


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, over the rates of a start, method and seed, NaN where one has no run: spread, the standard deviation of test
    accuracies (fraction), a run that diverged counting as a guess; near_best, how many are within `NEAR` of the best. And
    chosen_layer, from 1.
    """
    known = runs.assign(reached=numbers(runs, "test/acc").fillna(CHANCE).where(runs["status"] != NO_RUNS))
    known["status"] = "finished"
    over = pd.DataFrame({rate: of_seed(known, "reached", {"rate": rate}) for rate in RATES}, index=runs.index)
    near = over.ge(over.max(axis=1) - NEAR, axis=0).sum(axis=1)
    whole = over.notna().all(axis=1)
    layered = ~runs["cell"].str.endswith("method=baseline")
    return runs.assign(
        spread=over.std(axis=1).where(whole),
        near_best=near.astype(float).where(whole),
        chosen_layer=(numbers(runs, "segment/chosen") + 1).where(layered),
    )


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Accuracy over the rate, a panel a start, a line a method."""
    artefact = declaration.artefact
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, start in zip(figure.subplots(1, 2), artefact.axes["start"], strict=True):
        for i, method in enumerate(artefact.axes["method"]):
            points = []
            for rate in RATES:
                values = (100 * of_cell(runs, f"start={start},rate={rate},method={method}")["test/acc"]).tolist()
                if values:
                    ours = interval(mean(values))
                    reach = ours.high - ours.mean if math.isfinite(ours.high) else 0.0
                    points.append((float(declaration.label("rate", rate)), ours.mean, reach))
            if points:
                look = {"color": GREYS[i], "marker": MARKERS[i], "markersize": 4, "capsize": 2, "linewidth": 1}
                panel.errorbar(*zip(*points, strict=True), label=declaration.label("method", method), **look)
        panel.set(xscale="log", xlabel="learning rate")
        panel.set_title(declaration.label("start", start), loc="left", fontsize=9)
    figure.axes[0].set_ylabel("test accuracy (percent); bars: 95% t-interval")
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
