"""What a decision tree and a support vector machine make of a checkerboard."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from effdl.reproduce import artefact

GRID = 200  # pixels of the board's side


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the errors of the cell's learner on the points that the run's seed draws, and on as many others."""
    scale = runs.attrs["scale"]
    found = [learned(scale, cell, int(seed))[0] for cell, seed in zip(runs["cell"], runs["seed"], strict=True)]
    return runs.assign(**{key: [one[key] for one in found] for key in found[0]}) if found else runs


@cache
def learned(scale: str, cell_name: str, seed: int) -> tuple[dict[str, float], Any]:
    """Numbers of a trained learner, and the learner."""
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    cell = next(cell for cell in artefact.load("checkerboard-controls").cells(scale) if cell.name == cell_name)
    generator, board = torch.Generator().manual_seed(seed), artefact.specs(cell)[0].dataset
    (x, y), (new_x, new_y) = (
        (part.x.double().numpy(), part.y.numpy()) for part in (board.draw(generator), board.draw(generator))
    )
    model = {
        "tree": DecisionTreeClassifier(random_state=seed),
        "tree_64": DecisionTreeClassifier(max_leaf_nodes=64, random_state=seed),
        "svm": SVC(C=1000.0, gamma=1000.0),
    }[cell.at["learner"]].fit(x, y)
    numbers = {
        "train_error": float((model.predict(x) != y).mean()),
        "test_accuracy": float((model.predict(new_x) == new_y).mean()),
        "leaves": float(model.get_n_leaves()) if hasattr(model, "get_n_leaves") else float("nan"),
        "support_vectors": float(model.n_support_.sum()) if hasattr(model, "n_support_") else float("nan"),
    }
    return numbers, model


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """What each learner says of every point of the board; the first seed's."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(2.8 * len(cells), 3), layout="constrained")
    side = (np.arange(GRID) + 0.5) / GRID - 0.5
    pixels = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        seed = int(runs[runs["cell"] == cell.name]["seed"].min()) if (runs["cell"] == cell.name).any() else 0
        numbers, model = learned(scale, cell.name, seed)
        board = model.predict(pixels).reshape(GRID, GRID)
        axes.imshow(board, cmap="bwr_r", alpha=0.5, extent=(-0.5, 0.5, -0.5, 0.5), origin="lower", interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{cell.at['learner'].replace('_', ', ')}: test {numbers['test_accuracy']:.1%}", loc="left", fontsize=8)
    return figure
