"""How far each rule is ahead of layer-wise learning that nothing regularises, and what the probes of both conjectures say."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from effdl.probes.drift import drift
from effdl.reproduce.counterpart import numbers, of_seed
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.estimate import mean
from effdl.reproduce.figure import MARKERS
from effdl.reproduce.series import Series, lists
from effdl.reproduce.verdict import interval

BLOCKS = ["stem", *(f"group{group}_{i}" for group in (1, 2, 3) for i in range(1, 6))]
INPUTS, FLIPS = "input_sketch", "sign_flips"
DRAWN = ("backprop", "none", "both", "robin", "together", "overlap")  # whose probes are drawn
Looks = dict[str, list[tuple[int, float]]]  # block -> (epochs behind, number) of each look of each segment that it learned in


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds ahead, test accuracy minus that of DLL with nothing of the same seed; overfit, test loss minus training loss of the
    last epoch of the layer that validation chose; chosen_layer, from 1; drift and flips, means over looks and layers, of drift
    without the first, whose inputs are the images; drift_by_depth and flips_by_depth, the rank correlation of a layer's mean
    with its place, NaN where all are alike.
    """
    found = pd.DataFrame([of_run(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    chosen = numbers(runs, "segment/chosen")
    train = [last_loss(s, c) for s, c in zip(runs.get("series", [None] * len(runs)), chosen, strict=True)]
    return runs.assign(
        ahead=numbers(runs, "test/acc") - of_seed(runs, "test/acc", {"rule": "none"}),
        overfit=numbers(runs, "test/loss") - pd.Series(train, index=runs.index),
        chosen_layer=(chosen + 1).where(runs["cell"] != "rule=backprop"),
        **found,
    )


def of_run(series: Series | None) -> dict[str, float]:
    drifts, rates = drift_of(series), flips_of(series)
    inner = {block: looks for block, looks in drifts.items() if block != BLOCKS[0]}
    told: dict[str, float] = {}
    for name, looks in (("drift", inner), ("flips", rates)):
        means = by_depth(looks)
        known = [value for value in means if not math.isnan(value)]
        told |= {name: float(np.mean(known)) if known else math.nan, f"{name}_by_depth": with_depth(means)}
    return told


def drift_of(series: Series | None) -> Looks:
    """How far each block's inputs moved from one look to the next while it learned, of the later look's epoch."""
    found: Looks = {}
    for block, looks in of_segments(series, INPUTS).items():
        for sketches in looks:
            epochs, rows = list(sketches), list(sketches.values())
            if len(rows) > 1:
                found.setdefault(block, []).extend(zip(epochs[1:], drift(rows), strict=True))
    return found


def flips_of(series: Series | None) -> Looks:
    """The share of signs that flip, of each block and look."""
    found = of_segments(series, FLIPS)
    return {block: [(epoch, float(row[0])) for look in looks for epoch, row in look.items()] for block, looks in found.items()}


def of_segments(series: Series | None, probe: str) -> dict[str, list[dict[int, np.ndarray]]]:
    """block -> of each segment that it learned in, the list of numbers of each look, by epochs behind."""
    found: dict[str, list[dict[int, np.ndarray]]] = {}
    for block in BLOCKS if isinstance(series, Mapping) else []:
        points = series.get(f"{probe}/{block}", [])
        for segment in sorted({int(point[0]) for point in points}):
            own = [point for point in points if point[0] == segment]
            found.setdefault(block, []).append(lists({"": own}, ""))
    return found


def by_depth(looks: Looks) -> list[float]:
    """Each block's mean over its looks, from the bottom, NaN of a block without."""
    values = [[value for _, value in looks.get(block, []) if not math.isnan(value)] for block in BLOCKS]
    return [float(np.mean(row)) if row else math.nan for row in values]


def with_depth(means: Sequence[float]) -> float:
    """Spearman's rank correlation of numbers with their place; NaN where fewer than two are known, or all are equal."""
    known = [(place, value) for place, value in enumerate(means) if not math.isnan(value)]
    if len({value for _, value in known}) < 2:
        return math.nan
    return float(np.corrcoef([place for place, _ in known], rankdata([value for _, value in known]))[0, 1])


def last_loss(series: Series | None, segment: float) -> float:
    """The training loss of a segment's last epoch; the run's only segment where none was chosen."""
    points = series.get("train/loss", []) if isinstance(series, Mapping) else []
    own = [value for at, _, value in points if math.isnan(segment) or at == segment]
    return float(own[-1]) if own and own[-1] is not None else math.nan


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Left test accuracies; right, above, drift of inputs and below, flips of signs, each by depth and by epoch."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    accuracies(left.subplots(), declaration, runs)
    panels = right.subplots(2, 2)
    for row, (read, word) in zip(panels, ((drift_of, "drift of inputs"), (flips_of, "signs that flip")), strict=True):
        for i, rule in enumerate(DRAWN):
            own = [read(series) for series in of_cell(runs, f"rule={rule}").get("series", [])]
            look = {"label": declaration.label("rule", rule), "color": f"C{i}", "marker": MARKERS[i], "markersize": 3}
            lines(row, [one for one in own if one], {**look, "linewidth": 1})
        for panel in row:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set(xlabel="layer, from the bottom", ylabel=word)
        row[1].set(xlabel="epochs of the layer behind")
    handles, labels = panels[1][1].get_legend_handles_labels()
    if handles:
        right.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def lines(row: Sequence[Axes], runs: Sequence[Looks], look: dict) -> None:
    """Means over runs: by depth, and by epoch over all layers."""
    if not runs:
        return
    row[0].plot(range(1, len(BLOCKS) + 1), np.mean([by_depth(one) for one in runs], axis=0), **look)
    points = pd.DataFrame([pair for one in runs for looks in one.values() for pair in looks], columns=["epoch", "value"])
    over = points.groupby("epoch")["value"].mean()
    row[1].plot(over.index, over, **look)


def accuracies(axes: Axes, declaration, runs: pd.DataFrame) -> None:
    rules = list(declaration.artefact.axes["rule"])[::-1]
    for place, rule in enumerate(rules):
        values = (100 * of_cell(runs, f"rule={rule}")["test/acc"]).tolist()
        if values:
            ours = interval(mean(values))
            reach = ours.high - ours.mean if math.isfinite(ours.high) else None
            axes.errorbar(ours.mean, place, xerr=reach, fmt="o", color="0.0", markersize=4, capsize=2)
    axes.set_yticks(range(len(rules)), [declaration.label("rule", rule) for rule in rules])
    axes.set_xlim(left=0)
    axes.set_xlabel("test accuracy (percent); bars: 95% t-interval over seeds")
