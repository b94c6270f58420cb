"""What figure 7.14 lists: Sorted PCA, typed out, beside ours; and which digits it takes."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from effdl.methods.projections import centred_components, evenly_along
from effdl.reproduce import artefact

SHOWN = ("10", "49")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds same: the share of the samples, as a fraction, that are the listing's in their places."""
    x = digits()
    widths = runs["width"].astype(int)
    return runs.assign(same=[(taken(x, width) == listed(x, width)).double().mean().item() for width in widths])


def digits() -> Tensor:
    """(m, 64) pixels, standardised one by one."""
    x = artefact.specs(artefact.load("fig-7.14").cells("paper")[0])[0].dataset.load()[0].x.double().flatten(1)
    deviation = x.std(0, correction=0)
    return (x - x.mean(0)) / torch.where(deviation > 0, deviation, 1.0)


def taken(x: Tensor, width: int) -> Tensor:
    """(width,) positions that ours takes."""
    return evenly_along(x @ first_component(x), width)


def first_component(x: Tensor) -> Tensor:
    return centred_components(lambda: [x], 1)[:, 0]


def listed(x: Tensor, width: int) -> Tensor:
    """(width,) positions by the listing."""
    from sklearn.decomposition import PCA

    pc_1: Any = PCA(1, svd_solver="full").fit(x.numpy()).components_.T
    z = x @ torch.from_numpy(pc_1 * np.sign(pc_1.sum()))
    ix = torch.argsort(z[:, 0])
    n = ix.numel()
    i = torch.arange(0, n - 1, n / width).round().long()
    return ix[i]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The digits that are taken, along the component from left to right and row by row."""
    x = digits()
    images = artefact.specs(declaration.cells(scale)[0])[0].dataset.load()[0].x.flatten(1)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    spread, *panels = figure.subplots(3, 1, height_ratios=[1.2, 1.3, 1.9])
    along = x @ first_component(x)
    spread.hist(along.numpy(), bins=60, color="0.8")
    spread.plot(along[taken(x, 49)], np.zeros(49), "|", color="black", markersize=8, clip_on=False)
    spread.set_yticks([])
    spread.set_title("all digits along the first component, and the 49 that are taken", loc="left", fontsize=9)
    for axes, width in zip(panels, SHOWN, strict=True):
        chosen = images[taken(x, int(width))].view(-1, 8, 8)
        columns = 10 if width == "10" else 25
        padded = torch.zeros(-(-len(chosen) // columns) * columns, 8, 8, dtype=chosen.dtype)
        padded[: len(chosen)] = chosen
        grid = padded.view(-1, columns, 8, 8).permute(0, 2, 1, 3).reshape(-1, columns * 8)
        axes.imshow(grid, cmap="gray_r", aspect="equal")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{width} units", loc="left", fontsize=9)
    return figure
