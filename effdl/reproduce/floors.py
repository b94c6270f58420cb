"""Is a baseline finished? What floors run beside a scale's cells, and what they say of its baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from effdl.reproduce.estimate import ALPHA, Welch, mean
from effdl.reproduce.runs import Runs, diverged, incomplete, missing, values
from effdl.reproduce.vocabulary import SCALE_OF, Floor

if TYPE_CHECKING:
    from effdl.reproduce.artefact import Cell, Declaration

AXIS, LEVEL = "floor", "longer"  # of the cell that a floor runs
TIMES = 3  # as many epochs
SEEDS = 2  # that judge nothing else
POINTS, RELATIVE = 0.02, 0.05  # of an accuracy as a fraction, of a squared error
OF_PRINT = 0.9  # of the way from chance to what is printed
OF_CHANCE = 2  # times what a guess reaches


def longer(cell: Cell) -> Cell:
    """A baseline's cell with three times the epochs, its seeds just below those of all others."""
    epochs = {"method.epochs": TIMES * int(cell.set["method.epochs"])}
    at = {**cell.at, AXIS: LEVEL}
    return replace(cell, at=at, set={**cell.set, **epochs}, seeds=SEEDS, first=max(cell.first - SEEDS, 0), published=None)


def baselines(
    declaration: Declaration, scale: str, cells: Sequence[Cell], reaches: str | None = None
) -> Iterator[tuple[Floor, Cell]]:
    """Each floor of a scale with each baseline that it is of, under our own choices."""
    for floor in declaration.scale(scale).floors:
        for cell in cells:
            own = set(cell.at) <= set(declaration.artefact.axes)
            if own and cell.matches({**floor.where, **floor.baseline}) and reaches in (None, floor.reaches):
                yield floor, cell


def unfinished(declaration: Declaration, scale: str, runs: Runs, cell: Cell, given: bool = False) -> str | None:
    """Why the baseline beside a cell is not finished, or not known to be: "undertrained", or that its floor has not run.

    The cell may be the baseline itself. None where it is finished, or no floor is declared. given: of a claim about the epochs
    that were trained, which asks no more of the baseline than that it has learned.
    """
    for floor, baseline in baselines(declaration, scale, declaration.cells(scale), "twice_chance" if given else None):
        place = {axis: level for axis, level in cell.at.items() if axis in declaration.artefact.axes}
        if {**place, **floor.baseline} != dict(baseline.at):
            continue
        if reason := CHECKS[floor.reaches](declaration, runs, baseline, floor):
            return reason
    return None


def _below_print(declaration: Declaration, runs: Runs, cell: Cell, floor: Floor) -> str | None:
    if cell.published is None or floor.chance is None:
        return None
    least = floor.chance + OF_PRINT * (cell.published - floor.chance)
    return _below(declaration, runs, cell, least, more_is_better=cell.published > floor.chance)


def _below_chance(declaration: Declaration, runs: Runs, cell: Cell, floor: Floor) -> str | None:
    return None if floor.chance is None else _below(declaration, runs, cell, OF_CHANCE * floor.chance)


def _below(declaration: Declaration, runs: Runs, cell: Cell, least: float, more_is_better: bool = True) -> str | None:
    """ "undertrained" where the mean of a cell's runs, in the artefact's unit, is worse than a number."""
    artefact = declaration.artefact
    if reason := missing(runs, cell) or diverged(runs, cell) or incomplete(runs, cell, artefact.metric):
        return f"baseline {reason}"
    reached = _mean(list(values(runs, cell, artefact.metric, artefact.unit).values()))
    return "undertrained" if (reached < least if more_is_better else reached > least) else None


def _below_longer(declaration: Declaration, runs: Runs, cell: Cell, floor: Floor) -> str | None:
    metric = _validated(declaration)
    goal = longer(cell)
    if reason := missing(runs, goal):
        return f"floor {reason}"
    here, there = (list(values(runs, one, metric).values()) for one in (cell, goal))
    if not here or len(there) < SEEDS:
        return f"floor without {metric}"
    return "undertrained" if falls_short(here, there, _is_share(metric)) else None


CHECKS = {"print": _below_print, "longer": _below_longer, "twice_chance": _below_chance}


def falls_short(here: Sequence[float], there: Sequence[float], of_accuracy: bool) -> bool:
    """Whether the mean of a baseline's runs is further below that of longer ones than a finished one's may be: two points of
    accuracies, or mIoU, as fractions, 5% of squared errors.

    Means alone are compared, by the threshold that was declared; how sure that is, `_gap` says.
    """
    if of_accuracy:
        return _mean(there) - _mean(here) > POINTS
    return _mean(here) > (1 + RELATIVE) * _mean(there)


def _gap(here: Sequence[float], there: Sequence[float], of_accuracy: bool) -> str:
    """How far a baseline is behind its longer runs, with the standard error; "narrowly" before it where the bound lies within
    Welch's 95% interval."""
    if of_accuracy:
        behind, least = Welch(mean(there), mean(here)), POINTS
        size, allowed, digits, unit = SCALE_OF["percent"], f"{SCALE_OF['percent'] * POINTS:g}", 2, " points"
    else:
        behind, least = Welch(mean(here), mean(there)), RELATIVE * _mean(there)
        size, allowed, digits, unit = SCALE_OF["percent"] / _mean(there), f"{SCALE_OF['percent'] * RELATIVE:g}", 1, "%"
    error = math.hypot(*(side.error if side.n > 1 else math.nan for side in (behind.left, behind.right)))
    low, high = behind.at(ALPHA)
    narrow = ", narrowly" if error and low <= least <= high else ""
    return f"{narrow} (gap {size * behind.mean:.{digits}f} ± {size * error:.{digits}f} of {allowed}{unit})"


def said(declaration: Declaration, scale: str, runs: Runs) -> Iterator[str]:
    """A line on each baseline of a scale that has a floor: what it reaches, and what three times the epochs do."""
    unit = SCALE_OF["percent"]
    for floor, cell in baselines(declaration, scale, declaration.cells(scale), "longer"):
        metric = _validated(declaration)
        factor = unit if _is_share(metric) else 1.0
        here, there = (list(values(runs, one, metric).values()) for one in (cell, longer(cell)))
        if here and there:
            where = ", ".join(declaration.label(axis, level) for axis, level in cell.at.items())
            verdict = _below_longer(declaration, runs, cell, floor) or "finished"
            verdict += _gap(here, there, _is_share(metric))
            ours = f"{factor * _mean(here):.2f} ({metric}, n {len(here)})"
            yield f"{where}: {ours}, with {TIMES} times the epochs {factor * _mean(there):.2f} (n {len(there)}): {verdict}"


def _validated(declaration: Declaration) -> str:
    """By what a baseline is finished: the artefact's metric on validation samples, in the place of one that `measures` makes,
    such as an error, accuracy there."""
    metric = declaration.artefact.metric
    return metric.replace("test/", "val/") if metric.startswith("test/") else "val/acc"


def _is_share(metric: str) -> bool:
    """Whether it is a fraction of which more is better."""
    from effdl.objectives.objective import HIGHER

    return metric.rpartition("/")[2] in HIGHER


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
