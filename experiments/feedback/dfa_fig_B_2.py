"""Of figure B.2 what its declaration cannot say: accuracies before the first epoch and at the end, and points in the plane."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from effdl.reproduce.estimate import Share

SERIES = {  # name here -> series, and which of its points
    "acc": ("nearest/acc", -1),
    "untrained": ("nearest/acc", 0),
    "chance": ("nearest/chance", -1),
    "pixels": ("nearest/pixels", 0),
    "queries": ("nearest/queries", -1),
    "samples": ("tsne/samples", -1),
    "plane": ("tsne/acc", -1),
    "plane_untrained": ("tsne/untrained_acc", 0),
    "plane_pixels": ("tsne/pixels_acc", 0),
}
PANELS = {  # prefix of the points -> accuracy beside them
    "pixels_": "pixels",
    "untrained_": "untrained",
    "": "acc",
}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds shares: of 1-nearest neighbours that are right (acc, untrained, pixels, and in the plane), how far acc is above
    chance (above), the untrained layer (gain) and pixels (over_pixels), and plane above chance (plane_above)."""
    series = runs.get("series", pd.Series([None] * len(runs), index=runs.index))
    found = {
        name: pd.Series([value(one, key, place) for one in series], index=runs.index, dtype=float)
        for name, (key, place) in SERIES.items()
    }
    return runs.assign(
        **found,
        above=found["acc"] - found["chance"],
        gain=found["acc"] - found["untrained"],
        over_pixels=found["acc"] - found["pixels"],
        plane_above=found["plane"] - found["chance"],
    )


def value(series: dict[str, list[list[float]]] | None, key: str, place: int) -> float | None:
    """Of a run, the first or last number of a series."""
    points = series.get(key, []) if isinstance(series, dict) else []
    return points[place][2] if points else None


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row for what was learned: pixels, the untrained layer, and the layer under each rule, of the first seed."""
    learned, rules = (declaration.artefact.axes[axis] for axis in ("learned", "rule"))
    figure = Figure(figsize=(2.6 * (2 + len(rules)), 2.9 * len(learned)), layout="constrained")
    rows = figure.subplots(len(learned), 2 + len(rules), squeeze=False)
    for of_row, what in zip(rows, learned, strict=True):
        panels = [("pixels_", next(iter(rules)), "pixels"), ("untrained_", next(iter(rules)), "untrained layer")]
        panels += [("", rule, declaration.label("rule", rule)) for rule in rules]
        for axes, (prefix, rule, label) in zip(of_row, panels, strict=True):
            cell = runs[(runs["cell"] == f"learned={what},rule={rule}") & (runs["status"] == "finished")].sort_values("seed")
            axes.set(xticks=[], yticks=[])
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_title(label, loc="left", fontsize=8)
            if len(cell):
                scatter(axes, cell.iloc[0], prefix, label)
        of_row[0].set_ylabel(declaration.label("learned", what), fontsize=8)
    marks = [Line2D([], [], marker="o", linestyle="", markersize=4, color=f"C{digit}", label=str(digit)) for digit in range(10)]
    figure.legend(handles=marks, loc="outside lower center", ncols=10, frameon=False, fontsize=8, handletextpad=0)
    return figure


def scatter(axes, run: pd.Series, prefix: str, label: str) -> None:
    """Digits as points of ten colours, and how often the nearest neighbour is right."""
    digit, x, y = ([v for *_, v in run["series"].get(f"tsne/{key}", [])] for key in ("digit", f"{prefix}x", f"{prefix}y"))
    axes.scatter(x, y, c=digit[: len(x)], cmap="tab10", vmin=-0.5, vmax=9.5, s=4, linewidths=0)
    accuracy, n = run[PANELS[prefix]], int(run["queries"])
    low, high = Share(round(accuracy * n), n, scale=100).at(0.05)
    axes.set_title(f"{label}: 1-NN {100 * accuracy:.1f}%\n({low:.1f} to {high:.1f}; n = {n:,})", loc="left", fontsize=8)
