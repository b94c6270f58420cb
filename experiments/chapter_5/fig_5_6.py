"""What figure 5.6 shows and claims: least-squares distances by layer and epoch."""

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

LAYERS = {"linear1": "first", "linear2": "second", "linear3": "third"}
SHOWN = ["input", *LAYERS, "output"]


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds each layer's distance before and after training, the largest step upwards in depth, and the least approach."""
    found = pd.DataFrame([distances(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.join(found)


def distances(series: Series | None) -> dict[str, float]:
    curves = {layer: curve(series, f"lsd/y/{layer}") for layer in SHOWN}
    before = [values[0][1] if values else float("nan") for layer, values in curves.items() if layer in LAYERS]
    after = [values[-1][1] if values else float("nan") for layer, values in curves.items() if layer in LAYERS]
    steps = [upper - lower for lower, upper in pairwise(after)]
    return {
        "lsd_input": curves["input"][0][1] if curves["input"] else float("nan"),
        **{f"lsd_{name}_before": value for name, value in zip(LAYERS.values(), before, strict=True)},
        **{f"lsd_{name}": value for name, value in zip(LAYERS.values(), after, strict=True)},
        "worst_step": max(steps),
        "least_approach": max(last - first for first, last in zip(before, after, strict=True)),
    }


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By cell the distances over epochs, means over seeds."""
    cells = [cell for cell in declaration.cells(scale) if set(cell.at) == set(declaration.artefact.axes)]
    figure = Figure(figsize=(4.2 * len(cells), 3.2), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells), sharey=True, squeeze=False)[0], cells, strict=True):
        own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")]
        for place, layer in enumerate(SHOWN):
            points = [point for series in own.get("series", []) for point in curve(series, f"lsd/y/{layer}")]
            if not points:
                continue
            means = pd.DataFrame(points, columns=["epoch", "lsd"]).groupby("epoch")["lsd"].mean()
            if layer == "input":
                axes.axhline(means.iloc[0], color="0.6", linestyle=":", linewidth=1, label="pixels")
            else:
                label = "output" if layer == "output" else f"layer {place}"
                axes.plot(means.index, means, color=f"C{place - 1}", linestyle="--" if layer == "output" else "-", label=label)
        axes.set(xlabel="epochs", ylim=(0, None))
        axes.set_title(", ".join(declaration.label(axis, level) for axis, level in cell.at.items()), loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
    figure.supylabel("least-squares distance to the target", fontsize=9)
    return figure
