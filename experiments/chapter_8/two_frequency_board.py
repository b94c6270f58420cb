"""What the two-frequency board shows and claims: by half and epoch accuracy, k-redundancy of layers, gradients, distances."""

from itertools import takewhile

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from effdl.reproduce import artefact
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.series import Series, curve, lists

HALVES = {"left": "fine", "right": "coarse"}
HIDDEN = [f"linear{i}" for i in range(1, 7)]
NAN = float("nan")
Curve = dict[int, float]


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds by run what halves reach, the coarse one's lead, ratios of gradients, coarse over fine, and what layers add."""
    shares = {cell: left_share(runs.attrs["scale"], cell) for cell in runs["cell"].unique()}
    series = runs.get("series", [None] * len(runs))
    found = [of_run(one, shares[cell]) for one, cell in zip(series, runs["cell"], strict=True)]
    return runs.join(pd.DataFrame(found, index=runs.index))


def left_share(scale: str, name: str) -> float:
    """Which part of a cell's samples lies left."""
    cell = next(cell for cell in artefact.load("two-frequency-board").cells(scale) if cell.name == name)
    return float(artefact.specs(cell)[0].dataset.left_share)


def of_run(series: Series | None, share: float) -> dict[str, float]:
    accuracy = {half: dict(curve(series, f"by_region/acc/{half}")) for half in HALVES}
    pull = ratio({half: pulled(series, half) for half in HALVES})
    errors = ratio({half: dict(curve(series, f"by_region/deltas/{half}/linear1")) for half in HALVES})
    below, *layers = gaps(series)
    distances = [far for layer in hidden(series) if (far := distance(series, layer))]
    throughout = geometric(pull)
    return {
        **{f"acc_{half}": last(values) for half, values in accuracy.items()},
        "lead": mean(accuracy["right"]) - mean(accuracy["left"]),
        "redundancy_input": below,
        "redundancy_least": min(layers, default=NAN),
        "first_layer_adds": added(series, 0),
        "last_layer_adds": -added(series, -1),
        "pull_before": pull.get(0, NAN),
        "pull_first": pull.get(1, NAN),
        "pull_throughout": throughout,
        "pull_end": last(pull),
        "errors_throughout": geometric(errors),
        "part_throughout": float(np.log2(throughout * (1 - share) / share)),
        "bottom_up": mean(distances[-1]) - mean(distances[0]) if distances else NAN,
    }


def hidden(series: Series | None) -> list[str]:
    """The hidden layers of the run's network."""
    return list(takewhile(lambda layer: curve(series, f"weight_sketch/{layer}"), HIDDEN))


def mean(values: Curve) -> float:
    """Over the epochs from the first to the last, what lies between two looks by a straight line."""
    if len(values) < 2:
        return NAN
    epochs = np.array(list(values), float)
    return float(np.trapezoid(list(values.values()), epochs) / (epochs[-1] - epochs[0]))


def geometric(values: Curve) -> float:
    return float(np.exp(mean({epoch: float(np.log(value)) for epoch, value in values.items()})))


def last(values: Curve) -> float:
    return values[max(values)] if values else NAN


def ratio(of: dict[str, Curve]) -> Curve:
    """Coarse over fine, by epoch, where both are positive."""
    both = [epoch for epoch, value in of["left"].items() if value > 0 and of["right"].get(epoch, 0) > 0]
    return {epoch: of["right"][epoch] / of["left"][epoch] for epoch in both}


def pulled(series: Series | None, half: str) -> Curve:
    """By epoch the norm of the gradient of a half's mean loss by all weight matrices."""
    layers = [dict(curve(series, f"by_region/weights/{half}/{layer}")) for layer in (*hidden(series), "output")]
    epochs = sorted(set.intersection(*map(set, layers)))
    return {epoch: float(np.sqrt(sum(layer[epoch] ** 2 for layer in layers))) for epoch in epochs}


def redundancy(series: Series | None, half: str) -> list[float]:
    """k-redundancy of a half, of the points and of each hidden layer, when training ends."""
    return [last(dict(curve(series, f"by_region/k_redundancy/5/{half}/{layer}"))) for layer in ("input", *hidden(series))]


