"""What stands beside a run: numbers of the cell that differs from its own in some levels."""

import math
from collections.abc import Mapping

import pandas as pd

from effdl.reproduce.runs import FINISHED


def at(cell: str, levels: Mapping[str, str]) -> str:
    """The name of the cell with these levels in the place of its own; axes that it has not are left out."""
    own = dict(part.split("=") for part in cell.split(","))
    return ",".join(f"{axis}={levels.get(axis, level)}" for axis, level in own.items())


def of_seed(runs: pd.DataFrame, metric: str, levels: Mapping[str, str]) -> list[float]:
    """Of each run the number of the finished one with its seed in its cell's counterpart, NaN where there is none."""
    found = dict(zip(zip(runs["cell"], runs["seed"], strict=True), numbers(runs, metric), strict=True))
    return [found.get((at(cell, levels), seed), math.nan) for cell, seed in zip(runs["cell"], runs["seed"], strict=True)]


def of_cell(runs: pd.DataFrame, metric: str, levels: Mapping[str, str]) -> list[float]:
    """Of each run the mean over the finished ones in its cell's counterpart, NaN where there are none."""
    means = numbers(runs, metric).groupby(runs["cell"]).mean()
    return [float(means.get(at(cell, levels), math.nan)) for cell in runs["cell"]]


def numbers(runs: pd.DataFrame, metric: str) -> pd.Series:
    """A column's numbers of finished runs, NaN elsewhere and where no run has it."""
    there = runs[metric] if metric in runs else pd.Series(math.nan, index=runs.index)
    return there.astype(float).where(runs["status"] == FINISHED)
