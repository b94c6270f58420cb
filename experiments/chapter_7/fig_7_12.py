"""What figures 7.12 and 7.13 show and claim: principal components of [X | βy] beside the solution of a linear SVM."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from effdl.methods.projections import centred_components
from effdl.reproduce import artefact

WITHIN = np.cos(np.radians(5))
NO_DIRECTION, DISCRIMINATIVE = 1e-3, 0.05
SHOWN = 600  # samples in the picture


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, for the cell's data and β, what components and an SVM have to do with each other."""
    found = [compared(cell, int(seed)) for cell, seed in zip(runs["cell"], runs["seed"], strict=True)]
    return runs.assign(**{key: [one[key] for one in found] for key in found[0]}) if found else runs


@cache
def compared(cell_name: str, seed: int) -> dict[str, float]:
    """Cosines of the components' parts in the plane with the SVM's normal, and what follows."""
    x, y, beta = drawn(cell_name, seed)
    components, normal = components_of(x, y, beta), support_vectors(x, y)
    flat = components[:2]
    lengths = np.linalg.norm(flat, axis=0)
    cosines = normal @ flat / np.where(lengths < NO_DIRECTION, np.inf, lengths)
    return {
        "parallel": int((abs(cosines) >= WITHIN).sum()),
        "discriminative": int((abs(components[2]) >= DISCRIMINATIVE).sum()),
        **{f"pc{i + 1}_cosine": cosine for i, cosine in enumerate(cosines)},
        "pc1_angle": float(np.degrees(np.arccos(min(abs(cosines[0]), 1.0)))),
        "pc1_accuracy": float((np.sign(x @ flat[:, 0]) == y).mean()),
        "svm_accuracy": float((np.sign(x @ normal) == y).mean()),
    }


def drawn(cell_name: str, seed: int) -> tuple[Any, Any, float]:
    """X (m, 2), y (m,) of ±1 and β of a cell: a draw of its own for each seed."""
    declaration = artefact.load("fig-7.13" if "curve=" in cell_name else "fig-7.12")
    cell = next(cell for cell in declaration.cells("paper") if cell.name == cell_name)
    spec = artefact.specs(cell)[0]
    data = spec.dataset.draw(torch.Generator().manual_seed(seed))
    return data.x.double().numpy(), 2.0 * data.y.numpy() - 1, spec.method.beta


def components_of(x: Any, y: Any, beta: float) -> Any:
    """(3, 3), a component a column, each turned such that y's entry is positive."""
    augmented = torch.from_numpy(np.column_stack([x, beta * y]))
    components = centred_components(lambda: [augmented], 3).numpy()
    leading = np.where(abs(components[2]) < 1e-9, components[0], components[2])
    return components * np.where(leading < 0, -1, 1)


def support_vectors(x: Any, y: Any) -> Any:
    """The unit normal (2,) of a linear SVM through the origin."""
    from sklearn.svm import LinearSVC

    found = LinearSVC(C=100.0, dual=False, fit_intercept=False, max_iter=10_000, tol=1e-8).fit(x, y).coef_[0]
    return found / np.linalg.norm(found)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By β, the data in space with the components in red, and the SVM's solution in the plane in blue."""
    cells = [cell for cell in declaration.cells(scale) if set(cell.at) == set(declaration.artefact.axes)]
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.9 * rows), layout="constrained")
    for i, cell in enumerate(cells):
        x, y, beta = drawn(cell.name, 0)
        axes = figure.add_subplot(rows, columns, i + 1, projection="3d")
        for sign, color in ((-1, "0.65"), (1, "0.35")):
            own = x[:SHOWN][y[:SHOWN] == sign]
            axes.plot(own[:, 0], own[:, 1], np.full(len(own), sign), ".", color=color, markersize=1)
        normal = support_vectors(x, y)
        axes.plot([0, normal[0]], [0, normal[1]], [0, 0], color="tab:blue", linewidth=2.5, label="SVM")
        for j, component in enumerate(components_of(x, y, beta).T):
            axes.plot(*np.stack([0 * component, component], 1), color="tab:red", linewidth=1.5, linestyle=("-", "--", ":")[j])
            axes.plot([0, component[0]], [0, component[1]], [0, 0], color="tab:red", linewidth=0.8, alpha=0.5)
            axes.text(*1.12 * component, f"c{j + 1}", fontsize=8, color="tab:red")
        axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1), xlabel="a₁", ylabel="a₂", zlabel="a₃", zticks=[-1, 0, 1])
        axes.tick_params(labelsize=6)
        axes.set_title(", ".join(declaration.label(axis, level) for axis, level in cell.at.items()), loc="left", fontsize=9)
    return figure
