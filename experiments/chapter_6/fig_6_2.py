"""Accuracies of overlapping subnets, by the layer at which each ends, and the drawing."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.drawn import of_cell
from effdl.reproduce.figure import GREYS, MARKERS, points
from effdl.reproduce.series import last_of_segments


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what the subnets' networks say after their last epochs.

    best_test_acc, last_test_acc (fractions): of the best of them by test, by which nothing is chosen, and of the highest.
    last_train_loss: of the highest. chosen_layer: at which layer, from 1, the network ends that validation chose.
    """
    series = list(runs.get("series", [None] * len(runs)))
    tested, losses = ([last_of_segments(one, key) for one in series] for key in ("test/acc", "train/loss"))
    chosen = runs.get("segment/chosen", pd.Series(index=runs.index, dtype=float))
    return runs.assign(
        best_test_acc=[max(values, default=None) for values in tested],
        last_test_acc=[values[-1] if values else None for values in tested],
        last_train_loss=[values[-1] if values else None for values in losses],
        chosen_layer=chosen + runs["size"].astype(int),
    )


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Left test accuracy by the layer at which a subnet ends, a line a size; right the networks that validation chose."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, cell in enumerate(declaration.cells(scale)):
        tested = [last_of_segments(one, "test/acc") for one in of_cell(runs, cell.name).get("series", [])]
        by_subnet = 100 * pd.DataFrame([values for values in tested if values])
        if len(by_subnet):
            layers = by_subnet.columns + int(cell.at["size"])
            look = {"color": GREYS[i], "marker": MARKERS[i], "markersize": 4, "capsize": 2, "linewidth": 1}
            label = f"{declaration.label('size', cell.at['size'])} at a time (n {len(by_subnet)})"
            left.errorbar(layers, by_subnet.mean(), by_subnet.std(), label=label, **look)
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="layer at which the subnet ends", ylabel="test accuracy (percent)")
    left.set_title("each subnet's network after its last epoch; bars: sd over seeds", loc="left", fontsize=9)
    points(right, declaration, scale, runs)
    return figure
