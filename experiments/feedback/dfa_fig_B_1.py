"""How a single digit's representation is cut out of the first layer's weights, of figure B.1."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from effdl.reproduce import artefact

UNITS, PLACES, SIDE = 8, 3, 8
SHOWN = 1  # the place of the digit that is cut out


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds left_over: how far the products of single digits are, in sum, from the layer's product with the whole sample."""
    x = sample() if len(runs) else None
    return runs.assign(left_over=[left_over(one, x) for one in runs.get("series", [None] * len(runs))])


def left_over(series: dict[str, list[list[float]]] | None, x: np.ndarray) -> float:
    """Of one run; the whole is worked out from the sample as the network has it, a vector."""
    if not (w := weights(series)).size:
        return float("nan")
    whole = w.reshape(UNITS, -1) @ x.ravel()
    return float(np.abs(products(w, x).sum(1) - whole).max() / np.abs(whole).max())


def products(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(units, places): each digit with its own part of each unit's weights."""
    parts = [slice(place * SIDE, (place + 1) * SIDE) for place in range(PLACES)]
    return np.stack([np.einsum("uhw,hw->u", w[:, :, part], x[:, part]) for part in parts], 1)


def weights(series: dict[str, list[list[float]]] | None) -> np.ndarray:
    """(units, side, places × side) after training; empty where they were not recorded."""
    rows = [series.get(f"weights/linear1/{i}", []) if isinstance(series, dict) else [] for i in range(UNITS)]
    if not all(rows):
        return np.empty(0)
    return np.array([[v for _, e, v in row if e == row[-1][1]] for row in rows]).reshape(UNITS, SIDE, PLACES * SIDE)


def sample() -> np.ndarray:
    """Three digits side by side, standardised as all samples are."""
    dataset = artefact.specs(artefact.load("dfa-fig-B.1").cells("paper")[0])[0].dataset
    train, _ = dataset.load()
    found = train.moments()
    return ((train.first().double() - found.mean) / found.std)[0, 0].numpy()


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The sample, the weights of each unit as a picture, and the numbers that the digit in the middle becomes."""
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[3, 2])
    rows = left.subplots(UNITS + 1, 1)
    x, w = sample(), np.empty(0)
    cell = runs[runs["status"] == "finished"].sort_values("seed")
    if len(cell):
        w = weights(cell.iloc[0]["series"])
    for i, axes in enumerate(rows):
        axes.set(xticks=[], yticks=[])
        if i == 0:
            axes.imshow(x, cmap="gray_r")
            axes.set_title("a sample of three digits, and the weights of eight units", loc="left", fontsize=8)
        elif w.size:
            axes.imshow(w[i - 1], cmap="RdBu", vmin=-np.abs(w).max(), vmax=np.abs(w).max())
            axes.set_ylabel(f"unit {i}", fontsize=7, rotation=0, ha="right", va="center")
        frame = {"fill": False, "edgecolor": "black", "linewidth": 1.5, "clip_on": False}
        axes.add_patch(Rectangle((SHOWN * SIDE - 0.5, -0.5), SIDE, SIDE, **frame))
    bars = right.subplots()
    if w.size:
        bars.barh(range(1, UNITS + 1), products(w, x)[:, SHOWN], color="0.4")
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_yticks(range(1, UNITS + 1), [f"unit {i}" for i in range(1, UNITS + 1)], fontsize=7)
    bars.invert_yaxis()
    bars.set_title("digit in the frame · weights in the frame:\nits representation", loc="left", fontsize=8)
    return figure