def gaps(series: Series | None) -> list[float]:
    """Of the points and of each hidden layer: k-redundancy of the coarse half less that of the fine one."""
    return [coarse - fine for fine, coarse in zip(*(redundancy(series, half) for half in HALVES), strict=True)]


def added(series: Series | None, place: int) -> float:
    """What a hidden layer adds to the coarse half's k-redundancy beyond what it adds to the fine one's."""
    steps = np.diff(gaps(series))
    return float(steps[place]) if len(steps) else NAN


def distance(series: Series | None, layer: str) -> Curve:
    """By epoch how far a layer's weights are from where they end, over how far they were before training."""
    sketches = lists(series, f"weight_sketch/{layer}")
    if len(sketches) < 2:
        return {}
    states: list[NDArray[np.float64]] = list(sketches.values())
    before = np.linalg.norm(states[0] - states[-1])
    return {epoch: float(np.linalg.norm(state - states[-1]) / before) for epoch, state in sketches.items()}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row a cell, means over seeds: accuracy by epoch, k-redundancy by layer, gradients by epoch, distances by epoch."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(11.5, 2.5 * len(cells)), layout="constrained")
    for row, cell in zip(figure.subplots(len(cells), 4, squeeze=False), cells, strict=True):
        drawn = list(of_cell(runs, cell.name).get("series", []))
        for half, name in HALVES.items():
            colour = "C0" if half == "left" else "C1"
            line(row[0], [dict(curve(one, f"by_region/acc/{half}")) for one in drawn], 100, label=name, color=colour)
            layers = [dict(enumerate(redundancy(one, half))) for one in drawn]
            line(row[1], layers, 100, label=name, color=colour)
            line(row[2], [pulled(one, half) for one in drawn], 1, label=f"{name}, all weights", color=colour)
            errors = [dict(curve(one, f"by_region/deltas/{half}/linear1")) for one in drawn]
            line(row[2], errors, 1, label=f"{name}, each sample", color=colour, linestyle=":")
        names = hidden(drawn[0]) if drawn else []
        for i, layer in enumerate(names):
            shade = str(0.75 - 0.75 * i / max(len(names) - 1, 1))
            line(row[3], [distance(one, layer) for one in drawn], 1, label=f"layer {i + 1}", color=shade)
        label = ", ".join(declaration.label(axis, level) for axis, level in cell.at.items())
        row[0].set_title(label, loc="left", fontsize=8)
        row[0].set(ylabel="accuracy, %", ylim=(40, 102))
        row[1].set(ylabel="k-redundancy, %, k = 5", ylim=(0, 102))
        row[1].set_xticks(range(len(names) + 1), ["input", *(str(i + 1) for i in range(len(names)))])
        row[2].set(ylabel="norm of gradient", yscale="log")
        row[3].set(ylabel="distance to the end", ylim=(0, None))
        epochs = sorted({epoch for one in drawn for epoch, _ in curve(one, "by_region/acc/left")})
        for axes in (row[0], row[2], row[3]):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(epochs, spaced(epochs), fontsize=7)
            axes.tick_params(axis="x", which="minor", length=0)
            axes.set_xlim(0, max(epochs, default=1))
    for axes, label in zip(row, ("epochs", "layer", "epochs", "epochs"), strict=True):
        axes.set_xlabel(label)
    for axes in figure.axes[:4]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=6, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2)
    return figure


def spaced(epochs: list[int]) -> list[str]:
    """The epochs as labels on a logarithmic axis, from the last downwards, without those that would run into the one above."""
    shown, above = [], None
    for epoch in reversed(epochs):
        if above is None or above >= 1.7 * epoch:
            above = epoch
            shown.append(str(epoch))
        else:
            shown.append("")
    return shown[::-1]


def line(axes, of_runs: list[Curve], factor: float, **style) -> None:
    """The mean over runs, at what most of them have."""
    means = pd.DataFrame(of_runs).mean()
    if len(means):
        axes.plot(means.index, factor * means, **{"marker": ".", "markersize": 3, "linewidth": 1} | style)
