"""What figure 5.14 shows and claims: k-redundancy by layer, at several epochs."""

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, lists

LAYERS = [f"conv{i}" for i in range(1, 11)]
NEIGHBOURS = (5, 10, 20)
TOP = 5


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the lowest step from a layer to the next, of 1-NN too, and what upper layers reach, at the end; ends' shares too."""
    found = pd.DataFrame([shares(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.join(found)


def shares(series: Series | None) -> dict[str, float]:
    looks = {k: by_epoch(series, k) for k in NEIGHBOURS}
    after = [epochs[max(epochs)] if epochs else [float("nan")] * len(LAYERS) for epochs in looks.values()]
    before = looks[10][min(looks[10])] if looks[10] else [float("nan")] * len(LAYERS)
    last = looks[10][max(looks[10])] if looks[10] else before
    of_one = by_epoch(series, 1)
    nearest = of_one[max(of_one)] if of_one else [float("nan")] * len(LAYERS)
    return {
        "one_nn_step": min(upper - lower for lower, upper in pairwise(nearest)),
        "lowest_step": min(upper - lower for values in after for lower, upper in pairwise(values)),
        "top_five": min(value for values in after for value in values[-TOP:]),
        "first_before": before[0],
        "first_after": last[0],
        "last_before": before[-1],
        "last_after": last[-1],
    }


def by_epoch(series: Series | None, k: int) -> dict[int, list[float]]:
    """By epochs behind the layers' shares, from the bottom up, of looks at which all have one."""
    of_each = [lists(series, f"k_redundancy/{k}/{layer}") for layer in LAYERS]
    epochs = sorted(set.intersection(*map(set, of_each)))
    return {epoch: [float(layer[epoch][0]) for layer in of_each] for epoch in epochs}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By epoch the layers' shares for each k, means over seeds."""
    cell = declaration.cells(scale)[0]
    own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")]
    found = {k: [by_epoch(series, k) for series in own.get("series", [])] for k in NEIGHBOURS}
    epochs = sorted({epoch for looks in found.values() for look in looks for epoch in look})
    figure = Figure(figsize=(2.6 * max(len(epochs), 1), 2.9), layout="constrained")
    grid = figure.subplots(1, max(len(epochs), 1), sharey=True, squeeze=False)[0]
    for axes, epoch in zip(grid, epochs, strict=False):
        for i, (k, looks) in enumerate(found.items()):
            means = pd.DataFrame([look[epoch] for look in looks if epoch in look]).mean()
            axes.plot(range(1, len(LAYERS) + 1), 100 * means, ".-", color=f"C{i}", label=f"k = {k}")
        axes.set(xlabel="layer", ylim=(0, 100))
        axes.set_title(f"{epoch} epochs" if epoch != 1 else "1 epoch", loc="left", fontsize=9)
    grid[0].set_ylabel("k-redundancy, %")
    if epochs:
        grid[0].legend(frameon=False, fontsize=7)
    return figure
