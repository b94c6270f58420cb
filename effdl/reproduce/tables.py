"""An artefact's tables in Markdown: printed numbers beside ours, verdicts on claims, the details of each cell."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.estimate import Fixed, Repeats
from effdl.reproduce.floors import baselines, unfinished
from effdl.reproduce.judge import Judged, absolute
from effdl.reproduce.runs import Runs, diverged, draws, missing, outdated, values
from effdl.reproduce.vocabulary import SCALE_OF, Column
from effdl.reproduce.wording import by_row, decimal, in_words, markdown, with_interval

MEMORY = "memory/"  # before the metrics of memory


def table(declaration: Declaration, scale: str, runs: Runs, found: Sequence[Judged], own: bool | None = None) -> str:
    """A row for each combination of the row axes: what is printed and what is ours, and the verdicts on the row.

    Cells under other choices than ours have rows of their own, without verdicts. own: those under our choices alone, or with
    False the others alone; empty where there are none.
    """
    artefact, columns = declaration.artefact, by_row(declaration)
    cells, lines = declaration.cells(scale), []
    for row, of_row in _rows(declaration, cells, own).items():
        at = dict(row)
        first = [declaration.label(axis, at[axis]) for axis in artefact.rows]
        choices = [declaration.label(axis, level) for axis, level in row if axis not in artefact.axes]
        texts = _crossed(declaration, scale, runs, of_row) if artefact.columns else _listed(declaration, runs, of_row[0], cells)
        verdicts = {one.name: with_interval(one) for one in found if one.at == at}
        lines.append([", ".join([first[0], *choices]), *first[1:], *texts, *(verdicts.get(name, "") for name in columns)])
    header = _crossed_header(declaration) if artefact.columns else ["n", *(column.name for column in artefact.details)]
    return markdown([*artefact.rows, *header, *map(in_words, columns)], lines) if lines else ""


def pooled(declaration: Declaration, scale: str, runs: Runs, own: bool | None = None) -> str:
    """The table with the runs of all levels of the artefact's pooled axes in one place; empty where it has no such axis."""
    artefact, lines = declaration.artefact, []
    if not artefact.pooled:
        return ""
    kept = [axis for axis in artefact.rows if axis not in artefact.pooled]
    header = [f"{declaration.label(axis, level)}: ours" for axis, level in _column_levels(declaration)]
    for row, of_row in _rows(declaration, declaration.cells(scale), own, artefact.pooled).items():
        first = [declaration.label(axis, level) for axis, level in row if axis in kept]
        choices = [declaration.label(axis, level) for axis, level in row if axis not in artefact.axes]
        texts = [_over_all(declaration, runs, of_row, at) for at in _column_levels(declaration)]
        lines.append([", ".join([first[0], *choices]), *first[1:], *texts])
    return markdown([*kept, *header], lines)


def _over_all(declaration: Declaration, runs: Runs, cells: Sequence[Cell], at: tuple[str, str]) -> str:
    """Mean and deviation over all runs of these cells that are at a level, and of how many; what ended otherwise is counted."""
    artefact, here = declaration.artefact, [cell for cell in cells if cell.at[at[0]] == at[1]]
    found = [v for cell in here for v in values(runs, cell, artefact.metric, artefact.unit).values()]
    others = [reason for cell in here if (reason := missing(runs, cell) or diverged(runs, cell))]
    notes = [f"n {len(found)}", *([f"{len(others)} of {len(here)} incomplete"] if others else [])]
    return f"{_statistic(found, artefact.statistic, 2, True)} ({', '.join(notes)})" if found else others[0]


def _rows(
    declaration: Declaration, cells: Sequence[Cell], own: bool | None, without: Sequence[str] = ()
) -> dict[tuple[tuple[str, str], ...], list[Cell]]:
    """The cells of each row, by its levels and choices; axes that are left out tell no rows apart. own: as of `table`."""
    artefact, rows = declaration.artefact, dict[tuple[tuple[str, str], ...], list[Cell]]()
    for cell in cells:
        if own is None or own == (set(cell.at) == set(artefact.axes)):
            row = tuple(pair for pair in cell.at.items() if pair[0] not in (artefact.columns, *without))
            rows.setdefault(row, []).append(cell)
    return rows


def _crossed_header(declaration: Declaration) -> list[str]:
    labels = {level: declaration.label(axis, level) for axis, level in _column_levels(declaration)}
    printed = _printed_levels(declaration)
    return [text for v in labels for text in ([f"{labels[v]}: printed", "ours"] if v in printed else [f"{labels[v]}: ours"])]


def _crossed(declaration: Declaration, scale: str, runs: Runs, of_row: Sequence[Cell]) -> Iterator[str]:
    """For each level of the column axis what is printed, where anything is, and what is ours."""
    printed = _printed_levels(declaration)
    for axis, level in _column_levels(declaration):
        cell = next((cell for cell in of_row if cell.at[axis] == level), None)
        if level in printed:
            yield "" if cell is None or cell.published is None else f"{cell.published:g}"
        yield "" if cell is None else _ours(declaration, scale, runs, cell)


