"""What figure 7.2 shows and claims: y in its augmented representation, in projections of it, and in the inputs."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from effdl.reproduce import artefact

SHOWN = 600  # samples in the picture


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the errors of y recovered: from A by the selector, from T = AP by least squares with P of the run's seed, from X."""
    found = [recovered(problem, int(seed)) for problem, seed in zip(runs["problem"], runs["seed"], strict=True)]
    runs = runs.assign(**{name: [one[name] for one in found] for name in ("recovered", "recovered_from_t", "recovered_from_x")})
    return runs.assign(log10_t=np.log10(runs["recovered_from_t"]))


def recovered(problem: str, seed: int) -> dict[str, float]:
    """The largest error of y = A[0 0 1]ᵀ, and mean squared errors of y ≈ TQ and y ≈ [1 | X]w, all in float64."""
    x, y = drawn(problem)
    augmented = torch.cat([x, y], 1)
    p = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    selector = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    return {
        "recovered": (augmented @ selector - y).abs().max().item(),
        "recovered_from_t": least(augmented @ p, y),
        "recovered_from_x": least(torch.cat([torch.ones_like(y), x], 1), y),
    }


def drawn(problem: str) -> tuple[Tensor, Tensor]:
    """X (m, 2) and y (m, 1) of ±1, as the cell's data set has them."""
    (cell,) = [cell for cell in artefact.load("fig-7.2").cells("paper") if cell.at["problem"] == problem]
    train, _ = artefact.specs(cell)[0].dataset.load()
    return train.x.double(), 2.0 * train.y[:, None].double() - 1


def least(z: Tensor, y: Tensor) -> float:
    """Mean squared error of the least squares fit."""
    return (y - z @ torch.linalg.lstsq(z, y).solution).square().mean().item()


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """On the left the data, on the right with their labels as the third coordinate, and the plane between the classes."""
    figure = Figure(figsize=(6.5, 8.4), layout="constrained")
    problems = declaration.artefact.axes["problem"]
    for row, problem in enumerate(problems):
        x, y = (part[:SHOWN] for part in drawn(problem))
        flat = figure.add_subplot(len(problems), 2, 2 * row + 1)
        solid = figure.add_subplot(len(problems), 2, 2 * row + 2, projection="3d")
        for sign, color in ((-1, "0.6"), (1, "black")):
            a = x[y[:, 0] == sign]
            flat.plot(a[:, 0], a[:, 1], ".", color=color, markersize=3, label=f"y = {sign:+d}")
            solid.plot(a[:, 0], a[:, 1], sign * np.ones(len(a)), ".", color=color, markersize=2)
        edge = float(x.abs().max())
        plane = np.meshgrid([-edge, edge], [-edge, edge])
        solid.plot_surface(*plane, np.zeros((2, 2)), color="tab:blue", alpha=0.15)
        solid.set(zticks=[-1, 0, 1], xlabel="a₁", ylabel="a₂", zlabel="a₃")
        solid.tick_params(labelsize=7)
        flat.set(aspect="equal", xlabel="x₁", ylabel="x₂")
        flat.set_title(declaration.label("problem", problem), loc="left", fontsize=9)
    flat.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, markerscale=2)
    return figure
