"""What figures 5.7, 5.8 and 5.10 show: a problem in the plane through the layers of a network that has learned it.

Layers of two units put out points of the plane: of these nothing is left out, and nothing is projected.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.spatial import cKDTree

from effdl import pure_voronoi
from effdl.reproduce.drawn import learned_best, points
from effdl.reproduce.series import Series, lists

WIDTHS = (8, 2, 8, 2, 8, 2, 1)
SHOWN = {0: "first", 2: "second", 4: "third", 6: "last"}  # layers below which the plane is drawn, and their columns' names
COLORS = ("tab:red", "tab:blue")
HELD = 4.605  # squared Mahalanobis distance within which 90% of a normal distribution in the plane lie
GRID = 240  # pixels of a map's side
Layer = tuple[np.ndarray, np.ndarray]  # weights (out, in) and biases (out,)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what the figure's own measure says of each plane, such as cells_first of the inputs; NaN of runs without weights."""
    name, scale = runs.attrs["artefact"], runs.attrs["scale"]
    measure, word = {"fig-5.7": (linear, "linear"), "fig-5.8": (shared, "shared"), "fig-5.10": (cells, "cells")}[name]
    y, rows = points(name, scale)[1], []
    for series in runs.get("series", [None] * len(runs)):
        planes = through(name, scale, series)
        rows.append({f"{word}_{SHOWN[at]}": measure(planes[at], y) if planes else np.nan for at in SHOWN})
    return runs.join(pd.DataFrame(rows, index=runs.index))


def linear(z: np.ndarray, y: np.ndarray) -> float:
    """The share of samples that are on the right side of the line of least squares."""
    ones = np.column_stack([z, np.ones(len(z))])
    solved = np.linalg.lstsq(ones, 2.0 * y - 1, rcond=None)[0]
    return float(((ones @ solved > 0) == y).mean())


def shared(z: np.ndarray, y: np.ndarray) -> float:
    """The share of samples that lie within the ellipses of both classes, see HELD."""
    inside = [within(z, z[y == label]) for label in (0, 1)]
    return float((inside[0] & inside[1]).mean())


def within(z: np.ndarray, own: np.ndarray) -> np.ndarray:
    away = z - own.mean(0)
    return np.einsum("ni,ij,nj->n", away, np.linalg.pinv(np.cov(own.T)), away) <= HELD


def cells(z: np.ndarray, y: np.ndarray) -> float:
    """How many cells a pure Voronoi map has."""
    return float(len(pure_voronoi(z, y).centroids))


def layers(series: Series | None) -> list[Layer]:
    """The network's layers after training, from the bottom up; none of a run without weights."""
    names = [*(f"linear{i + 1}" for i in range(len(WIDTHS) - 1)), "head"]
    last = [
        [lists(series, f"weights/{name}/{row}") for row in (*range(n), "bias")] for name, n in zip(names, WIDTHS, strict=True)
    ]
    if not all(look for of_layer in last for look in of_layer):
        return []
    found = [[look[max(look)] for look in of_layer] for of_layer in last]
    return [(np.stack(weights), bias) for *weights, bias in found]


def forward(network: list[Layer], z: np.ndarray) -> np.ndarray:
    """What these layers make of z (n, in): a tanh behind each but the network's last, whose single output is a logit."""
    for weights, bias in network:
        z = z @ weights.T + bias
        z = np.tanh(z) if len(weights) > 1 else z
    return z


def through(name: str, scale: str, series: Series | None) -> dict[int, np.ndarray]:
    """The samples in each plane, (m, 2), by how many layers are below it."""
    network, x = layers(series), points(name, scale)[0]
    return {at: forward(network[:at], x) for at in SHOWN} if network else {}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The planes of the network that learned best, side by side from the inputs to the layer below the output."""
    name = declaration.artefact.id
    series = learned_best(runs)
    network, planes, (_, y) = layers(series), through(name, scale, series), points(name, scale)
    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, at in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        axes.set(xticks=[], yticks=[])
        told = ""
        if planes:
            z = planes[at]
            middle, reach = (z.min(0) + z.max(0)) / 2, 0.54 * float(np.ptp(z, axis=0).max())
            axes.set(xlim=middle[0] + np.array([-reach, reach]), ylim=middle[1] + np.array([-reach, reach]), aspect="equal")
            shows = {"fig-5.7": boundary, "fig-5.8": clouds, "fig-5.10": bins}[name]
            told = shows(axes, z, y, network[at:])
        axes.set_title(("inputs" if at == 0 else f"layer {at}") + told, loc="left", fontsize=9)
    return figure


def samples(axes, z: np.ndarray, y: np.ndarray, **ink) -> None:
    for label, color in enumerate(COLORS):
        axes.plot(*z[y == label].T, ".", color=color, **ink)


def pixels(axes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (GRID,) and y (GRID,) of the middles of an axes' pixels, and all their places (GRID², 2)."""
    x, y = (np.linspace(*limits, GRID) for limits in (axes.get_xlim(), axes.get_ylim()))
    return x, y, np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def boundary(axes, z: np.ndarray, y: np.ndarray, above: list[Layer]) -> str:
    """Where the layers above decide otherwise, over what they decide."""
    x, rows, places = pixels(axes)
    logits = forward(above, places).reshape(GRID, GRID)
    axes.contourf(x, rows, logits, levels=[-np.inf, 0, np.inf], colors=COLORS, alpha=0.15)
    samples(axes, z, y, markersize=2, alpha=0.5)
    axes.contour(x, rows, logits, levels=[0], colors="black", linewidths=1.8)
    return f": a line gets {linear(z, y):.0%}"


def clouds(axes, z: np.ndarray, y: np.ndarray, above: list[Layer]) -> str:
    """The ellipses of both classes, as in a Venn diagram."""
    samples(axes, z, y, markersize=2, alpha=0.5)
    for label, color in enumerate(COLORS):
        own = z[y == label]
        values, vectors = np.linalg.eigh(np.cov(own.T))
        width, height = 2 * np.sqrt(HELD * np.maximum(values, 0))
        turned = {"angle": np.degrees(np.arctan2(*vectors[::-1, 0])), "facecolor": color, "edgecolor": color}
        axes.add_patch(Ellipse(own.mean(0), width, height, alpha=0.25, linewidth=1.5, **turned))
    return f": {shared(z, y):.0%} in both"


def bins(axes, z: np.ndarray, y: np.ndarray, above: list[Layer]) -> str:
    """The cells of a pure Voronoi map."""
    found = pure_voronoi(z, y)
    x, rows, places = pixels(axes)
    nearest = cKDTree(found.centroids).query(places)[1].reshape(GRID, GRID)
    extent = (*axes.get_xlim(), *axes.get_ylim())
    axes.imshow(
        found.classes[nearest], cmap="bwr_r", alpha=0.45, extent=extent, origin="lower", interpolation="none", aspect="equal"
    )
    edges = (nearest[1:, 1:] != nearest[:-1, 1:]) | (nearest[1:, 1:] != nearest[1:, :-1])
    axes.contour(x[1:], rows[1:], edges, levels=[0.5], colors="black", linewidths=0.8)
    samples(axes, z, y, markersize=1.5, alpha=0.5)
    return f": {len(found.centroids)} bins, {found.entropy:.1f} bits"