def _column_levels(declaration: Declaration) -> list[tuple[str, str]]:
    axis = declaration.artefact.columns
    assert axis is not None
    return [(axis, level) for level in declaration.artefact.axes[axis]]


def _printed_levels(declaration: Declaration) -> set[str]:
    """Levels of the column axis that the thesis has numbers of."""
    levels = declaration.artefact.axes[declaration.artefact.columns or ""].items()
    return {level for level, told in levels if declaration.artefact.published and told.row is not None}


def _listed(declaration: Declaration, runs: Runs, cell: Cell, cells: Sequence[Cell]) -> list[str]:
    """A cell's details."""
    artefact = declaration.artefact
    if reason := missing(runs, cell) or diverged(runs, cell):
        return [reason, *("" for _ in artefact.details)]
    count = _count(declaration, runs, cell).removeprefix("n ")
    return [count, *(_column(declaration, column, cell, cells, runs) for column in artefact.details)]


def memory(declaration: Declaration, scale: str, runs: Runs) -> str:
    """The columns of memory for each cell that has runs, where a claim is about memory: what is counted beside what a process
    took. Empty where none is, or where the table has them already."""
    artefact = declaration.artefact
    asked = any((claim.metric or artefact.metric).startswith(MEMORY) for claim in artefact.claims.values())
    return details(declaration, scale, runs, MEMORY) if asked and artefact.columns else ""


def details(declaration: Declaration, scale: str, runs: Runs, of: str = "") -> str:
    """A row for each cell that has runs, with the columns that the declaration names, or those of metrics that begin so."""
    artefact, rows = declaration.artefact, []
    shown = [column for column in artefact.details if column.metric.startswith(of)]
    cells = declaration.cells(scale)
    for cell in cells:
        if missing(runs, cell):
            continue
        texts = [", ".join(declaration.label(axis, level) for axis, level in cell.at.items())]
        row = [
            *texts,
            _count(declaration, runs, cell).removeprefix("n "),
            *(_column(declaration, column, cell, cells, runs) for column in shown),
        ]
        judged = artefact.published and not of
        printed = [absolute(declaration, scale, runs, cell) if cell.published is not None else ""] if judged else []
        rows.append([*row, *printed])
    if not rows:
        return ""
    header = ["cell", "n", *(column.name for column in shown)]
    return markdown([*header, *(["against the printed value"] if artefact.published and not of else [])], rows)


def _ours(declaration: Declaration, scale: str, runs: Runs, cell: Cell) -> str:
    if reason := missing(runs, cell) or diverged(runs, cell):
        return reason
    artefact = declaration.artefact
    found = list(values(runs, cell, artefact.metric, artefact.unit).values())
    notes = [_count(declaration, runs, cell)]
    is_baseline = any(baseline.name == cell.name for _, baseline in baselines(declaration, scale, [cell]))
    notes += filter(None, [outdated(runs, cell), unfinished(declaration, scale, runs, cell) if is_baseline else None])
    return f"{_statistic(found, artefact.statistic, 2, bool(draws(runs, cell)))} ({notes[0]})" + "".join(
        f", {note}" for note in notes[1:]
    )


def _count(declaration: Declaration, runs: Runs, cell: Cell) -> str:
    """Over how many runs a cell's numbers are; where nothing is drawn, how far the order of samples alone moves them."""
    artefact = declaration.artefact
    found = values(runs, cell, artefact.metric, artefact.unit).values()
    count = f"n {len(found)}"
    if draws(runs, cell):
        return count
    moved = Repeats(tuple(Fixed((value,)) for value in found)).moved if found else None
    return f"{count}, nothing drawn" + (f"; order moves it by {decimal(moved)}" if moved else "")


def _column(declaration: Declaration, column: Column, cell: Cell, cells: Sequence[Cell], runs: Runs) -> str:
    found = list(values(runs, cell, column.metric, "" if column.share_of else column.unit).values())
    if not found:
        return ""
    spread = column.spread and bool(draws(runs, cell))
    if column.share_of is None:
        return _statistic(found, column.statistic, column.digits, spread)
    other = next((c for c in cells if c.matches({**cell.at, **column.share_of})), None)
    whole = [] if other is None else list(values(runs, other, column.metric).values())
    if not whole:
        return ""
    mean = math.fsum(whole) / len(whole)
    return _statistic([SCALE_OF.get(column.unit, 1.0) * v / mean for v in found], column.statistic, column.digits, spread)


def _statistic(numbers: Sequence[float], which: str, digits: int, spread: bool) -> str:
    series = pd.Series(numbers, dtype=float)
    text = f"{getattr(series, which)():.{digits}f}"
    return f"{text} ± {series.std():.{digits}f}" if spread and len(series) > 1 else text
