"""What figure 5.16 shows and claims: gradients of the error in the space of the inputs, beside diagonals and elsewhere."""

from functools import cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl import k_filter
from effdl.reproduce import artefact
from effdl.reproduce.series import Series, lists

WIDTH = 0.05  # to each side of a line, as far as `checkerboard_off_diagonals` leaves out
DIAGONALS = tuple(np.array(normal) / np.sqrt(2) for normal in ((1, -1), (1, 1)))
MIDDLE = tuple(map(np.array, ((1.0, 0.0), (0.0, 1.0))))
COLORS = ("tab:red", "tab:blue")
KEY = "input_gradients"
Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # x (n, 2), gradients (n, 2), and classes (n,)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds dominance, opposing, opposing_middle and excess, and how many samples they are of."""
    scale = runs.attrs["scale"]
    found = [
        numbers(scale, cell, series) for cell, series in zip(runs["cell"], runs.get("series", [None] * len(runs)), strict=True)
    ]
    return runs.join(pd.DataFrame(found, index=runs.index))


def numbers(scale: str, cell: str, series: Series | None) -> dict[str, float]:
    """Of one run; NaN where it recorded nothing."""
    found = trained_on(scale, cell, series)
    if found is None:
        return dict.fromkeys(("dominance", "opposing", "opposing_middle", "excess", "counted"), np.nan)
    x, slopes, _ = found
    across, middle = opposing(x, slopes, DIAGONALS), opposing(x, slopes, MIDDLE)
    return {
        "dominance": dominance(x, slopes),
        "opposing": across,
        "opposing_middle": middle,
        "excess": across - middle,
        "counted": float(len(x)),
    }


def dominance(x: np.ndarray, slopes: np.ndarray) -> float:
    """Root mean square of the gradients within WIDTH of a diagonal over that of the others."""
    near = np.min([np.abs(x @ normal) for normal in DIAGONALS], 0) < WIDTH
    squares = (slopes**2).sum(1)
    return float(np.sqrt(squares[near].mean() / squares[~near].mean()))


def opposing(x: np.ndarray, slopes: np.ndarray, normals: tuple[np.ndarray, ...]) -> float:
    """How far the gradients within WIDTH of a line point away from it on both sides, or towards it, over their mean length:
    the mean over lines through the origin with these normals, in [0, 1]."""
    found = []
    for normal in normals:
        place = x @ normal
        near = np.abs(place) < WIDTH
        outwards = np.sign(place[near]) * (slopes[near] @ normal)
        found.append(abs(outwards.mean()) / np.linalg.norm(slopes[near], axis=1).mean())
    return float(np.mean(found))


def trained_on(scale: str, cell: str, series: Series | None) -> Points | None:
    """What was recorded last, of the samples that the cell's filter keeps; None of a run that recorded nothing."""
    columns = [lists(series, f"{KEY}/{key}") for key in ("input/0", "input/1", "gradient/0", "gradient/1", "class")]
    if not columns[0]:
        return None
    x0, x1, g0, g1, y = (column[max(column)] for column in columns)
    x, kept = np.column_stack([x0, x1]), kept_by(scale, cell)
    own = np.ones(len(x), bool) if kept is None else np.array([tuple(np.round(point, 5)) in kept for point in x])
    return x[own], np.column_stack([g0, g1])[own], y[own]


@cache
def kept_by(scale: str, cell_name: str) -> frozenset[tuple[float, ...]] | None:
    """The samples that a cell's filter keeps, rounded; None where there is no filter."""
    cell = next(cell for cell in artefact.load("fig-5.16").cells(scale) if cell.name == cell_name)
    spec = artefact.specs(cell)[0]
    if spec.filter is None:
        return None
    train, _ = spec.dataset.load()
    kept = k_filter(train.x, train.y, spec.filter.k)
    return frozenset(tuple(map(float, np.round(point, 5))) for point in train.x[kept].double().numpy())


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row for each length: the whole board, a part of its diagonal, and the filtered board; the first seed's gradients."""
    lengths = list(declaration.artefact.axes["epochs"])
    figure = Figure(figsize=(9.6, 3.4 * len(lengths)), layout="constrained")
    for row, epochs in zip(figure.subplots(len(lengths), 3, squeeze=False), lengths, strict=True):
        for axes, data, part in zip(row, ("whole", "whole", "filtered"), (0.5, 0.2, 0.5), strict=True):
            name = f"epochs={epochs},data={data}"
            own = runs[(runs["cell"] == name) & (runs["status"] == "finished")].sort_values("seed")
            found = trained_on(scale, name, own.iloc[0]["series"]) if len(own) else None
            label = declaration.label("epochs", epochs)
            told = f"; diagonals {dominance(*found[:2]):.2f} of others" if found and part == 0.5 else ""
            shown = declaration.label("data", data) if part == 0.5 else "a part of the diagonals"
            field(axes, found, part, f"{label}, {shown}{told}")
    figure.supxlabel(
        "steps down each sample's error in input space, as long as they are; red and blue: the classes", fontsize=8
    )
    return figure


def field(axes, points: Points | None, part: float, title: str) -> None:
    """Arrows against the gradients of the samples within ±part of the middle, over the squares and diagonals of the board."""
    side = np.arange(8)
    board = (side[:, None] + side) % 2
    axes.imshow(board, cmap="bwr_r", alpha=0.12, extent=(-0.5, 0.5, -0.5, 0.5), origin="lower", interpolation="none")
    for slope in (1, -1):
        axes.plot([-0.5, 0.5], [-0.5 * slope, 0.5 * slope], color="0.5", linewidth=0.6, linestyle=":")
    if points is not None:
        x, slopes, y = points
        scale = 12 * np.sqrt((slopes**2).sum(1).mean()) * 0.5 / part
        ink = {"scale": scale, "width": 0.004, "headwidth": 4}
        axes.quiver(*x.T, *-slopes.T, color=[COLORS[int(label)] for label in y], **ink)
    axes.set(xlim=(-part, part), ylim=(-part, part), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize=8)
