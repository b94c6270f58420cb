"""Verdicts in words: what a claim must show, what was found, what varies, and how many verdicts chance would give."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from effdl.reproduce import published
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.claims import answered
from effdl.reproduce.estimate import ALPHA, Fixed
from effdl.reproduce.judge import Judged
from effdl.reproduce.verdict import DIFFERS, FITTED, REPRODUCED, holm
from effdl.reproduce.vocabulary import Where

OURS = {REPRODUCED: "holds", DIFFERS: "fails"}  # of a claim that no thesis makes
DECIDED = (REPRODUCED, DIFFERS, FITTED)
LOOKED, FALLS = r"\*", "°"  # marks
ZERO = 1e-9


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells may hold Markdown, and a bar within them must be escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def name_of(declaration: Declaration) -> str:
    """What people call an artefact: "Table 6.1", or by its title where it stands in no thesis."""
    name = declaration.artefact.id
    in_thesis = name in published.artefacts() or name.startswith("claims-")
    words = name.replace("fig-", "figure-").replace("-", " ")
    return f"{words[0].upper()}{words[1:]}" if in_thesis else declaration.title


def word_of(word: str, ours: bool) -> str:
    """A verdict's word: a claim of ours holds or fails, one of the thesis is reproduced or differs."""
    return OURS.get(word, word) if ours else word


def said(one: Judged) -> str:
    """The verdict with its reason and its marks."""
    text = one.verdict.text.replace(one.verdict.word, word_of(one.verdict.word, one.claim.ours), 1)
    decided = one.verdict.word in DECIDED
    marks = (LOOKED if one.looked and decided else "") + (FALLS if one.survives is False and decided else "")
    return f"**{text}**{marks}"


def with_interval(one: Judged) -> str:
    """The verdict and the interval that it rests on."""
    interval = one.verdict.interval
    return f"{said(one)} {bounds(interval)}" if interval else said(one)


def bounds(interval: object) -> str:
    """An interval; that a number does not vary is said of what cannot, and of what all recorded runs agree on."""
    low, high, kind, n, moved = (getattr(interval, name) for name in ("low", "high", "kind", "n", "moved"))
    if moved:
        return f"[{decimal(low)}, {decimal(high)}; order alone moves it by {decimal(moved)}]"
    if kind == Fixed.kind and moved is None:
        return f"[{decimal(low)}, one run]" if low == high else f"[{decimal(low)}, {decimal(high)}; one run each]"
    if kind == Fixed.kind:
        return f"[{decimal(low)}, does not vary]" if low == high else f"[{decimal(low)}, {decimal(high)}; do not vary]"
    if math.isinf(low) and math.isinf(high):
        return "[one value]" if n == 1 else "[too few that differ]"
    return f"[{decimal(low)}, {decimal(high)}]"


def decimal(value: float) -> str:
    """Two decimals; of what is smaller, two digits. What rounding leaves of a zero is each machine's own, and shown as one."""
    if abs(value) < ZERO:
        return "0.00"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def required(one: Judged) -> str:
    """Where the interval must lie."""
    low, high = one.bounds
    if math.isinf(low):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


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
        unit = declaration.artefact.unit if one.claim.unit is None and one.claim.compare != "ratio" else one.claim.unit or ""
        between = {"difference": " minus ", "ratio": " over ", "saving": " in the place of "}[one.claim.compare]
        sides = between.join(_side(declaration, side) for side in (one.claim.left, one.claim.right) if side)
        compared = sides or one.claim.metric or declaration.artefact.metric
        points = unit == "percent" and one.claim.right and one.claim.compare == "difference"
        measured_in = "points" if points else unit
        what = f"{compared}, {measured_in}" if measured_in else compared
        over = f", over {over_what(one)}" if over_what(one) else ""
        meaning = f"{one.claim.says} ({what}: the interval lies in {required(one)}{over}). {one.claim.note}"
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
        ours = f"{decimal(interval.mean)} {bounds(interval)}" if interval else ""
        n = f"{interval.n}{' pairs' if one.verdict.paired else ''}" if interval else ""
        n += f"; without {' and '.join(_places(declaration, one))}" if interval and one.without else ""
        answers = f" ({', '.join(answered(one.claim))})" if one.claim.answers else ""
        rows.append([one.claim.says + answers, where, ours, required(one), n, over_what(one), said(one)])
    if not rows:
        return ""
    shown = {one.name: one.claim for one in found if one.name not in by_row(declaration)}
    notes = [f"- {claim.says}: {claim.note}" for claim in shown.values() if claim.note]
    header = ["claim", "where", "ours", "must lie in", "n", "over", "verdict"]
    return "\n\n".join([markdown(header, rows), "\n".join(notes)]).strip()


def over_what(one: Judged) -> str:
    """What varies from one value to the next."""
    return ", ".join(one.over)


def corrected(family: Iterable[Sequence[Judged]]) -> list[list[Judged]]:
    """Each judgement with whether it survives Holm's correction over all; those that cannot err are not in the family."""
    lists = [list(found) for found in family]
    members = [(i, j, one.verdict.p) for i, found in enumerate(lists) for j, one in enumerate(found)]
    uncertain = [(i, j, p) for i, j, p in members if p is not None]
    for (i, j, _), survives in zip(uncertain, holm([p for _, _, p in uncertain]), strict=True):
        lists[i][j] = replace(lists[i][j], survives=survives)
    return lists


def by_chance(found: Sequence[Judged], where: str) -> str:
    """How many of the intervals would miss by chance, and how many verdicts survive Holm's correction; what the marks mean.

    where: of what the family is made, such as "on this page".
    """
    intervals = [one for one in found if one.verdict.p is not None]
    decided = [one for one in intervals if one.verdict.word in DECIDED]
    lines = []
    if len(intervals) > 1:
        missed, surviving = ALPHA * len(intervals), sum(bool(one.survives) for one in decided)
        lines.append(
            f"{where[0].upper()}{where[1:]} are {len(intervals)} intervals at 95%: by chance alone about {missed:.1f} of them "
            f"miss what they are of. They decide {len(decided)} verdicts, of which {surviving} survive Holm's correction"
            + (f"; {FALLS} marks the others." if surviving < len(decided) else ".")
        )
    if any(one.looked and one.verdict.word in DECIDED for one in found):
        lines.append(f"{LOOKED} Declared after first looks: numbers of these runs were known when the claim was declared.")
    return " ".join(lines)


def _places(declaration: Declaration, one: Judged) -> list[str]:
    """Where a pooled claim has no runs: by what its sides share."""
    shared = [axis for axis in declaration.artefact.axes if axis not in (one.claim.right or ()) and axis not in one.at]
    return list(dict.fromkeys(", ".join(declaration.label(axis, cell.at[axis]) for axis in shared) for cell in one.without))


def _side(declaration: Declaration, side: Where) -> str:
    levels = [(axis, level) for axis, wanted in side.items() for level in ((wanted,) if isinstance(wanted, str) else wanted)]
    return " ".join(declaration.label(axis, level) for axis, level in levels)
