"""The way of the error through small networks, of figures 1.1 and 1.2: their weights, and what takes their place going back."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import wiring

Series = dict[str, list[list[float]]]  # name -> [segment, epoch, value] of each point

UNITS = 6  # of the hidden layer
ANGLE = "alignment/angle/all"


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds angle and first_angle, between update and gradient at the end and before the first epoch, in degrees; drift, how far
    any entry of the feedback matrix has moved; and apart, how far any weight is from that of DFA with the same seed."""
    series = [told(one) for one in runs.get("series", [None] * len(runs))]
    of_dfa = [one if rule == "dfa" else None for one, rule in zip(series, runs["rule"], strict=True)]
    known = {seed: forward(one, -1) for seed, one in zip(runs["seed"], of_dfa, strict=True) if one}
    rows = [{} if one is None else numbers(one, known.get(seed)) for seed, one in zip(runs["seed"], series, strict=True)]
    columns = ["first_angle", "angle", "drift", "apart"]
    return runs.join(pd.DataFrame(rows, index=runs.index, columns=columns, dtype=float))


def told(series: Series | None) -> Series | None:
    """A run's series, where its weights are among them."""
    return series if isinstance(series, dict) and series.get("weights/head/0") else None


def numbers(series: Series, of_dfa: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float]:
    """What `measures` adds to one run."""
    angles = [value for *_, value in series.get(ANGLE, [])]
    found = {"first_angle": angles[0], "angle": angles[-1]} if len(angles) > 1 else {}
    if (matrix := feedback(series, 0)) is not None:
        found["drift"] = float(np.abs(feedback(series, -1) - matrix).max())
    if of_dfa is not None:
        found["apart"] = max(float(np.abs(a - b).max()) for a, b in zip(forward(series, -1), of_dfa, strict=True))
    return found


def forward(series: Series, look: int) -> tuple[np.ndarray, np.ndarray]:
    """W₁ (units, inputs) and w₂ (1, units) at the first look or the last."""
    first = np.stack([row(series, f"weights/linear1/{i}", look) for i in range(UNITS)])
    return first, row(series, "weights/head/0", look)[None]


def feedback(series: Series, look: int) -> np.ndarray | None:
    """What stands in the place of w₂, (1, units); None where nothing does."""
    for name in ("linear1", "head"):
        if series.get(f"weights/feedback/{name}/0"):
            return row(series, f"weights/feedback/{name}/0", look)[None]
    return None


def row(series: Series, name: str, look: int) -> np.ndarray:
    """The points of the first look, or the last, that have the same epoch."""
    points = series[name]
    return np.array([value for _, epoch, value in points if epoch == points[look][1]])


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row for each rule, before training and after: a full line for each weight going forward, a dashed one going back."""
    rules = declaration.artefact.axes["rule"]
    figure = Figure(figsize=(9, 3.4 * len(rules) + 0.4), layout="constrained")
    for of_row, rule in zip(figure.subplots(len(rules), 2, squeeze=False), rules, strict=True):
        cell = runs[(runs["cell"] == f"rule={rule}") & (runs["status"] == "finished")].sort_values("seed")
        for axes, look, when in zip(of_row, (0, -1), ("before training", "after training"), strict=True):
            axes.axis("off")
            axes.set(xlim=(-0.3, 2.5), ylim=(-0.75, 0.75))
            title = f"{declaration.label('rule', rule)}, {when}"
            if len(cell):
                first, second = forward(cell.iloc[0]["series"], look)
                back = feedback(cell.iloc[0]["series"], look)
                matrix, name = (second, "w₂ᵀ") if back is None else (back, "B")
                network(axes, first, second, matrix)
                cosine = float((matrix * second).sum() / np.linalg.norm(matrix) / np.linalg.norm(second))
                title += f"; back by {name}, whose cosine with w₂ is {cosine:.2f}"
            axes.set_title(title, loc="left", fontsize=8)
    figure.supxlabel("inputs, hidden units, output: full forward, dashed back; blue positive, red negative", fontsize=8)
    return figure


def network(axes, first: np.ndarray, second: np.ndarray, back: np.ndarray) -> None:
    """The error comes back from the output by arrows of its own."""
    inputs, hidden, output = (wiring.units(x, n) for x, n in ((0, first.shape[1]), (1, len(first)), (2, 1)))
    wiring.weights(axes, inputs, hidden, first)
    wiring.weights(axes, hidden, output, second, bend=0.12)
    wiring.weights(axes, output, hidden, back.T, "--", 0.12)
    wiring.nodes(axes, [*inputs, *hidden, *output])
    axes.text(2.12, 0, "ŷ − y", fontsize=9, va="center")
