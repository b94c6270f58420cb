"""What modules beside declarations take of runs to measure and to draw: a cell's, the best trained one, and its samples."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdl.reproduce import artefact
from effdl.reproduce.runs import FINISHED, Runs


def of_cell(runs: Runs, name: str) -> Runs:
    """The rows of a cell's runs that finished."""
    return runs[(runs["cell"] == name) & (runs["status"] == FINISHED)]


def learned_best(runs: Runs) -> Any:
    """The series of the finished run with the highest training accuracy, of several that with the lowest seed; None of none."""
    own = runs[runs["status"] == FINISHED]
    return own.sort_values(["train/acc", "seed"], ascending=[False, True]).iloc[0]["series"] if len(own) else None


@cache
def points(name: str, scale: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """x (m, d) and y (m,) that all runs of an artefact learned from, where its data are one fixed draw."""
    train, _ = artefact.specs(artefact.load(name).cells(scale)[0])[0].dataset.load()
    samples = train.tensors()
    return samples.x.double().numpy(), samples.y.numpy()
