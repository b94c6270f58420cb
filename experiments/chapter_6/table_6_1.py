"""What table 6.1's declaration cannot say in its vocabulary: each run's layer of peak accuracy, and the drawing."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.figure import GREYS, MARKERS, points


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what each layer's network says, layers counted from 1 as the thesis does.

    peak_layer, best_test_acc: the layer whose network, after its last epoch, did best on the test split, the earlier one of
    equals, and how well (fraction); nothing is chosen by them. chosen_layer: the one that validation chose.
    """
    by_layer = [last_by_segment(series, "test/acc") for series in runs.get("series", [None] * len(runs))]
    peaks = [max(accuracy, key=accuracy.__getitem__) if len(accuracy) > 1 else None for accuracy in by_layer]
    chosen = runs.get("segment/chosen", pd.Series(index=runs.index, dtype=float))
    return runs.assign(
        peak_layer=[None if peak is None else peak + 1 for peak in peaks],
        best_test_acc=[None if p is None else accuracy[p] for accuracy, p in zip(by_layer, peaks, strict=True)],
        chosen_layer=(chosen + 1).where([len(accuracy) > 1 for accuracy in by_layer]),
    )


def last_by_segment(series: dict[str, list[list[float]]] | None, name: str) -> dict[int, float]:
    """segment -> the value after its last epoch."""
    if not isinstance(series, dict):
        return {}
    return {int(segment): value for segment, _, value in series.get(name, [])}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The table's cells as points, and below, by network, the test accuracy of each layer's network."""
    artefact = declaration.artefact
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    above, below = figure.subfigures(2, 1)
    points(above.subplots(), declaration, scale, runs)
    by_layers = runs[runs["cell"].str.endswith("method=dll") & (runs["status"] == "finished")]
    networks = [name for name in artefact.axes["network"] if by_layers["cell"].str.startswith(f"network={name},").any()]
    panels = below.subplots(1, max(1, len(networks)), squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=False):  # with none, one empty panel
        for i, dataset in enumerate(artefact.axes["dataset"]):
            of_cell = runs[(runs["cell"] == f"network={network},dataset={dataset},method=dll") & (runs["status"] == "finished")]
            by_layer = layers(of_cell)
            if len(by_layer):
                mean, spread = 100 * by_layer.mean(), 100 * by_layer.std()
                label = f"{declaration.label('dataset', dataset)} (n {len(by_layer)})"
                style = {"marker": MARKERS[i], "color": GREYS[i], "markersize": 4, "capsize": 2, "linewidth": 1}
                axes.errorbar(by_layer.columns + 1, mean, spread, label=label, **style)
        if math.isfinite(axes.dataLim.width) and axes.dataLim.width > 0:
            axes.legend(frameon=False, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer (its network, after its last epoch)")
        axes.set_ylabel("test accuracy (percent)")
        axes.set_title(f"DLL, {declaration.label('network', network)}; bars: sd over seeds", loc="left", fontsize=9)
    return figure


def layers(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a run, a column a layer (from 0): test accuracy after the layer's last epoch, as a fraction."""
    return pd.DataFrame([last_by_segment(series, "test/acc") for series in runs.get("series", [])])
