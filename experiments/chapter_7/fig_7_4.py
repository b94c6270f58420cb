"""What figure 7.4's declaration cannot say in its vocabulary: errors on a logarithmic scale, and the fitted curves."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from effdl.records.carry import build_network, open_problem, open_run
from effdl.reproduce import artefact
from effdl.reproduce.figure import GREYS

PRINTED = 2e-5
ROUNDS_TO_PRINTED = 2.5e-5


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds log10_mse, and reaches: 1 where the training error rounds to what is printed or is lower, else 0."""
    mse = runs.get("train/mse", pd.Series(index=runs.index, dtype=float)).astype(float)
    return runs.assign(log10_mse=np.log10(mse), reaches=(mse <= ROUNDS_TO_PRINTED).astype(float).where(mse.notna()))


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By precision, the data with the best and the median fit, which are fitted anew; beside it all errors."""
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    rows = figure.subplots(2, 2, width_ratios=[2, 1], sharex="col")
    for (curve, errors), cell in zip(rows, declaration.cells(scale), strict=True):
        own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")].sort_values("log10_mse")
        told = declaration.label("precision", cell.at["precision"])
        if len(own):
            chosen = {"best": own.iloc[0], "median": own.iloc[(len(own) - 1) // 2]}
            told_of = {name: f"{name} of {len(own)}: MSE {run['train/mse']:.1e}" for name, run in chosen.items()}
            fits(curve, cell, {told_of[name]: run["seed"] for name, run in chosen.items()})
            errors.hist(own["log10_mse"], bins=np.arange(-6, 0.01, 0.25), color=GREYS[2])
        errors.axvline(np.log10(PRINTED), color="tab:red", linewidth=1, label="printed, 2e-5")
        errors.legend(frameon=False, fontsize=8, loc="upper right")
        curve.set(ylabel="y", ylim=(-1.25, 1.25))
        curve.set_title(f"y = sin 2πx, {told}", loc="left", fontsize=9)
        errors.set_ylim(0, 1.25 * errors.get_ylim()[1])  # room for the legend
        errors.set_ylabel("fits")
        errors.set_title(f"all fits, {told}", loc="left", fontsize=9)
    curve.set_xlabel("x")
    errors.set_xlabel("log10 of training MSE")
    errors.set_xlim(-6, 0)
    return figure


def fits(axes, cell, seeds: dict[str, int]) -> None:
    """The training data and, by label, the curve of each seed's network."""
    specs = artefact.specs(cell)
    train, test = specs[0].dataset.load()
    axes.plot(train.x[:, 0], train.y[:, 0], ".", color=GREYS[3], markersize=4, label="data")
    x = torch.linspace(-1, 1, 801)[:, None]
    for (label, seed), style in zip(seeds.items(), ("-", "--"), strict=True):
        spec = replace(specs[0], seed=int(seed))
        problem = open_problem(spec, train, test)
        network = spec.method.fit(problem, build_network(spec, problem, train.x.device), open_run(spec, None))
        with torch.no_grad():
            axes.plot(x[:, 0], network(x)[:, 0], style, color="black", linewidth=1, label=label)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8, loc="upper left", ncols=3, borderpad=0.1)
