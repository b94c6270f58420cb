"""What figures 5.17 and 5.22 show: a weight vector that has learned, its half-spaces and the line that it projects to."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.representations.intervals import Interval, discriminative_intervals, intervals
from effdl.reproduce.drawn import learned_best, points
from effdl.reproduce.series import Series, lists

UNITS = 8
COLORS = ("tab:red", "tab:blue")
GRID = 200  # pixels of a side


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Of figure 5.17 adds positive, selected and shift; of 5.22 intervals, discriminative and within; NaN without weights."""
    name, scale = runs.attrs["artefact"], runs.attrs["scale"]
    of_unit = half_spaces if name == "fig-5.17" else of_line
    x, y = points(name, scale)
    found = [of_unit(x, y, *layer(series)) for series in runs.get("series", [None] * len(runs))]
    return runs.join(pd.DataFrame(found, index=runs.index))


def half_spaces(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> dict[str, float]:
    """Of the first unit the shares of samples with xw > 0 and xw + b > 0, and how far b shifts the line between, along w."""
    if not len(weights):
        return dict.fromkeys(("positive", "selected", "shift"), np.nan)
    products = x @ weights[0]
    return {
        "positive": float((products > 0).mean()),
        "selected": float((products + bias[0] > 0).mean()),
        "shift": float(-bias[0] / np.linalg.norm(weights[0])),
    }


def of_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> dict[str, float]:
    """Of the unit with most samples in discriminative intervals."""
    if not len(weights):
        return dict.fromkeys(("intervals", "discriminative", "within"), np.nan)
    line = lines(x, weights, bias)[best(x, y, weights, bias)]
    good = discriminative_intervals(line, y)
    within = sum(one.samples for one in good) / len(y)
    return {"intervals": float(len(intervals(line, y))), "discriminative": float(len(good)), "within": within}


def best(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> int:
    """The unit with most samples in discriminative intervals; of several the first."""
    return int(np.argmax([sum(one.samples for one in discriminative_intervals(a, y)) for a in lines(x, weights, bias)]))


def lines(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(units, m): xw + b of each unit."""
    return (x @ weights.T + bias).T


def layer(series: Series | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (UNITS, 2) and biases (UNITS,) of the first layer after training; empty of a run without."""
    looks = [lists(series, f"weights/linear1/{row}") for row in (*range(UNITS), "bias")]
    if not all(looks):
        return np.empty((0, 2)), np.empty(0)
    *weights, bias = (look[max(look)] for look in looks)
    return np.stack(weights), bias


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Of the network that learned best."""
    weights, bias = layer(learned_best(runs))
    x, y = points(declaration.artefact.id, scale)
    figure = Figure(figsize=(8, 3.8) if declaration.artefact.id == "fig-5.17" else (8, 4), layout="constrained")
    if not len(weights):
        return figure
    if declaration.artefact.id == "fig-5.17":
        for axes, added in zip(figure.subplots(1, 2), (0.0, float(bias[0])), strict=True):
            heat_map(axes, x, weights[0], added)
    else:
        unit = best(x, y, weights, bias)
        projected(figure.subplots(2, 1, sharex=True, height_ratios=[3, 2]), lines(x, weights, bias)[unit], y, unit)
    return figure


def heat_map(axes, x: np.ndarray, w: np.ndarray, bias: float) -> None:
    """xw + bias over the square of the inputs, with the line where it is 0 and the vector that is orthogonal to it."""
    side = np.linspace(-1, 1, GRID)
    products = np.stack(np.meshgrid(side, side), -1) @ w + bias
    most = float(np.abs(products).max())
    axes.imshow(products, cmap="coolwarm", vmin=-most, vmax=most, extent=(-1, 1, -1, 1), origin="lower")
    axes.plot(*x.T, ".", color="black", markersize=1, alpha=0.4)
    unit, foot = w / np.linalg.norm(w), -bias * w / (w @ w)
    along = np.array([-unit[1], unit[0]])
    axes.plot(*np.column_stack([foot - 3 * along, foot + 3 * along]), color="black", linewidth=1.6)
    axes.annotate(
        "",
        foot + 0.55 * unit,
        foot,
        arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": "black", "shrinkA": 0, "shrinkB": 0},
    )
    label = {"ha": "center", "va": "center", "fontsize": 11, "bbox": {"boxstyle": "round", "facecolor": "white", "alpha": 0.8}}
    for text, place in (("w", 0.68 * unit), ("$S_+$", 0.4 * unit + 0.5 * along), ("$S_-$", -0.4 * unit + 0.5 * along)):
        axes.text(*np.clip(foot + place, -0.9, 0.9), text, **label)
    axes.text(*np.clip(foot - 0.6 * along, -0.9, 0.9), "$s_0$", **label)
    selected = float((x @ w + bias > 0).mean())
    title = "x·w" if bias == 0 else f"x·w + b, b = {bias:.2f}"
    axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])
    axes.set_title(f"{title}: {selected:.0%} of the samples are positive", loc="left", fontsize=9)


def projected(axes, line: np.ndarray, y: np.ndarray, unit: int) -> None:
    """The samples on the line, one class above the other, over the entropy of each interval."""
    upper, lower = axes
    good, found = set(discriminative_intervals(line, y)), intervals(line, y)
    heights = np.random.default_rng(0).uniform(-0.4, 0.4, len(line))  # to tell neighbours apart
    for label, color in enumerate(COLORS):
        upper.plot(line[y == label], heights[y == label] + label, ".", color=color, markersize=4)
    for one in found:
        low, high = ends(one, line)
        for part in axes:
            part.axvspan(low, high, color="tab:green", alpha=0.18 if one in good else 0, linewidth=0)
        lower.plot([low, high], [one.entropy] * 2, color="tab:green" if one in good else "0.3", linewidth=2.5)
    for part in axes:
        part.axvline(0, color="black", linewidth=0.8, linestyle=":")
    upper.set(yticks=[0, 1], yticklabels=["below the curve", "above it"], ylim=(-0.6, 1.6))
    held = sum(one.samples for one in good) / len(y)
    upper.set_title(f"unit {unit + 1}; green: discriminative intervals, {held:.0%} of the samples", loc="left", fontsize=9)
    lower.set(xlabel="x·w + b", ylabel="entropy, bits", ylim=(-0.05, 1.08))


def ends(one: Interval, line: np.ndarray) -> tuple[float, float]:
    """Of an interval, where samples end if it does not."""
    return max(one.low, float(line.min())), min(one.high, float(line.max()))
