"""What figures 5.13 and 5.15 show and claim: what the k-filter leaves, beside a band around the boundary."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from effdl import k_filter
from effdl.datasets.toy import Checkerboard, Separable, Sinusoidal
from effdl.reproduce import artefact

COLORS = ("tab:red", "tab:blue")
LINE = 20_000  # points of the curve among which the nearest is sought


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what the filter keeps of the points that the run's seed draws, and how far that is a band around the boundary."""
    place = (runs.attrs["artefact"], runs.attrs["scale"])
    found = [filtered(place, cell, int(seed)) for cell, seed in zip(runs["cell"], runs["seed"], strict=True)]
    return runs.assign(**{key: [one[key] for one in found] for key in found[0]}) if found else runs


@cache
def filtered(place: tuple[str, str], cell_name: str, seed: int) -> dict[str, float]:
    """as_a_band: the share of samples that a band of the same number treats alike. width: how far it reaches to each side."""
    dataset, k, x, y = drawn(place, cell_name, seed)
    kept = np.zeros(len(x), bool)
    kept[k_filter(x, y, k)] = True
    distance = to_boundary(dataset, x)
    inside = np.zeros(len(x), bool)
    inside[np.argsort(distance, kind="stable")[: kept.sum()]] = True
    return {"kept": float(kept.mean()), "as_a_band": float((kept == inside).mean()), "width": float(distance[inside].max())}


def drawn(place: tuple[str, str], cell_name: str, seed: int) -> tuple[Any, int, Any, Any]:
    """The data set and k of an artefact's cell at a scale, and x (m, 2) and y (m,) as this seed draws them."""
    name, scale = place
    cell = next(cell for cell in artefact.load(name).cells(scale) if cell.name == cell_name)
    dataset = artefact.specs(cell)[0].dataset
    data = dataset.draw(torch.Generator().manual_seed(seed))
    return dataset, int(cell.at["k"]), data.x.double().numpy(), data.y.numpy()


def to_boundary(dataset: Any, points: np.ndarray) -> np.ndarray:
    """(n,) Euclidean distances of (n, 2) points to where classes change."""
    if isinstance(dataset, Checkerboard):
        lines = np.arange(1, dataset.squares) / dataset.squares - 0.5
        return np.abs(points[:, :, None] - lines).min((1, 2))
    if isinstance(dataset, Separable):
        return np.abs(points @ [np.cos(np.radians(dataset.angle)), np.sin(np.radians(dataset.angle))])
    assert isinstance(dataset, Sinusoidal)
    line = np.linspace(-1, 1, LINE)
    curve = np.column_stack([line, dataset.amplitude * np.sin(np.pi * dataset.periods * line)])
    return cKDTree(curve).query(points)[0]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row for each data set: all points, and by k those that are left; the first seed's."""
    rows: dict[tuple[str, ...], list[Any]] = {}
    for cell in declaration.cells(scale):
        labels = tuple(declaration.label(axis, level) for axis, level in cell.at.items() if axis != "k")
        rows.setdefault(labels, []).append(cell)
    columns = 1 + max(map(len, rows.values()))
    figure = Figure(figsize=(2.6 * columns, 2.9 * len(rows)), layout="constrained")
    for (whole, *others), (labels, cells) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        for axes, cell in zip(others, cells, strict=True):
            seed = int(runs[runs["cell"] == cell.name]["seed"].min()) if (runs["cell"] == cell.name).any() else 0
            _, k, x, y = drawn((declaration.artefact.id, scale), cell.name, seed)
            kept = k_filter(x, y, k)
            scatter(axes, x[kept], y[kept], f"{declaration.label('k', cell.at['k'])}: {len(kept) / len(x):.0%} kept")
            if cell is cells[0]:
                scatter(whole, x, y, ", ".join((*labels, f"all {len(x):,}")))
    return figure


def scatter(axes: Any, x: np.ndarray, y: np.ndarray, title: str) -> None:
    for label, color in enumerate(COLORS):
        axes.plot(*x[y == label].T, ".", color=color, markersize=1.5)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize=8)
