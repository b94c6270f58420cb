"""What is measured by layer of distances, pure entropy and information, of classifiers and of an autoencoder."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.drawn import of_cell
from effdl.reproduce.series import Series, curve

HIDDEN = [f"linear{i}" for i in range(1, 5)]
# What stands at the input, at the hidden layers, and at the output
KINDS = {
    "lsd_y": ("lsd/y", HIDDEN),
    "lsd_x": ("lsd/x", HIDDEN),
    "pure": ("pure_voronoi/entropy", ["input", *HIDDEN]),
    "information": ("layer_information/information", ["input", *HIDDEN, "output"]),
    "entropy": ("layer_information/entropy", ["input", *HIDDEN, "output"]),
}
SHOWN = {"pure": "pure entropy, bits", "entropy": "H(Z), bits", "information": "I(Y; Z), bits"}
NAN = float("nan")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds by run the ends and the worst steps of what was measured by layer, at the last look."""
    series = runs.get("series", [None] * len(runs))
    return runs.join(pd.DataFrame([of_run(one) for one in series], index=runs.index))


def of_run(series: Series | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, (_, layers) in KINDS.items():
        values = by_layer(series, kind)
        steps = [upper - lower for lower, upper in pairwise(values)]
        found[f"{kind}_step"] = min(steps) if kind == "lsd_x" else max(steps)
        found[f"{kind}_change"] = values[-1] - values[0]
        found |= {f"{kind}_input": values[0], f"{kind}_{'output' if 'output' in layers else 'last'}": values[-1]}
    classes = [value for _, value in curve(series, "layer_information/classes")] or [NAN]
    entropies = by_layer(series, "entropy")
    return found | {"entropy_excess": entropies[-1] - classes[-1], "entropy_lost": entropies[0] - min(entropies)}


def by_layer(series: Series | None, kind: str, last: bool = True) -> list[float]:
    """From the bottom up, when the run ended, or before its first epoch."""
    key, layers = KINDS[kind]
    looks = [[value for _, value in curve(series, f"{key}/{layer}")] for layer in layers]
    return [look[-1 if last and layer != "input" else 0] if look else NAN for look, layer in zip(looks, layers, strict=True)]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row a cell: by layer, before training, dashed, and after, mean over seeds, of what was measured."""
    cells = declaration.cells(scale)
    told = {cell.name: [one for one in of_cell(runs, cell.name).get("series", []) if isinstance(one, dict)] for cell in cells}
    some = [kind for kind in SHOWN if any(one.get(f"{KINDS[kind][0]}/input") for own in told.values() for one in own)]
    shown = some or list(SHOWN)
    figure = Figure(figsize=(3 * len(shown), 2.6 * len(cells)), layout="constrained")
    for row, cell in zip(figure.subplots(len(cells), len(shown), squeeze=False), cells, strict=True):
        own = told[cell.name]
        for axes, kind in zip(row, shown, strict=True):
            layers = KINDS[kind][1]
            for style, last in (("--", False), ("-", True)):
                values = np.array([by_layer(one, kind, last) for one in own])
                if own and np.isfinite(values).all():
                    axes.plot(range(len(layers)), values.mean(0), f".{style}", color="0.6" if not last else "C0")
            axes.set_xticks(range(len(layers)), [layer.replace("linear", "").replace("put", "") for layer in layers])
            axes.set(ylabel=SHOWN[kind], ylim=(0, None))
        row[0].set_title(declaration.label("data", cell.at["data"]), loc="left", fontsize=8)
    return figure
