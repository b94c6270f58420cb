"""What filters are held beside: a random subset of the same share, and fewer epochs on everything in the same time."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effdl.reproduce.estimate import mean
from effdl.reproduce.series import Series, curve
from effdl.reproduce.verdict import interval


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds kept, of samples of all epochs; taken_s, of filtering and training; and of the same seed and data

    random_acc: test accuracy of the random subset of the same share. k_kept: what the k-filter keeps there.
    fewer_acc, fewer_epochs: of training on everything, when it had taken as many seconds.
    """
    finished = runs["status"] == "finished"
    filtered = runs.get("filter/kept_share", pd.Series(math.nan, index=runs.index))
    kept = filtered.mask((runs["filter"] == "none") & finished, 1.0)
    seconds = [runs.get(f"time/{name}_s", pd.Series(math.nan, index=runs.index)) for name in ("train", "filter")]
    known = runs.assign(kept=kept, taken_s=seconds[0] + seconds[1].fillna(0.0))
    whole = {(one["dataset"], one["seed"]): by_seconds(one.get("series")) for _, one in of_filter(known, "none").iterrows()}
    same = [whole.get((one["dataset"], one["seed"]), []) for _, one in known.iterrows()]
    fewer = [at_equal_time(passes, taken) for passes, taken in zip(same, known["taken_s"], strict=True)]
    return known.assign(
        fewer_epochs=[epochs for epochs, _ in fewer],
        fewer_acc=[accuracy for _, accuracy in fewer],
        random_acc=beside(known, "random", "test/acc"),
        k_kept=beside(known, "k_filter", "kept"),
    )


def of_filter(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    return runs[(runs["filter"] == name) & (runs["status"] == "finished")]


def beside(runs: pd.DataFrame, name: str, metric: str) -> list[float]:
    """Of each run the number of the one with another filter and the same data, share and seed; NaN where there is none."""
    keys = ["dataset", "share", "seed"]
    found = {tuple(one[key] for key in keys): float(one[metric]) for _, one in of_filter(runs, name).iterrows()}
    return [found.get(tuple(one[key] for key in keys), math.nan) for _, one in runs.iterrows()]


def by_seconds(series: Series | None) -> list[tuple[float, float]]:
    """(seconds of training behind, test accuracy) after each epoch."""
    seconds, accuracy = (dict(curve(series, key)) for key in ("time/train_s", "test/acc"))
    return [(seconds[epoch], accuracy[epoch]) for epoch in sorted(seconds.keys() & accuracy.keys())]


def at_equal_time(passes: list[tuple[float, float]], taken: float) -> tuple[float, float]:
    """Epochs that end by then, in parts too, and accuracy, linear between ends of epochs.

    Of less than an epoch what the first one reaches, of more than all what the last one does.
    """
    if not passes or math.isnan(taken):
        return math.nan, math.nan
    seconds, accuracy = zip(*passes, strict=True)
    epochs = np.interp(taken, [0.0, *seconds], range(len(passes) + 1))
    return float(epochs), float(np.interp(taken, seconds, accuracy))


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Accuracy over share, a colour each filter; below or above each, grey, fewer epochs on everything in the same time."""
    axes = declaration.artefact.axes
    names = [name for name in axes["dataset"] if name in set(runs["dataset"])]
    figure = Figure(figsize=(3.3 * max(len(names), 1), 3.6), layout="constrained")
    grid = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    finished = runs[runs["status"] == "finished"]
    for place, name in zip(grid, names, strict=False):
        for i, level in enumerate(axes["filter"]):
            own = finished[(finished["dataset"] == name) & (finished["filter"] == level)]
            _filter(place, own, declaration.label("filter", level), i, level)
        place.set(xlabel="share of all samples that is trained on, %", xlim=(0, 104))
        place.set_title(declaration.label("dataset", name), loc="left", fontsize=9)
    grid[0].set_ylabel("test accuracy, %")
    handles, labels = grid[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    return figure


def _filter(place: Axes, own: pd.DataFrame, label: str, i: int, level: str) -> None:
    """Its shares from left to right, means with 95% intervals over seeds."""
    points = []
    for _, cell in own.groupby("cell"):
        ours = interval(mean((100 * cell["test/acc"]).tolist()))
        points.append((100 * cell["kept"].mean(), ours, 100 * cell["fewer_acc"].mean()))
    points.sort(key=lambda point: point[0])
    for x, ours, fewer in points:
        if level != "none" and math.isfinite(fewer):
            place.plot([x, x], [ours.mean, fewer], color="0.8", linewidth=0.8, zorder=1)
            first = not any(text == FEWER for text in place.get_legend_handles_labels()[1])
            place.plot(x, fewer, "_", color="0.55", markersize=7, zorder=2, label=FEWER if first else None)
    if points:
        reach = [ours.high - ours.mean if math.isfinite(ours.high) else 0.0 for _, ours, _ in points]
        marker, line = ("*", "none") if level == "none" else ("osD^vP*Xh<"[i], "-" if level != "random" else "--")
        colour = "0.0" if level in ("none", "random") else f"C{i}"
        y = [ours.mean for _, ours, _ in points]
        style = {"color": colour, "capsize": 2, "markersize": 5, "linewidth": 1, "linestyle": line, "label": label}
        place.errorbar([x for x, _, _ in points], y, reach, marker=marker, zorder=3, **style)


FEWER = "everything, fewer epochs, same time"
