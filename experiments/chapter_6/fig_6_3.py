"""Stable rank by layer, how far it is from backprop's, and the drawing."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.drawn import of_cell
from effdl.reproduce.figure import GREYS, MARKERS, points

LAYERS = [f"conv{i}" for i in range(1, 11)]
Series = dict[str, list[list[float]]]  # name -> [segment, epoch, value] of each point


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds mean_rank, a run's stable rank as a mean over the convolutions; rank_gap, the mean over them of how far theirs is
    from that of the backprop run of the same seed, None of backprop itself; chosen_layer, that of validation, from 1.
    """
    ranks = [of_layers(series) for series in runs.get("series", [None] * len(runs))]
    known = zip(runs["cell"], runs["seed"], ranks, strict=True)
    baseline = {seed: found for cell, seed, found in known if cell == "network=vgg13,rule=backprop"}
    gaps = [
        None if cell.endswith("rule=backprop") else gap(found, baseline.get(seed))
        for cell, seed, found in zip(runs["cell"], runs["seed"], ranks, strict=True)
    ]
    chosen = runs.get("segment/chosen", pd.Series(index=runs.index, dtype=float))
    return runs.assign(
        mean_rank=[None if found is None else float(np.mean(found)) for found in ranks],
        rank_gap=gaps,
        chosen_layer=(chosen + 1).where(~runs["cell"].str.endswith("rule=backprop")),
    )


def of_layers(series: Series | None) -> np.ndarray | None:
    """(layers,): each convolution's stable rank after the last look at it; None where one was never looked at."""
    points = [series.get(f"stable_rank/{name}", []) if isinstance(series, dict) else [] for name in LAYERS]
    return np.array([found[-1][2] for found in points]) if all(points) else None


def gap(ranks: np.ndarray | None, of_baseline: np.ndarray | None) -> float | None:
    return None if ranks is None or of_baseline is None else float(np.abs(ranks - of_baseline).mean())


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Left VGG-13's stable rank by layer, a line a rule; right the accuracies."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, rule in enumerate(declaration.artefact.axes["rule"]):
        series = of_cell(runs, f"network=vgg13,rule={rule}").get("series", [])
        ranks = np.array([found for one in series if (found := of_layers(one)) is not None])
        if len(ranks):
            spread = ranks.std(axis=0, ddof=1) if len(ranks) > 1 else None
            look = {"color": GREYS[i], "marker": MARKERS[i], "markersize": 4, "capsize": 2, "linewidth": 1}
            label = f"{declaration.label('rule', rule)} (n {len(ranks)})"
            left.errorbar(range(1, len(LAYERS) + 1), ranks.mean(axis=0), spread, label=label, **look)
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="convolution", ylabel="stable rank of its weights", ylim=(0, None))
    left.set_title("VGG-13; bars: sd over seeds", loc="left", fontsize=9)
    points(right, declaration, scale, runs)
    return figure
