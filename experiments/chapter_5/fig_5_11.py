"""Pure Voronoi maps of points on both sides of a sine curve, as figures 5.11 and 5.12 have them, and with flipped labels."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.spatial import cKDTree
from scipy.stats import entropy

from effdl import pure_voronoi
from effdl.reproduce import artefact

COLORS = ("tab:red", "tab:blue")
LINE = 20_000  # points of the curve among which the nearest is sought
GRID = 240  # pixels of a map's side


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what a map of the points that the run's seed draws is like: its entropy, its centroids, and where they lie."""
    place = (runs.attrs["artefact"], runs.attrs["scale"])
    found = [mapped(place, cell, int(seed)) for cell, seed in zip(runs["cell"], runs["seed"], strict=True)]
    return runs.assign(**{key: [one[key] for one in found] for key in found[0]}) if found else runs


@cache
def mapped(place: tuple[str, str], cell_name: str, seed: int) -> dict[str, float]:
    """nearness: the mean distance of centroids to the boundary over that of samples. beyond: the pure entropy less H(Y|X)."""
    dataset, x, y = drawn(place, cell_name, seed)
    found = pure_voronoi(x, y)
    distances = [to_boundary(dataset, points).mean() for points in (found.centroids, x)]
    return {
        "pure_entropy": found.entropy,
        "centroids": float(len(found.centroids)),
        "nearness": float(distances[0] / distances[1]),
        "beyond": found.entropy - of_flips(dataset.flipped),
    }


def of_flips(p: float) -> float:
    """H(Y|X) in bits where nothing but a flip, with probability p, makes a label uncertain."""
    return float(entropy([p, 1 - p], base=2))


def drawn(place: tuple[str, str], cell_name: str, seed: int) -> tuple[Any, Any, Any]:
    """The data set of an artefact's cell at a scale, and x (m, 2) and y (m,) as this seed draws them."""
    name, scale = place
    cell = next(cell for cell in artefact.load(name).cells(scale) if cell.name == cell_name)
    dataset = artefact.specs(cell)[0].dataset
    data = dataset.draw(torch.Generator().manual_seed(seed))
    return dataset, data.x.double().numpy(), data.y.numpy()


def to_boundary(dataset: Any, points: np.ndarray) -> np.ndarray:
    """(n,) Euclidean distances of (n, 2) points to the curve, within the square."""
    return curve(dataset.amplitude, dataset.periods).query(points)[0]


@cache
def curve(amplitude: float, periods: float) -> cKDTree:
    """The boundary, on which the nearest is found quickly."""
    line = np.linspace(-1, 1, LINE)
    points = np.column_stack([line, amplitude * np.sin(np.pi * periods * line)])
    return cKDTree(points, leafsize=128, balanced_tree=False, compact_nodes=False)  # quickest of a curve


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row each of data, map, and map with centroids; the first seed's."""
    cells = [cell for cell in declaration.cells(scale) if set(cell.at) == set(declaration.artefact.axes)]
    figure = Figure(figsize=(7, 2.4 * len(cells)), layout="constrained")
    for row, cell in zip(figure.subplots(len(cells), 3, squeeze=False), cells, strict=True):
        seed = int(runs[runs["cell"] == cell.name]["seed"].min()) if (runs["cell"] == cell.name).any() else 0
        _, x, y = drawn((declaration.artefact.id, scale), cell.name, seed)
        found = pure_voronoi(x, y)
        side = (np.arange(GRID) + 0.5) / GRID * 2 - 1
        pixels = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        nearest = cKDTree(found.centroids).query(pixels)[1].reshape(GRID, GRID)
        (axis,) = cell.at
        for axes, shows in zip(row, ("data", "map", "centroids"), strict=True):
            if shows != "data":
                filled = {"cmap": "bwr_r", "alpha": 0.25, "interpolation": "none"}
                axes.imshow(found.classes[nearest], extent=(-1, 1, -1, 1), origin="lower", **filled)
                edges = (nearest[1:, 1:] != nearest[:-1, 1:]) | (nearest[1:, 1:] != nearest[1:, :-1])
                axes.contour(side[1:], side[1:], edges, levels=[0.5], colors="0.3", linewidths=0.4)
            for label, color in enumerate(COLORS):
                own = x[y == label]
                axes.plot(*own.T, ".", color=color, markersize=1.5, alpha=1 if shows == "data" else 0.35)
                if shows == "centroids":
                    centroids = found.centroids[found.classes == label]
                    axes.plot(*centroids.T, "o", color=color, markersize=3, markeredgecolor="black")
            axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[])
        row[0].set_title(declaration.label(axis, cell.at[axis]), loc="left", fontsize=8)
        row[1].set_title(f"{len(found.centroids)} cells", loc="left", fontsize=8)
        row[2].set_title(f"pure entropy {found.entropy:.2f} bits", loc="left", fontsize=8)
    return figure
