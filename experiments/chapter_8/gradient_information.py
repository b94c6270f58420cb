"""What gradients tell by layer, and how entropy and stable rank of weights go together over training."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from effdl.reproduce.drawn import of_cell
from effdl.reproduce.series import Series, curve

LAYERS = [f"linear{i}" for i in range(1, 7)]
NAN = float("nan")
Curve = dict[int, float]


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds by run how bits fall from the last hidden layer to the first, and changes of entropy and rank."""
    series = runs.get("series", [None] * len(runs))
    return runs.join(pd.DataFrame([of_run(one) for one in series], index=runs.index))


def of_run(series: Series | None) -> dict[str, float]:
    before, after = told(series, first=True), told(series, first=False)
    entropies, ranks = of_layers(series, "weight_entropy/8"), of_layers(series, "stable_rank")
    return {
        "fall_before": before[-1] - before[0],
        "fall_after": after[-1] - after[0],
        "least_step": min(np.diff(after)),
        "entropy_change": mean([change(values) for values in entropies]),
        "rank_change": mean([change(values) for values in ranks]),
        "entropy_with_rank": mean([together(*pair) for pair in zip(entropies, ranks, strict=True)]),
    }


def told(series: Series | None, first: bool) -> list[float]:
    """Bits by hidden layer, from the lowest, before training or when it ends."""
    found = of_layers(series, "gradient_information/bits")
    return [values[min(values) if first else max(values)] if values else NAN for values in found]


def of_layers(series: Series | None, key: str) -> list[Curve]:
    return [dict(curve(series, f"{key}/{layer}")) for layer in LAYERS]


def change(values: Curve) -> float:
    return values[max(values)] - values[min(values)] if values else NAN


def together(first: Curve, second: Curve) -> float:
    """Spearman's correlation over the epochs that both have; not a number where one of them never changes."""
    both = sorted(set(first) & set(second))
    a, b = ([values[epoch] for epoch in both] for values in (first, second))
    return float(spearmanr(a, b).statistic) if len({*a}) > 1 and len({*b}) > 1 else NAN


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row a cell: bits by layer at each look, mean over seeds; entropy and stable rank by epoch."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(10, 2.4 * len(cells)), layout="constrained")
    for row, cell in zip(figure.subplots(len(cells), 3, squeeze=False), cells, strict=True):
        drawn = list(of_cell(runs, cell.name).get("series", []))
        row[0].set_title(", ".join(declaration.label(*at) for at in cell.at.items()), loc="left", fontsize=8)
        layers = [*LAYERS, "output"]
        looks = [pd.DataFrame([dict(curve(one, f"gradient_information/bits/{layer}")) for one in drawn]) for layer in layers]
        epochs = list(looks[0].columns)
        for i, epoch in enumerate(epochs):
            shade = str(0.75 - 0.75 * i / max(len(epochs) - 1, 1))
            label = "before" if epoch == 0 else f"after {epoch}"
            row[0].plot(
                range(len(layers)), [look[epoch].mean() for look in looks], ".-", color=shade, label=label, markersize=4
            )
        row[0].set(ylabel="bits, at the least", ylim=(0, None))
        row[0].set_xticks(range(len(layers)), [*map(str, range(1, len(layers))), "out"])
        for axes, key, name in ((row[1], "weight_entropy/8", "entropy, bits"), (row[2], "stable_rank", "stable rank")):
            for i, layer in enumerate(LAYERS):
                means = pd.DataFrame([dict(curve(one, f"{key}/{layer}")) for one in drawn]).mean()
                if len(means):
                    axes.plot(means.index, means, color=f"C{i}", linewidth=1, label=f"layer {i + 1}")
            axes.set_ylabel(name)
    for axes, label in zip(row, ("layer", "epochs", "epochs"), strict=True):
        axes.set_xlabel(label)
    for axes in figure.axes[:3]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=6, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=3)
    return figure
