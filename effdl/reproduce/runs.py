"""A table of runs: what its cells have, and why some have nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
_known: ContextVar[_Table | None] = ContextVar("_known", default=None)


class _Table:
    """Runs as plain lists: a lookup in a table of pandas takes 0.1 ms, and verdicts ask for tens of thousands.

    places: of each cell's rows, in their order.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.places = {str(name): list(map(int, rows)) for name, rows in runs.groupby("cell", sort=False).indices.items()}
        self._columns: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """A number or text for each row, None where it has none; taken from the table once."""
        if name not in self._columns:
            series = self.runs[name]
            there = zip(series.tolist(), series.notna().tolist(), strict=True)
            self._columns[name] = [value if known else None for value, known in there]
        return self._columns[name]

    def of(self, cell: Cell, name: str) -> list[Any]:
        """A column of a cell's rows."""
        column = self.column(name)
        return [column[place] for place in self.places.get(cell.name, ())]

    def values(self, places: Iterable[int], metric: str) -> dict[int, float]:
        if metric not in self.runs:
            return {}
        seeds, statuses, numbers = (self.column(name) for name in ("seed", "status", metric))
        counted = (place for place in places if metric == FINISHED or statuses[place] == FINISHED)
        return {int(seeds[place]): float(numbers[place]) for place in counted if numbers[place] is not None}


@contextmanager
def by_cell(runs: Runs) -> Iterator[None]:
    """Within, these runs do not change, and are looked through once."""
    before = _known.set(_Table(runs))
    try:
        yield
    finally:
        _known.reset(before)


def _table(runs: Runs, cells: Sequence[Cell]) -> _Table:
    """The rows of these cells, and perhaps others'."""
    if (known := _known.get()) is not None and known.runs is runs:
        return known
    return _Table(runs[runs["cell"].isin([cell.name for cell in cells])])


def values(runs: Runs, cell: Cell, metric: str, unit: str = "") -> dict[int, float]:
    """seed -> the metric of the cell's finished runs, in the unit; of "finished" itself, of all that have ended."""
    table, factor = _table(runs, [cell]), SCALE_OF.get(unit, 1.0)
    return {seed: value * factor for seed, value in table.values(table.places.get(cell.name, ()), metric).items()}


def values_once(runs: Runs, cells: Sequence[Cell], metric: str) -> Iterator[tuple[Cell, dict[int, float]]]:
    """Each cell with its `values`; a run that several share is the one's whose row comes first."""
    table = _table(runs, cells)
    named = {cell.name for cell in cells}
    places = sorted(place for name in named for place in table.places.get(name, ()))
    ids, of_cells = table.column("run_id"), table.column("cell")
    first: dict[Any, int] = {}
    for place in places:
        first.setdefault(ids[place], place)
    kept: dict[str, list[int]] = {name: [] for name in named}
    for place in first.values():
        kept[of_cells[place]].append(place)
    for cell in cells:
        yield cell, table.values(kept[cell.name], metric)


def missing(runs: Runs, cell: Cell) -> str | None:
    """Why a cell has no runs, None where it has."""
    table = _table(runs, [cell])
    if not (statuses := table.of(cell, "status")):
        return "not run"
    return str(table.of(cell, "reason")[0]) if all(status == NO_RUNS for status in statuses) else None


def diverged(runs: Runs, cell: Cell) -> str | None:
    """How many of a cell's runs ended without numbers, None where all have some."""
    statuses = _table(runs, [cell]).of(cell, "status")
    bad = [status for status in statuses if status not in (FINISHED, NO_RUNS)]
    return f"{bad[0]} ({len(bad)} of {len(statuses)})" if bad else None


def incomplete(runs: Runs, cell: Cell, metric: str) -> str | None:
    """How many of a cell's runs have ended, or have the metric; None where all have: a verdict waits for the number that was
    declared."""
    ended, having = len(_table(runs, [cell]).of(cell, "cell")), len(values(runs, cell, metric))
    if ended < cell.seeds:
        return f"incomplete ({ended} of {cell.seeds})"
    return f"not measured: {metric}" + (f" in {ended - having} of {ended}" if having else "") if having < ended else None


def draws(runs: Runs, cell: Cell) -> tuple[str, ...]:
    """What another seed of the cell draws anew, in its run or in measures beside it, in words; () where its runs differ by
    rounding alone."""
    return tuple(dict.fromkeys((*(_fact(runs, cell, "draws") or ()), *cell.drawn)))


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
    table = _table(runs, [cell])
    had = zip(table.of(cell, "seed"), table.of(cell, "status"), strict=True)
    others = any(status != NO_RUNS and not cell.first <= seed < cell.first + cell.seeds for seed, status in had)
    return "seeds that were not declared" if others and draws(runs, cell) else None


def _fact(runs: Runs, cell: Cell, name: str) -> Any:
    """What all runs of a cell share; None where nothing is known."""
    if name not in runs:
        return None
    return next((fact for fact in _table(runs, [cell]).of(cell, name) if fact is not None), None)
