"""What each half of the two-frequency board is told by, over the number of samples."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import artefact
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.series import curve

HALVES = {"left": "fine half", "right": "coarse half"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds each half's accuracy after the last epoch, and how far the coarse one is ahead."""
    series = runs.get("series", [None] * len(runs))
    ends = {f"acc_{half}": [last(curve(one, f"by_region/acc/{half}")) for one in series] for half in HALVES}
    runs = runs.assign(**ends)
    return runs.assign(ahead=runs["acc_right"] - runs["acc_left"])


def last(values: list[tuple[int, float]]) -> float:
    return values[-1][1] if values else float("nan")


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Accuracy by samples in a half, and by samples in each of its squares; every seed a point, and their mean."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    whole, each = figure.subplots(1, 2, sharey=True)
    for place, (half, name) in enumerate(HALVES.items()):
        points = []
        for cell in cells:
            data = artefact.specs(cell)[0].dataset
            squares = {"left": data.squares_left, "right": data.squares_right}[half] ** 2 / 2
            found = of_cell(runs, cell.name)[f"acc_{half}"]
            points += [(data.train_limit / 2, squares, 100 * value) for value in found]
        if not points:
            continue
        found = pd.DataFrame(points, columns=["samples", "squares", "accuracy"])
        for axes, x in ((whole, found["samples"]), (each, found["samples"] / found["squares"])):
            axes.plot(x, found["accuracy"], ".", color=f"C{place}", markersize=4)
            means = found["accuracy"].groupby(x).mean()
            axes.plot(means.index, means, "-", color=f"C{place}", linewidth=1, label=name)
            axes.set(xscale="log", ylim=(40, 102))
    whole.set(xlabel="training samples in the half", ylabel="accuracy on unseen points, %")
    each.set(xlabel="training samples in each of its squares")
    for axes in (whole, each):
        places = sorted({float(x) for line in axes.lines[1::2] for x in line.get_xdata()})
        axes.set_xticks(places, [f"{place:,.0f}" for place in places], fontsize=8)
        axes.set_xticks([], minor=True)
    if whole.get_legend_handles_labels()[0]:
        whole.legend(frameon=False, fontsize=8)
    return figure
