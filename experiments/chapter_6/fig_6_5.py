"""What an epoch of each partition takes and sees, and the drawing."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import artefact
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.figure import points

PARTITIONS = 4
UPPER = (2, 3)  # counted from 0
NAN = float("nan")
SHADES = ("0.0", "0.3", "0.45", "0.6")
Series = dict[str, list[list[float]]]  # name -> [partition, epoch, value] of each point


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds upper_share (fraction), what of the samples the upper partitions learn from in the second half of their epochs;
    dropped_most (fraction), of what comes to any partition; upper_time and lowest_time, what an epoch takes after the filter
    begins over what it took before; and chosen_partition, from 1. The first four are of the run with the k-filter alone.
    """
    settings = {cell.name: cell.set for cell in artefact.load("fig-6.5").cells(runs.attrs["scale"])}
    names = ["upper_share", "dropped_most", "upper_time", "lowest_time"]
    rows = [
        of_run(series, settings[cell]["filter.start"]) if cell.endswith("training=filtered") else {}
        for cell, series in zip(runs["cell"], runs.get("series", [None] * len(runs)), strict=True)
    ]
    chosen = runs.get("segment/chosen", pd.Series(index=runs.index, dtype=float))
    found = pd.DataFrame(rows, index=runs.index, columns=names, dtype=float)
    return runs.assign(chosen_partition=(chosen + 1).where(~runs["cell"].str.endswith("training=backprop"))).join(found)


def of_run(series: Series | None, start: int) -> dict[str, float]:
    """start: the filter's first epoch."""
    seen, taken = samples(series), seconds(series)
    if not seen:
        return {}
    whole, half = max(seen.values()), (1 + max(epoch for _, epoch in seen)) / 2
    late = [count / whole for (partition, epoch), count in seen.items() if partition in UPPER and epoch >= half]
    drops = [
        1 - count / came for (partition, epoch), count in seen.items() if (came := seen.get((partition - 1, epoch), whole))
    ]
    times = {partition: change(taken.get(partition, {}), start) for partition in range(PARTITIONS)}
    return {
        "upper_share": float(np.mean(late)) if late else NAN,
        "dropped_most": max(drops),
        "upper_time": float(np.mean([times[partition] for partition in UPPER])),
        "lowest_time": times[0],
    }


def samples(series: Series | None) -> dict[tuple[int, int], float]:
    """(partition, epoch) -> how many samples it learned from."""
    told = series.get("data/samples", []) if isinstance(series, dict) else []
    return {(int(partition), int(epoch)): count for partition, epoch, count in told}


def seconds(series: Series | None) -> dict[int, dict[int, float]]:
    """partition -> epoch -> seconds of training, filter included.

    Of partitions that take turns. Recorded is the time that all training has taken so far, so that an epoch took what lies
    between it and the record before it. Of a series that was thinned, those between two records of one partition have their
    mean, and others none.
    """
    told = series.get("time/train_s", []) if isinstance(series, dict) else []
    points = sorted(((int(partition), int(epoch), time) for partition, epoch, time in told), key=lambda point: point[2])
    is_whole = len(points) == sum(max(e for p, e, _ in points if p == partition) + 1 for partition in {p for p, _, _ in points})
    found: dict[int, dict[int, float]] = {}
    for (before, last, start), (partition, epoch, end) in pairwise([(0, -1, 0.0), *points]):
        if is_whole or partition == before:
            found.setdefault(partition, {})[epoch] = (end - start) / (epoch - last if partition == before else 1)
    return found


def change(taken: dict[int, float], start: int) -> float:
    """The median of epochs from ``start`` on over that of the earlier ones."""
    early, late = ([s for epoch, s in taken.items() if (epoch >= start) == is_late] for is_late in (False, True))
    return float(np.median(late) / np.median(early)) if early and late else NAN


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Above, what an epoch of each partition takes by round robin without and with the filter, and data; below, accuracy."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    panels = upper.subplots(1, 3)
    (dataset,) = {cell.at["dataset"] for cell in declaration.cells(scale)}
    for axes, name in zip(panels, ("kept", "filtered", "filtered"), strict=True):
        told = list(of_cell(runs, f"dataset={dataset},training={name}").get("series", []))
        share = axes is panels[2]
        for partition in range(PARTITIONS):
            by_epoch = pd.DataFrame([of_partition(series, partition, share) for series in told]).sort_index(axis=1)
            if by_epoch.size:
                look = {"color": SHADES[partition], "linewidth": 1.2, "linestyle": ("-", "--", "-.", ":")[partition]}
                axes.plot(by_epoch.columns + 1, by_epoch.mean(), label=f"partition {partition}", **look)
        axes.set(xlabel="epoch of the partition", ylabel="% of the data" if share else "s", ylim=(0, None))
        words = "data seen" if share else "seconds an epoch"
        axes.set_title(f"{declaration.label('training', name)}: {words} (n {len(told)})", loc="left", fontsize=9)
    if panels[2].get_legend_handles_labels()[0]:
        panels[2].legend(frameon=False, fontsize=8, loc="lower left")
    highest = max(axes.get_ylim()[1] for axes in panels[:2])
    for axes in panels[:2]:
        axes.set_ylim(0, highest)
    points(lower.subplots(), declaration, scale, runs)
    return figure


def of_partition(series: Series, partition: int, share: bool) -> dict[int, float]:
    """epoch -> percent of the samples, or seconds."""
    if not share:
        return seconds(series).get(partition, {})
    seen = samples(series)
    whole = max(seen.values(), default=1)
    return {epoch: 100 * count / whole for (own, epoch), count in seen.items() if own == partition}
