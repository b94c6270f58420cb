"""An artefact's tables in Markdown: printed numbers beside ours, verdicts on claims, the details of each cell."""

import math
import re
from collections.abc import Iterator, Sequence

import pandas as pd

from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.claims import answered
from effdl.reproduce.judge import Judged, Runs, absolute, diverged, missing, undertrained, values
from effdl.reproduce.vocabulary import SCALE_OF, Column, Where


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells may hold Markdown, and a bar within them must be escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(declaration: Declaration, scale: str, runs: Runs, found: Sequence[Judged], own: bool | None = None) -> str:
    """A row for each combination of the row axes: what is printed and what is ours, and the verdicts on the row.

    Cells under other choices than ours have rows of their own, without verdicts. own: those under our choices alone, or with
    False the others alone; empty where there are none.
    """
    artefact, columns = declaration.artefact, by_row(declaration)
    cells = declaration.cells(scale)
    rows: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for cell in cells:
        if own is not None and own != (set(cell.at) == set(artefact.axes)):
            continue
        rows.setdefault(tuple(pair for pair in cell.at.items() if pair[0] != artefact.columns), []).append(cell)
    lines = []
    for row, of_row in rows.items():
        at = dict(row)
        first = [declaration.label(axis, at[axis]) for axis in artefact.rows]
        choices = [declaration.label(axis, level) for axis, level in row if axis not in artefact.axes]
        texts = _crossed(declaration, scale, runs, of_row) if artefact.columns else _listed(declaration, runs, of_row[0], cells)
        verdicts = {one.name: _word(one) for one in found if one.at == at}
        lines.append([", ".join([first[0], *choices]), *first[1:], *texts, *(verdicts.get(name, "") for name in columns)])
    header = _crossed_header(declaration) if artefact.columns else ["n", *(column.name for column in artefact.details)]
    return markdown([*artefact.rows, *header, *map(in_words, columns)], lines) if lines else ""


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
    count = len(values(runs, cell, artefact.metric))
    return [str(count), *(_column(column, cell, cells, runs) for column in artefact.details)]


def in_words(name: str) -> str:
    """A claim's name for people. A decimal point in it is written p, as in the ids of claims.csv."""
    return re.sub(r"(?<=\d)p(?=\d)", ".", name).replace("_", " ")


def by_row(declaration: Declaration) -> list[str]:
    """Claims that have a verdict for each row of the table, which shows them as columns."""
    claims, rows = declaration.artefact.claims.items(), set(declaration.artefact.rows)
    return [name for name, claim in claims if set(claim.each) == rows and claim.along is None]


def legend(declaration: Declaration, found: Sequence[Judged]) -> str:
    """What the table's columns of verdicts mean."""
    lines = []
    firsts = {one.name: one for one in reversed(found)}
    for one in (firsts[name] for name in by_row(declaration) if name in firsts):
        unit = one.claim.unit or ("" if one.claim.compare == "ratio" else declaration.artefact.unit)
        between = {"difference": " minus ", "ratio": " over ", "saving": " in the place of "}[one.claim.compare]
        sides = between.join(_side(declaration, side) for side in (one.claim.left, one.claim.right) if side)
        compared = sides or one.claim.metric or declaration.artefact.metric
        points = unit == "percent" and one.claim.right and one.claim.compare == "difference"
        measured_in = "points" if points else unit
        what = f"{compared}, {measured_in}" if measured_in else compared
        meaning = f"{one.claim.says} ({what}: the interval lies in {_required(one)}). {one.claim.note}"
        lines.append(f"- *{in_words(one.name)}*: {meaning}".rstrip())
    return "\n".join(lines)


def claims_table(declaration: Declaration, found: Sequence[Judged]) -> str:
    """One line for each judgement that the table has no column for."""
    rows = []
    for one in found:
        if one.name in by_row(declaration):
            continue
        where = ", ".join(declaration.label(axis, level) for axis, level in one.at.items()) or "all"
        interval = one.verdict.interval
        ours = f"{interval.mean:.2f} {_bounds(interval.low, interval.high)}" if interval else ""
        n = f"{interval.n}{' pairs' if one.verdict.paired else ''}" if interval else ""
        n += f"; without {' and '.join(_places(declaration, one))}" if interval and one.without else ""
        answers = f" ({', '.join(answered(one.claim))})" if one.claim.answers else ""
        rows.append([one.claim.says + answers, where, ours, _required(one), n, said(one)])
    if not rows:
        return ""
    shown = {one.name: one.claim for one in found if one.name not in by_row(declaration)}
    notes = [f"- {claim.says}: {claim.note}" for claim in shown.values() if claim.note]
    return "\n\n".join([markdown(["claim", "where", "ours", "must lie in", "n", "verdict"], rows), "\n".join(notes)]).strip()


