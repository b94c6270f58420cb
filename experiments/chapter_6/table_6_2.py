"""What declarations of pairs of backprop and DLL cannot say: where each run's accuracy peaks, and the drawing."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.figure import GREYS, MARKERS, points


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what each segment's network says, after its last epoch; segments counted from 1 as the thesis does.

    peak_layer, best_test_acc: the segment whose network did best on the test split, the earlier one of equals, and how well
    (fraction); nothing is chosen by them. peak_depth: that segment over the number of segments (fraction). peak_from_top: its
    place from the top, which counts as 1. last_test_acc: of the last segment's network. chosen_layer: the one that validation
    chose. None where there is one segment.
    """
    by_segment = [last(series, "test/acc") for series in runs.get("series", [None] * len(runs))]
    several = [values if len(values) > 1 else None for values in by_segment]
    peaks = [None if values is None else values.index(max(values)) for values in several]
    chosen = runs.get("segment/chosen", pd.Series(index=runs.index, dtype=float))
    return runs.assign(
        peak_layer=[None if peak is None else peak + 1 for peak in peaks],
        peak_depth=[None if v is None or p is None else (p + 1) / len(v) for v, p in zip(several, peaks, strict=True)],
        peak_from_top=[None if v is None or p is None else len(v) - p for v, p in zip(several, peaks, strict=True)],
        best_test_acc=[None if values is None else max(values) for values in several],
        last_test_acc=[None if values is None else values[-1] for values in several],
        chosen_layer=(chosen + 1).where([values is not None for values in several]),
    )


def remarks(declaration, runs: pd.DataFrame) -> Iterator[str]:
    """How much of each network the DLL network was, where validation chose."""
    ended = runs[(runs["status"] == "finished") & (runs["method"] == "dll")]
    for (network, dataset), of_pair in ended.groupby(["network", "dataset"], sort=False):
        segments = max(len(last(series, "test/acc")) for series in of_pair["series"])
        blocks = ", ".join(str(int(chosen)) for chosen in of_pair["chosen_layer"].dropna())
        pair = f"{declaration.label('network', network)} on {declaration.label('dataset', dataset)}"
        yield (
            f"{pair}: what is called the DLL network is the blocks up to the one that validation chose, with its decision "
            f"block: {blocks} of {segments} blocks, one number a run."
        )


def last(series: dict[str, list[list[float]]] | None, name: str) -> list[float]:
    """The value of each segment after its last epoch, from the bottom."""
    if not isinstance(series, dict):
        return []
    by_segment = {int(segment): value for segment, _, value in series.get(name, [])}
    return [by_segment[segment] for segment in sorted(by_segment)]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The table's cells as points; below, for the pairs that have runs, each layer's network beside backprop."""
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    above, below = figure.subfigures(2, 1)
    points(above.subplots(), declaration, scale, runs)
    axes = below.subplots()
    ended = runs[runs["status"] == "finished"]
    for i, ((network, dataset), of_pair) in enumerate(ended.groupby(["network", "dataset"], sort=False)):
        pair = f"{declaration.label('network', network)}, {declaration.label('dataset', dataset)}"
        look = {"color": GREYS[i % len(GREYS)], "linewidth": 1}
        for words, name, line in (("test", "test/acc", "-"), ("validation", "val/acc", ":")):
            layers = 100 * pd.DataFrame([last(series, name) for series in of_pair[of_pair["method"] == "dll"]["series"]])
            if layers.size:
                label = f"DLL, {pair}: {words} (n {len(layers)})"
                more = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4, "capsize": 2, "linestyle": line, "label": label}
                axes.errorbar(layers.columns + 1, layers.mean(), layers.std(), **look, **more)
        if len(base := 100 * of_pair[of_pair["method"] == "baseline"]["test/acc"]):
            axes.axhline(base.mean(), linestyle="--", label=f"backprop, {pair}: test (n {len(base)})", **look)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer (its network, after its last epoch)")
    axes.set_ylabel("accuracy (percent)")
    axes.set_title("DLL by layer; bars: sd over seeds", loc="left", fontsize=9)
    return figure
