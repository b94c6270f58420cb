"""The two-layer networks of which a deeper one is made, layer by layer, with the weights that they learned."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import wiring
from effdl.reproduce.drawn import of_cell

Series = dict[str, list[list[float]]]  # name -> [segment, epoch, value] of each point
LAYERS = 3
NAMES = ("first", "second", "third")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the test accuracy of each layer's network when the layer has learned."""
    rows = [accuracies(one) for one in runs.get("series", [None] * len(runs))]
    return runs.join(pd.DataFrame(rows, index=runs.index, columns=list(NAMES), dtype=float))


def accuracies(series: Series | None) -> dict[str, float]:
    points = series.get("test/acc", []) if isinstance(series, dict) else []
    return {NAMES[int(segment)]: value for segment, _, value in points}


def matrix(series: Series, name: str, segment: int) -> np.ndarray:
    """(units, inputs): what a segment's last look found."""
    found = []
    while points := [p for p in series.get(f"weights/{name}/{len(found)}", []) if p[0] == segment]:
        found.append([value for _, epoch, value in points if epoch == points[-1][1]])
    return np.array(found)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel for each layer's network: full lines are kept, dashed ones, its decision layer, are thrown away."""
    own = of_cell(runs, declaration.cells(scale)[0].name).sort_values("seed")
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for layer, axes in enumerate(figure.subplots(1, LAYERS)):
        axes.axis("off")
        axes.set(xlim=(-0.3, 2.4), ylim=(-0.85, 0.75))
        if not len(own):
            continue
        series = own.iloc[0]["series"]
        below, decision = matrix(series, f"linear{layer + 1}", layer), matrix(series, "head", layer)
        places = [wiring.units(x, n) for x, n in enumerate((below.shape[1], len(below), len(decision)))]
        last = layer == LAYERS - 1
        wiring.weights(axes, places[0], places[1], below)
        wiring.weights(axes, places[1], places[2], decision, "-" if last else "--")
        wiring.nodes(axes, [place for column in places for place in column])
        names = ("X" if layer == 0 else f"$Z_{layer}$", f"$Z_{layer + 1}$", "ŷ")
        for x, name in enumerate(names):
            axes.text(x, -0.8, name, ha="center")
        kept = f"$W_{layer + 1}$" + (f" and $W_{layer + 2}$ kept" if last else r" kept, $\tilde{W}$ thrown away")
        told = own.iloc[0][NAMES[layer]]
        axes.set_title(f"$f_{layer + 1}$: {kept}; test {100 * told:.1f}%", loc="left", fontsize=9)
    figure.supxlabel("full: kept; dashed: thrown away; blue positive, red negative", fontsize=8)
    return figure
