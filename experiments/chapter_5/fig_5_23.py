"""What figure 5.23 shows: a labelling function along a line through a problem, its sign, and its frequencies."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce import artefact

ENDS = np.array([[-1.0, -0.3], [1.0, 0.3]])  # of the line through the square
NEAR = 0.04  # of the line: samples that stand for those on it
STEPS = 2048
COLORS = ("tab:red", "tab:blue")


def labelling(dataset, t: np.ndarray) -> np.ndarray:
    """ℓ(t), t from 0 to 1 between the ends: x₂ − amplitude·sin(π·periods·x₁), whose sign is the class of `Sinusoidal`."""
    x = ENDS[0] + t[:, None] * (ENDS[1] - ENDS[0])
    function: np.ndarray = x[:, 1] - dataset.amplitude * np.sin(np.pi * dataset.periods * x[:, 0])
    return function


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds how often ℓ changes its sign, its main frequency, and how often the labels of the samples near the line change."""
    scale, rows = runs.attrs["scale"], []
    for cell, seed in zip(runs["cell"], runs["seed"], strict=True):
        dataset = of_cell(scale, cell)
        values = labelling(dataset, (np.arange(STEPS) + 0.5) / STEPS)
        _, y = beside_line(dataset, int(seed))
        strongest = int(spectrum(values)[1:].argmax()) + 1
        rows.append({"changes": changes(values > 0), "periods": float(strongest), "seen": changes(y), "samples": float(len(y))})
    return runs.join(pd.DataFrame(rows, index=runs.index))


def of_cell(scale: str, name: str):
    """The data set of a cell."""
    cell = next(cell for cell in artefact.load("fig-5.23").cells(scale) if cell.name == name)
    return artefact.specs(cell)[0].dataset


def changes(labels: np.ndarray) -> float:
    """How often neighbours differ."""
    return float((labels[1:] != labels[:-1]).sum())


def spectrum(values: np.ndarray) -> np.ndarray:
    """Amplitudes by periods over the whole interval, under a Hann window, of what is left without the mean."""
    window = np.hanning(len(values))
    return np.abs(np.fft.rfft((values - values.mean()) * window)) * 2 / window.sum()


def beside_line(dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the samples that a seed draws those near the line: where along it, rising, and their classes."""
    data = dataset.draw(torch.Generator().manual_seed(seed))
    x, y = data.x.double().numpy(), data.y.numpy()
    way = ENDS[1] - ENDS[0]
    t = (x - ENDS[0]) @ way / (way @ way)
    away = np.abs((x - ENDS[0]) @ np.array([-way[1], way[0]])) / np.linalg.norm(way)
    near = (away < NEAR) & (t > 0) & (t < 1)
    order = np.argsort(t[near])
    return t[near][order], y[near][order]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row for each problem: the plane with the line, ℓ with its labels, and its frequencies; the first seed's."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(11, 2.9 * len(cells)), layout="constrained")
    grid = figure.subplots(len(cells), 3, squeeze=False, width_ratios=[2, 4, 2])
    for (plane, along, tones), cell in zip(grid, cells, strict=True):
        own = runs[runs["cell"] == cell.name]
        seed, dataset = (int(own["seed"].min()) if len(own) else 0), of_cell(scale, cell.name)
        in_the_plane(plane, dataset, seed)
        of_the_line(along, dataset, seed)
        t = (np.arange(STEPS) + 0.5) / STEPS
        amplitudes = spectrum(labelling(dataset, t))[: int(1.5 * dataset.periods) + 4]
        tones.vlines(range(len(amplitudes)), 0, amplitudes, color="0.2", linewidth=2)
        tones.set(xlabel="periods from a to b", ylabel="amplitude", ylim=(0, None), yticks=[])
        tones.xaxis.set_major_locator(MaxNLocator(integer=True))
        plane.set_title(declaration.label("frequency", cell.at["frequency"]), loc="left", fontsize=9)
        along.set_title("the labelling function ℓ along the line, and the samples' labels", loc="left", fontsize=9)
        tones.set_title("its frequencies", loc="left", fontsize=9)
    return figure


def in_the_plane(axes, dataset, seed: int) -> None:
    data = dataset.draw(torch.Generator().manual_seed(seed))
    for label, color in enumerate(COLORS):
        axes.plot(*data.x[data.y == label].numpy().T, ".", color=color, markersize=1.5)
    axes.plot(*ENDS.T, color="black", linewidth=2)
    for name, place in zip("ab", ENDS, strict=True):
        axes.annotate(name, place, textcoords="offset points", xytext=(0, 6), ha="center", fontsize=10)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])


def of_the_line(axes, dataset, seed: int) -> None:
    """ℓ, filled by its sign, over the labels of samples as ticks."""
    t = (np.arange(STEPS) + 0.5) / STEPS
    values = labelling(dataset, t)
    low = -1.35 * float(np.abs(values).max())
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.plot(t, values, color="black", linewidth=1.5)
    places, labels = beside_line(dataset, seed)
    for label, color in enumerate(COLORS):
        axes.fill_between(t, 0, values, where=(values > 0) == bool(label), color=color, alpha=0.25, linewidth=0)
        axes.plot(places[labels == label], np.full((labels == label).sum(), low), "|", color=color, markersize=11)
    axes.set(xlim=(0, 1), ylim=(1.2 * low, -low), xticks=[0, 1], xticklabels=["a", "b"], yticks=[0])
