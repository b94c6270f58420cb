"""The program of figure 7.3, corrected, which stands in fig_7_3.txt: carried out beside ours, and drawn as it stands."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from effdl.reproduce import artefact
from effdl.rng import seed_for

PROGRAM = Path(__file__).with_suffix(".txt")
ROUNDING = 1e-5  # of the error: below it processors differ, and the page would not be the same on each


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, of the program with the P of the run, its squared error, and how far the run's is from it, ROUNDING or more."""
    cells = {cell.name: cell for cell in artefact.load("fig-7.3").cells("paper")}
    found = []
    for cell, seed in zip(runs["cell"], runs["seed"], strict=True):
        train, _ = artefact.specs(cells[cell])[0].dataset.load()
        x, y = train.x.double(), train.y.double()
        found.append((carried_out(x, y, int(seed)) - y).square().mean().item())
    runs = runs.assign(program_mse=found)
    ours = runs.get("train/mse", pd.Series(index=runs.index, dtype=float)).astype(float)
    return runs.assign(apart=((ours - runs["program_mse"]).abs() / runs["program_mse"]).clip(lower=ROUNDING))


def carried_out(x: Tensor, y: Tensor, seed: int) -> Tensor:
    """The program's ŷ (m, 1) for x and y (m, 1), its P being those that a run of this seed draws."""
    real, layers = torch.randn, iter(range(2))

    def drawn(*size: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_for(seed, "projection", next(layers), 0))
        return real(*size, generator=generator, dtype=x.dtype)

    names: dict[str, Any] = {"get_dataset": lambda name: (x, y)}
    with patch("torch.randn", drawn):
        exec(compile(PROGRAM.read_text(), PROGRAM.name, "exec"), names)
    found: Tensor = names["yhat"]
    return found


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The program, its lines numbered as in print, with what is printed where ours differs."""
    figure = Figure(figsize=(8.4, 5.2))
    lines = PROGRAM.read_text().splitlines()
    for i, line in enumerate(lines):
        code, _, printed = line.partition("  # printed: ")
        place = {"y": 0.98 - 0.96 * i / len(lines), "family": "monospace", "fontsize": 8, "va": "top"}
        figure.text(0.03, s=str(i + 1), color="0.6", ha="right", **place)
        figure.text(0.05, s=code, color="0.45" if code.startswith("#") else "black", **place)
        if printed:
            figure.text(0.60, s=f"printed: {printed}", color="tab:red", **{**place, "fontsize": 7})
    return figure
