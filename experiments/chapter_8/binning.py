"""How far layers bin the data: k-redundancy, least-squares distance and pure entropy by layer."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.drawn import of_cell
from effdl.reproduce.series import Series, curve

LAYERS = [f"conv{i}" for i in range(1, 11)]  # as many of them as the network has
KINDS = {"redundancy": "k_redundancy/10", "lsd": "lsd/y", "entropy": "pure_voronoi/entropy"}
SHOWN = {"redundancy": "k-redundancy, %", "lsd": "least-squares distance", "entropy": "pure entropy, bits"}
NAN = float("nan")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds by run what the lower half of its layers and their steps are like, and how far it is from backprop's of its seed."""
    series = list(runs.get("series", [None] * len(runs)))
    found = pd.DataFrame([of_run(one) for one in series], index=runs.index)
    level = [dict(part.split("=") for part in cell.split(","))["rule"] for cell in runs["cell"]]
    of_backprop = {
        s: by_layer(one, "redundancy") for s, rule, one in zip(runs["seed"], level, series, strict=True) if rule == "backprop"
    }
    away = [apart(by_layer(one, "redundancy"), of_backprop.get(s, [])) for s, one in zip(runs["seed"], series, strict=True)]
    return runs.join(found.assign(away=away))


def of_run(series: Series | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind in KINDS:
        values = by_layer(series, kind)
        found[f"{kind}_lower"], found[f"{kind}_last"] = lower_half(values), values[-1] if values else NAN
        whole = [*by_layer(series, kind, ["input"]), *values] if kind == "entropy" else values
        steps = [upper - lower for lower, upper in pairwise(whole)] or [NAN]
        found[f"{kind}_step"] = min(steps) if kind == "redundancy" else max(steps)
    return found | {"redundancy_first": lower_half(by_layer(series, "redundancy", epochs=1))}


def by_layer(series: Series | None, kind: str, layers: list[str] = LAYERS, epochs: int | None = None) -> list[float]:
    """From the bottom up, of those layers that were looked at: after so many epochs of their own, or at their last look."""
    looks = [dict(curve(series, f"{KINDS[kind]}/{layer}")) for layer in layers]
    return [look.get(max(look) if epochs is None else epochs, NAN) for look in looks if look]


def lower_half(values: list[float]) -> float:
    return float(np.mean(values[: len(values) // 2])) if len(values) > 1 else NAN


def apart(values: list[float], others: list[float]) -> float:
    """Mean absolute difference by layer."""
    return float(np.mean(np.abs(np.subtract(values, others)))) if values and len(values) == len(others) else NAN


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The three by layer, a line for each rule, mean over seeds with their range."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, (kind, name) in zip(figure.subplots(1, len(KINDS)), SHOWN.items(), strict=True):
        factor = 100 if kind == "redundancy" else 1
        for i, cell in enumerate(declaration.cells(scale)):
            told = [by_layer(one, kind) for one in of_cell(runs, cell.name).get("series", [])]
            if not (told := [factor * np.array(values) for values in told if values]):
                continue
            places = range(1, len(told[0]) + 1)
            axes.plot(places, np.mean(told, 0), ".-", color=f"C{i}", label=declaration.label("rule", cell.at["rule"]))
            axes.fill_between(places, np.min(told, 0), np.max(told, 0), color=f"C{i}", alpha=0.15, linewidth=0)
        axes.set(xlabel="layer", ylabel=name, ylim=(0, None))
    if figure.axes[0].lines:
        figure.axes[0].legend(frameon=False, fontsize=7)
    return figure
