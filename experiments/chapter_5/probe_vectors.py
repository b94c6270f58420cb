"""Learning by dragging probe vectors (§5.5.5), of digits: pins in a ball, moved to where their selections say most."""

from functools import cache

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from effdl import least_squares_distance
from effdl.datasets.digits import Digits
from effdl.neighbours.entropy import entropy

PINS, DRAGS = {"16": 16, "64": 64}, 60
REACH = (1.0, 0.1)  # how far a pin is dragged at first and in the end, of its length
CLASSES = 10
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x (m, 64) and y (m,), and as many others


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds by the run's seed what pins select, and how well their layer is read out, before and after they are dragged."""
    found = [of_pins(cell.removeprefix("pins="), int(seed))[0] for cell, seed in zip(runs["cell"], runs["seed"], strict=True)]
    return runs.join(pd.DataFrame(found, index=runs.index))


@cache
def data() -> Data:
    """Training and test images about the middle of the training images."""
    (x, y), (new_x, new_y) = (
        (part.tensors().x.flatten(1).double().numpy(), part.tensors().y.numpy()) for part in Digits().load()
    )
    return x - x.mean(0), y, new_x - x.mean(0), new_y


@cache
def of_pins(level: str, seed: int) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Numbers, and pins (64, J) before and after."""
    x, y, _, _ = data()
    random = np.random.default_rng(seed)
    start = unit(random.normal(size=(x.shape[1], PINS[level])))
    end = covering(x, y, dragged(x, y, start, random))
    found: dict[str, float] = {}
    for when, pins in (("before", start), ("after", end)):
        entropies, shares = selected(x, y, pins)
        distance, accuracy = read_out(pins)
        found |= {f"entropy_{when}": float(np.average(entropies, weights=shares)), f"lsd_{when}": distance}
        found |= {f"accuracy_{when}": accuracy, f"covered_{when}": float((x @ pins > 0).any(1).mean())}
    changes = {key: found[f"{key}_after"] - found[f"{key}_before"] for key in ("entropy", "lsd", "accuracy")}
    return found | {f"{key}_change": value for key, value in changes.items()}, start, end


def unit(pins: np.ndarray) -> np.ndarray:
    """Each column at length 1."""
    return pins / np.linalg.norm(pins, axis=0)


def selected(x: np.ndarray, y: np.ndarray, pins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each pin's selection, xw > 0, the entropy of its classes, 0 where it is empty, and its share of the samples, (J,)."""
    counts = torch.from_numpy(np.eye(CLASSES)[y].T @ (x @ pins > 0))
    return entropy(counts.T).nan_to_num().numpy(), counts.sum(0).numpy() / len(x)


def worth(x: np.ndarray, y: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """(J,) share · (H(Y) − H(Y|S₊)): the trade-off of cardinality and entropy."""
    entropies, shares = selected(x, y, pins)
    whole = float(entropy(torch.bincount(torch.from_numpy(y))))
    found: np.ndarray = shares * (whole - entropies)
    return found


def dragged(x: np.ndarray, y: np.ndarray, pins: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each pin, moved at random and kept where its selection is worth more, again and again, less and less far."""
    best = worth(x, y, pins)
    for reach in np.geomspace(*REACH, DRAGS):
        moved = unit(pins + reach * unit(random.normal(size=pins.shape)))
        value = worth(x, y, moved)
        pins, best = np.where(value > best, moved, pins), np.maximum(value, best)
    return pins


def covering(x: np.ndarray, y: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """While samples are in no selection, the pin worth least is stuck in anew, at their mean, which selects most of them."""
    pins = pins.copy()
    for _ in range(pins.shape[1]):
        left = ~(x @ pins > 0).any(1)
        if not left.any():
            break
        pins[:, worth(x, y, pins).argmin()] = unit(x[left].mean(0)[:, None])[:, 0]
    return pins


def read_out(pins: np.ndarray) -> tuple[float, float]:
    """The least-squares distance of the layer of ReLUs to the classes, and the test accuracy of that least-squares fit."""
    x, y, new_x, new_y = data()
    z, new_z = (np.column_stack([np.maximum(part @ pins, 0), np.ones(len(part))]) for part in (x, new_x))
    targets = np.eye(CLASSES)[y]
    weights = np.linalg.lstsq(z, targets, rcond=None)[0]
    return least_squares_distance(z, targets), float(((new_z @ weights).argmax(1) == new_y).mean())


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """For each number of pins, by share of samples the entropy of each selection, before and after; the first seed's."""
    cells = declaration.cells(scale)
    x, y, _, _ = data()
    figure = Figure(figsize=(3.4 * len(cells), 3), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        own = runs[runs["cell"] == cell.name]
        _, start, end = of_pins(cell.at["pins"], int(own["seed"].min()) if len(own) else 0)
        for pins, color, label in ((start, "0.7", "pins at random"), (end, "C0", "dragged")):
            entropies, shares = selected(x, y, pins)
            axes.plot(100 * shares, entropies, ".", color=color, label=label)
        axes.set(xlabel="samples selected, %", ylabel="entropy of their classes, bits", xlim=(0, 100), ylim=(0, None))
        axes.set_title(declaration.label("pins", cell.at["pins"]), loc="left", fontsize=8)
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure
