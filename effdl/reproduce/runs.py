"""A table of runs: what its cells have, and why some have nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from effdl.reproduce.vocabulary import SCALE_OF

if TYPE_CHECKING:
    import pandas as pd

    from effdl.reproduce.artefact import Cell

# One row a run: cell, seed, status, reason, draws, test_samples, outdated, finished, and a column for each number.
Runs: TypeAlias = "pd.DataFrame"
FINISHED = "finished"  # a status, and the column that has 1 for it
NO_RUNS = "none"  # status of the row of a cell of which only the reason is known why it has none
_parted: ContextVar[tuple[Runs, dict[str, Runs]] | None] = ContextVar("_parted", default=None)


@contextmanager
def by_cell(runs: Runs) -> Iterator[None]:
    """Within, the rows of each cell of these runs are looked for once: verdicts ask for them hundreds of times."""
    parts = {str(name): part for name, part in runs.groupby("cell", sort=False)}
    before = _parted.set((runs, parts))
    try:
        yield
    finally:
        _parted.reset(before)


def of(runs: Runs, cell: Cell) -> Runs:
    """The rows of a cell."""
    if (known := _parted.get()) is not None and known[0] is runs:
        return known[1].get(cell.name, runs.iloc[:0])
    return runs[runs["cell"] == cell.name]


def values(runs: Runs, cell: Cell, metric: str, unit: str = "") -> dict[int, float]:
    """seed -> the metric of the cell's finished runs, in the unit; of "finished" itself, of all that have ended."""
    of_cell = runs[runs["cell"] == cell.name]
    of_cell = of_cell if metric == FINISHED else of_cell[of_cell["status"] == FINISHED]
    if metric not in of_cell:
        return {}
    numbers = of_cell[["seed", metric]].dropna().astype({metric: float})
    return {int(seed): value * SCALE_OF.get(unit, 1.0) for seed, value in numbers.itertuples(index=False)}


def told(runs: Runs, cell: Cell, metric: str, unit: str = "") -> dict[int, float]:
    """`values`, looked for among the cell's own rows and in the columns that it takes."""
    rows = of(runs, cell)
    return values(
        rows[[name for name in dict.fromkeys(("cell", "seed", "status", metric)) if name in rows]], cell, metric, unit
    )


def missing(runs: Runs, cell: Cell) -> str | None:
    """Why a cell has no runs, None where it has."""
    of_cell = of(runs, cell)
    if of_cell.empty:
        return "not run"
    return str(of_cell["reason"].iloc[0]) if (of_cell["status"] == NO_RUNS).all() else None


def diverged(runs: Runs, cell: Cell) -> str | None:
    """How many of a cell's runs ended without numbers, None where all have some."""
    of_cell = of(runs, cell)
    bad = of_cell[~of_cell["status"].isin((FINISHED, NO_RUNS))]
    return None if bad.empty else f"{bad['status'].iloc[0]} ({len(bad)} of {len(of_cell)})"


def incomplete(runs: Runs, cell: Cell, metric: str) -> str | None:
    """How many of a cell's runs have ended, or have the metric; None where all have: a verdict waits for the number that was
    declared."""
    ended, having = len(of(runs, cell)), len(told(runs, cell, metric))
    if ended < cell.seeds:
        return f"incomplete ({ended} of {cell.seeds})"
    return f"no {metric}" + (f" in {ended - having} of {ended}" if having else "") if having < ended else None


def draws(runs: Runs, cell: Cell) -> tuple[str, ...]:
    """What another seed of the cell draws anew, in words; () where its runs differ by rounding alone."""
    return tuple(_fact(runs, cell, "draws") or ())


def test_samples(runs: Runs, cell: Cell) -> int | None:
    """How many samples the cell's test split has, where the set itself says so."""
    found = _fact(runs, cell, "test_samples")
    return None if found is None else int(found)


def outdated(runs: Runs, cell: Cell) -> str | None:
    """Which code made a cell's runs, where a newer version of it gives other numbers; None where all are of today's."""
    found = _fact(runs, cell, "outdated")
    return None if found is None else str(found)


def picked(runs: Runs, cell: Cell) -> str | None:
    """That a cell has runs of other seeds than those that follow from its declaration; None where it has none."""
    of_cell = of(runs, cell)
    seeds = of_cell.loc[of_cell["status"] != NO_RUNS, "seed"]
    others = ((seeds < cell.first) | (seeds >= cell.first + cell.seeds)).any()
    return "seeds that were not declared" if others and draws(runs, cell) else None


def _fact(runs: Runs, cell: Cell, name: str) -> Any:
    """What all runs of a cell share; None where nothing is known."""
    if name not in runs:
        return None
    found = of(runs, cell)[name].dropna()
    return found.iloc[0] if len(found) else None