def _places(declaration: Declaration, one: Judged) -> list[str]:
    """Where a pooled claim has no runs: by what its sides share."""
    shared = [axis for axis in declaration.artefact.axes if axis not in (one.claim.right or ()) and axis not in one.at]
    return list(dict.fromkeys(", ".join(declaration.label(axis, cell.at[axis]) for axis in shared) for cell in one.without))


def _side(declaration: Declaration, side: Where) -> str:
    levels = [(axis, level) for axis, wanted in side.items() for level in ((wanted,) if isinstance(wanted, str) else wanted)]
    return " ".join(declaration.label(axis, level) for axis, level in levels)


def details(declaration: Declaration, scale: str, runs: Runs) -> str:
    """A row for each cell that has runs, with the columns that the declaration names."""
    artefact, rows = declaration.artefact, []
    cells = declaration.cells(scale)
    for cell in cells:
        if missing(runs, cell):
            continue
        texts = [", ".join(declaration.label(axis, level) for axis, level in cell.at.items())]
        count = len(values(runs, cell, artefact.metric))
        row = [*texts, str(count), *(_column(column, cell, cells, runs) for column in artefact.details)]
        rows.append([*row, absolute(declaration, scale, runs, cell) if cell.published is not None else ""])
    if not rows:
        return ""
    header = ["cell", "n", *(column.name for column in artefact.details), "against the printed value"]
    return markdown(header, rows)


def _ours(declaration: Declaration, scale: str, runs: Runs, cell: Cell) -> str:
    if reason := missing(runs, cell) or diverged(runs, cell):
        return reason
    artefact = declaration.artefact
    text = _statistic(list(values(runs, cell, artefact.metric, artefact.unit).values()), artefact.statistic, 2, True)
    return f"{text} (n {len(values(runs, cell, artefact.metric))})" + (
        ", undertrained" if undertrained(declaration, scale, runs, cell) else ""
    )


def _column(column: Column, cell: Cell, cells: Sequence[Cell], runs: Runs) -> str:
    found = list(values(runs, cell, column.metric, "" if column.share_of else column.unit).values())
    if not found:
        return ""
    if column.share_of is None:
        return _statistic(found, column.statistic, column.digits, column.spread)
    other = next((c for c in cells if c.matches({**cell.at, **column.share_of})), None)
    whole = [] if other is None else list(values(runs, other, column.metric).values())
    if not whole:
        return ""
    mean = math.fsum(whole) / len(whole)
    return _statistic(
        [SCALE_OF.get(column.unit, 1.0) * v / mean for v in found], column.statistic, column.digits, column.spread
    )


def _statistic(numbers: Sequence[float], which: str, digits: int, spread: bool) -> str:
    series = pd.Series(numbers, dtype=float)
    text = f"{getattr(series, which)():.{digits}f}"
    return f"{text} ± {series.std():.{digits}f}" if spread and len(series) > 1 else text


def _word(one: Judged) -> str:
    interval = one.verdict.interval
    return f"{said(one)} {_bounds(interval.low, interval.high)}" if interval else said(one)


def _required(one: Judged) -> str:
    low, high = one.bounds
    if math.isinf(low):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _bounds(low: float, high: float) -> str:
    if low == high:
        return f"[{low:.2f}, does not vary]"
    return "[one value]" if math.isinf(high) and math.isinf(low) else f"[{low:.2f}, {high:.2f}]"


def said(one: Judged) -> str:
    """The verdict in words: a claim of ours holds or fails, one of the thesis is reproduced or differs."""
    ours = {"reproduced": "holds", "differs": "fails"} if one.claim.ours else {}
    return f"**{ours.get(one.verdict.word, one.verdict.word)}**"
