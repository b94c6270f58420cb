"""An artefact as Markdown: published numbers beside ours, claims with their verdicts, and how ours differs in set-up."""

import math
from collections.abc import Iterator, Mapping, Sequence

from effdl.reproduce import declared, published
from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import Judged, Runs, absolute, combinations, diverged, judged, missing, undertrained, values
from effdl.reproduce.ledger import Line
from effdl.reproduce.verdict import WORDS
from effdl.reproduce.vocabulary import SCALE_OF, Column, Where

NOTATION = "± is the standard deviation over seeds, n their number, [ ] the 95% t-interval of a mean."


def report(declaration: Declaration, scale: str, lines: Sequence[Line]) -> str:
    """The whole report; a pure function of declaration and ledger lines."""
    runs = frame(declaration, scale, lines)
    here = [line for line in lines if line["scale"] == scale]
    sections = [
        f"# {heading(declaration)}\n\n{declaration.artefact.source}",
        f"Scale *{scale}*: {declaration.scale(scale).about}\n\n`{command(declaration, scale)}`",
        summary(declaration, scale, runs),
        section("Each cell", details(declaration, scale, runs) if declaration.artefact.columns else ""),
        section("Other choices where the text says nothing", _grid(declaration, scale, runs)),
        section("How ours differs from the thesis", "\n".join(_differences(declaration, scale))),
        section("What the text leaves open", "\n".join(_assumptions(declaration, runs))),
        section("Provenance", "\n".join(_provenance(declaration, scale, here))),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def summary(declaration: Declaration, scale: str, runs: Runs) -> str:
    """The table as the thesis prints it with ours beside it, and the claims."""
    found = judged(declaration, scale, runs)
    notes = "\n".join(f"- {note}" for note in declaration.artefact.notes)
    parts = [
        table(declaration, scale, runs, found),
        NOTATION,
        legend(declaration, found),
        section("Claims", claims_table(declaration, found)),
        notes,
    ]
    return "\n\n".join(part for part in parts if part)


def heading(declaration: Declaration) -> str:
    """Such as "Table 6.1: First DLL accuracies"."""
    name = declaration.artefact.id
    return f"{name[0].upper()}{name[1:].replace('-', ' ')}: {declaration.title}"


def command(declaration: Declaration, scale: str) -> str:
    by_rule = declaration.artefact.id in published.artefacts() or declaration.artefact.id.startswith("claims-")
    return (
        f"make {declaration.artefact.id} SCALE={scale}" if by_rule else f"effdl run {declaration.artefact.id} --scale {scale}"
    )


def section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(declaration: Declaration, scale: str, runs: Runs, found: Sequence[Judged]) -> str:
    """A row for each combination of the row axes: what is printed and what is ours, and the verdicts on the row.

    Cells under other choices than ours have rows of their own, without verdicts.
    """
    artefact, columns = declaration.artefact, by_row(declaration)
    cells = declaration.cells(scale)
    rows: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for cell in cells:
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
    return markdown([*artefact.rows, *header, *(name.replace("_", " ") for name in columns)], lines)


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


def by_row(declaration: Declaration) -> list[str]:
    """Claims that have a verdict for each row of the table, which shows them as columns."""
    return [name for name, claim in declaration.artefact.claims.items() if set(claim.each) == set(declaration.artefact.rows)]


def legend(declaration: Declaration, found: Sequence[Judged]) -> str:
    """What the table's columns of verdicts mean."""
    lines = []
    for name in by_row(declaration):
        one = next(judgement for judgement in found if judgement.name == name)
        unit = one.claim.unit or declaration.artefact.unit
        sides = " minus ".join(_side(declaration, side) for side in (one.claim.left, one.claim.right) if side)
        what = f"{sides or declaration.artefact.metric}, {'points' if unit == 'percent' and one.claim.right else unit}"
        said = f"{one.claim.says} ({what}: the interval lies in {_required(one)}). {one.claim.note}"
        lines.append(f"- *{name.replace('_', ' ')}*: {said}".rstrip())
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
        n += f"; none of {' or '.join(one.without)}" if interval and one.without else ""
        said = f"{one.claim.says} ({one.claim.answers})" if one.claim.answers else one.claim.says
        rows.append([said, where, ours, _required(one), n, f"**{one.verdict.word}**"])
    if not rows:
        return ""
    shown = {one.name: one.claim for one in found if one.name not in by_row(declaration)}
    notes = [f"- {claim.says}: {claim.note}" for claim in shown.values() if claim.note]
    return "\n\n".join([markdown(["claim", "where", "ours", "must lie in", "n", "verdict"], rows), "\n".join(notes)]).strip()


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
    header = ["cell", "n", *(column.name for column in artefact.details), "printed value"]
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
    import pandas as pd

    series = pd.Series(numbers, dtype=float)
    text = f"{getattr(series, which)():.{digits}f}"
    return f"{text} ± {series.std():.{digits}f}" if spread and len(series) > 1 else text


def _word(one: Judged) -> str:
    interval = one.verdict.interval
    return f"**{one.verdict.word}** {_bounds(interval.low, interval.high)}" if interval else f"**{one.verdict.word}**"


def _required(one: Judged) -> str:
    low, high = one.bounds
    if math.isinf(low):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _bounds(low: float, high: float) -> str:
    return "[one value]" if math.isinf(high) and math.isinf(low) else f"[{low:.2f}, {high:.2f}]"


def _grid(declaration: Declaration, scale: str, runs: Runs) -> str:
    """Under each combination of choices that the scale runs throughout, how many claims hold; none may."""
    rows = []
    for choices in [{}, *combinations(declaration, scale)]:
        words = [one.verdict.word for one in judged(declaration, scale, runs, choices)]
        if "no such cells" in words:  # run in part only
            continue
        said = ", ".join(declaration.label(name, choice) for name, choice in choices.items()) or "our own"
        rows.append([said, *(str(words.count(word)) for word in WORDS), str(sum(word not in WORDS for word in words))])
    if len(rows) < 2:
        return ""
    fitting = [row[0] for row in rows if row[2:] == ["0", "0", "0"]]
    last = f"All claims hold together under: {'; '.join(fitting)}." if fitting else "None fits all claims together."
    return markdown(["choices", *WORDS, "no verdict"], rows) + "\n\n" + last


def _differences(declaration: Declaration, scale: str) -> Iterator[str]:
    """Every setting that is not as at paper scale, and in which cells."""
    if "paper" not in declaration.artefact.scales or scale == "paper":
        return
    printed = {cell.name: cell.set for cell in declaration.cells("paper")}
    moved: dict[tuple[str, str, str], list[Cell]] = {}
    cells = [cell for cell in declaration.cells(scale) if cell.name in printed]
    for cell in cells:
        for key in cell.set:
            then, now = printed[cell.name].get(key, "its default"), cell.set[key]
            if then != now:
                moved.setdefault((key, _plain(then), _plain(now)), []).append(cell)
    for (key, then, now), where in moved.items():
        yield f"- `{key}`: {now} instead of {then} ({_where(declaration, where, cells)})"


def _where(declaration: Declaration, some: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """The cells in few words: the levels of each axis that they do not have all of."""
    words = []
    for axis in declaration.artefact.axes:
        levels, all_levels = (list(dict.fromkeys(cell.at[axis] for cell in part)) for part in (some, cells))
        if levels != all_levels:
            words.append(" and ".join(declaration.label(axis, level) for level in levels))
    return ", ".join(words) or "everywhere"


def _assumptions(declaration: Declaration, runs: Runs) -> Iterator[str]:
    for name, assumption in declaration.artefact.assumptions.items():
        ran = set(runs[name].dropna()) if name in runs else set()
        first, *_ = (choice.label for choice in assumption.choices.values())
        others = [choice.label for key, choice in assumption.choices.items() if key in ran]
        yield f"- {assumption.why} Ours: {first}." + (f" Also run, in part: {'; '.join(others)}." if others else "")


def _provenance(declaration: Declaration, scale: str, lines: Sequence[Line]) -> Iterator[str]:
    """Commits, versions, machine, time; and claims that were not yet declared, or otherwise, when the runs began."""
    ran = [line for line in lines if line["runs"]]
    for text in sorted({_machine(line["provenance"]) for line in ran}):
        yield f"- {text}"
    for commit in sorted({line["declaration"]["commit"] or "" for line in ran}):
        if commit:
            yield f"- Claims and floors stood fixed in commit {commit[:10]}, before these runs."
        else:
            yield "- **That claims and floors stood fixed before these runs is in no commit.**"
    known = [line["declaration"] for line in ran if line["declaration"]["commit"]]
    if moved := sorted({name for then in known for name in declared.moved(declaration, scale, then)}):
        yield f"- **Declared or changed after the runs: {', '.join(moved)}.**"
    once = {run["run_id"]: run["times"].get("time/wall_s", 0.0) for line in ran for run in line["runs"]}  # cells may share runs
    if ran:
        yield f"- {len(once)} runs, {math.fsum(once.values()) / 60:.0f} minutes of run time in all."


def _machine(provenance: Mapping[str, object]) -> str:
    where = provenance["gpu"] or f"{provenance['cpus']} CPU cores ({provenance['machine']})"
    dirty = ", with changes that were not committed" if provenance["dirty"] else ""
    return (
        f"{where}, {provenance['threads']} thread(s) a run, torch {provenance['torch']}, Python {provenance['python']}, "
        f"commit {str(provenance['commit'])[:10]}{dirty}"
    )


def _plain(value: object) -> str:
    return "null" if value is None else str(value)
