"""A declaration's claims against the runs of its cells: verdicts, or the reason why there is none."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.claims import statements
from effdl.reproduce.verdict import Interval, Verdict, compare, interval, judge, region
from effdl.reproduce.vocabulary import SCALE_OF, Claim

Runs = pd.DataFrame  # one row a run: cell, seed, status, reason, and a column for each number
NO_RUNS = "none"  # status of the row of a cell of which only the reason is known why it has none


@dataclass(frozen=True)
class Judged:
    """A claim for one combination of the axes in its ``each``. bounds: of what is compared, in the claim's
    unit. without: cells that have no runs and were left out."""

    name: str
    claim: Claim
    at: Mapping[str, str]
    verdict: Verdict
    bounds: tuple[float, float]
    without: list[Cell]


def judged(declaration: Declaration, scale: str, runs: Runs, choices: Mapping[str, str] | None = None) -> list[Judged]:
    """Every claim, under our own assumptions or under other choices.

    Args:
        runs: of all cells, as `frame` makes them.
        choices: assumption -> choice, where another than the first is to be judged.
    """
    cells, here = _under(declaration, scale, choices or {}), declaration.cells(scale)
    found = []
    for name, claim in declaration.artefact.claims.items():
        for one, at in _combinations(declaration, claim):
            if any(cell.matches(claim.where) and cell.matches(at) for cell in here):  # a scale may have some of the levels only
                found.append(_judge(declaration, scale, runs, cells, name, one, at))
    return found


def _combinations(declaration: Declaration, claim: Claim) -> Iterator[tuple[Claim, dict[str, str]]]:
    """What a claim is judged for: each combination of levels that it names, and of an axis along which it goes, each step."""
    axes = declaration.artefact.axes
    for combination in itertools.product(*(axes[axis] for axis in claim.each)):
        at = dict(zip(claim.each, combination, strict=True))
        if claim.along is None:
            yield claim, at
            continue
        for before, level in itertools.pairwise(axes[claim.along]):
            sides = {"left": {**claim.left, claim.along: level}, "right": {**claim.left, claim.along: before}}
            yield claim.model_copy(update=sides), {**at, claim.along: level}


def values(runs: Runs, cell: Cell, metric: str, unit: str = "") -> dict[int, float]:
    """seed -> the metric of the cell's finished runs, in the unit."""
    of_cell = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")]
    if metric not in of_cell:
        return {}
    numbers = of_cell[["seed", metric]].dropna().astype({metric: float})
    return {int(seed): value * SCALE_OF.get(unit, 1.0) for seed, value in numbers.itertuples(index=False)}


def missing(runs: Runs, cell: Cell) -> str | None:
    """Why a cell has no runs, None where it has."""
    of_cell = runs[runs["cell"] == cell.name]
    if of_cell.empty:
        return "not run"
    return str(of_cell["reason"].iloc[0]) if (of_cell["status"] == NO_RUNS).all() else None


def diverged(runs: Runs, cell: Cell) -> str | None:
    """How many of a cell's runs ended without numbers, None where all have some."""
    of_cell = runs[runs["cell"] == cell.name]
    bad = of_cell[~of_cell["status"].isin(("finished", NO_RUNS))]
    return None if bad.empty else f"{bad['status'].iloc[0]} ({len(bad)} of {len(of_cell)})"


def incomplete(runs: Runs, cell: Cell, metric: str) -> str | None:
    """How many of a cell's runs have ended, or have the metric; None where all have: a verdict waits for the number that was
    declared."""
    ended, told = int((runs["cell"] == cell.name).sum()), len(values(runs, cell, metric))
    if ended < cell.seeds:
        return f"incomplete ({ended} of {cell.seeds})"
    return f"no {metric}" + (f" in {ended - told} of {ended}" if told else "") if told < ended else None


def undertrained(declaration: Declaration, scale: str, runs: Runs, cell: Cell) -> bool:
    """Whether the cell's mean is below the floor that its scale declares for it."""
    artefact = declaration.artefact
    reached = values(runs, cell, artefact.metric, artefact.unit).values()
    floors = [floor.at_least for floor in declaration.scale(scale).floors if cell.matches(floor.where)]
    return bool(reached) and any(math.fsum(reached) / len(reached) < floor for floor in floors)


def absolute(declaration: Declaration, scale: str, runs: Runs, cell: Cell) -> str:
    """The verdict on a published number by itself, which only runs at paper scale can have."""
    artefact = declaration.artefact
    if scale != "paper" or cell.published is None or artefact.published is None:
        return "below paper scale"
    if reason := missing(runs, cell) or diverged(runs, cell) or incomplete(runs, cell, artefact.metric):
        return reason
    if undertrained(declaration, scale, runs, cell):
        return "undertrained"
    measured = interval(list(values(runs, cell, artefact.metric, artefact.unit).values()))
    return judge(measured, region("~", cell.published, artefact.published.tolerance))


def combinations(declaration: Declaration, scale: str) -> list[dict[str, str]]:
    """The choices of assumptions, other than ours, that the scale runs cells under."""
    found = [_chosen(declaration, cell) for cell in declaration.cells(scale)]
    return [dict(pairs) for pairs in dict.fromkeys(tuple(one.items()) for one in found) if pairs]


def _judge(
    declaration: Declaration, scale: str, runs: Runs, cells: Sequence[Cell], name: str, claim: Claim, at: Mapping[str, str]
) -> Judged:
    artefact = declaration.artefact
    regions = [region(str(relation), value, claim.tolerance) for relation, value in statements(claim)]
    bounds = max(low for low, _ in regions), min(high for _, high in regions)
    left = [cell for cell in cells if cell.matches({**claim.where, **at, **claim.left})]
    right = [cell for cell in cells if claim.right is not None and cell.matches({**claim.where, **at, **claim.right})]
    without = [cell for cell in (*left, *right) if missing(runs, cell)]

    def so(word: str, measured: Interval | None = None, paired: bool = False) -> Judged:
        return Judged(name, claim, at, Verdict(word, measured, paired), bounds, without)

    for side in (left, right) if claim.right is not None else (left,):
        if all(cell in without for cell in side):
            return so(next((reason for cell in side if (reason := missing(runs, cell))), "no such cells"))
    used = [cell for cell in (*left, *right) if cell not in without]
    if not declaration.scale(scale).judged:
        return so("not judged")
    metric = claim.metric or artefact.metric
    if reason := next((reason for cell in used if (reason := diverged(runs, cell) or incomplete(runs, cell, metric))), None):
        return so(reason)
    if metric == artefact.metric and any(undertrained(declaration, scale, runs, cell) for cell in used):
        return so("undertrained")
    unit = claim.unit or artefact.unit
    of_pair = unit if claim.compare == "saving" else claim.unit or ""  # of a ratio, only what the claim itself says
    inner, outer = (unit, "") if claim.compare == "difference" else ("", of_pair)
    apart = set(claim.right or {})
    sides = [_keyed(runs, side, metric, inner, apart) for side in (left, right)]
    if claim.right is not None:  # a place that one side alone has would be compared with another
        shared = {place for place, _ in sides[0]} & {place for place, _ in sides[1]}
        sides = [{key: value for key, value in side.items() if key[0] in shared} for side in sides]
    measured, paired = compare(sides[0], None if claim.right is None else sides[1], claim.compare)
    if measured is None:
        return so("no pairs")
    measured = _times(measured, SCALE_OF.get(outer, 1.0))
    return so(judge(measured, bounds), measured, paired)


def _keyed(
    runs: Runs, cells: Sequence[Cell], metric: str, unit: str, apart: set[str]
) -> dict[tuple[tuple[tuple[str, str], ...], int], float]:
    """The cells' values by what pairs them: where they stand but for the axes that tell the sides apart, and the seed.

    A run that several cells share counts once.
    """
    once = runs[runs["cell"].isin([cell.name for cell in cells])].drop_duplicates("run_id")
    return {
        (tuple(pair for pair in cell.at.items() if pair[0] not in apart), seed): value
        for cell in cells
        for seed, value in values(once, cell, metric, unit).items()
    }


def _under(declaration: Declaration, scale: str, choices: Mapping[str, str]) -> list[Cell]:
    """One cell for each combination of levels: the one under these choices where they concern it, else our own."""
    assumptions = declaration.artefact.assumptions

    def wanted(cell: Cell) -> bool:
        concerned = {name: choice for name, choice in choices.items() if cell.matches(assumptions[name].where)}
        return _chosen(declaration, cell) == concerned

    return [cell for cell in declaration.cells(scale) if wanted(cell)]


def _chosen(declaration: Declaration, cell: Cell) -> dict[str, str]:
    return {axis: choice for axis, choice in cell.at.items() if axis in declaration.artefact.assumptions}


def _times(measured: Interval, factor: float) -> Interval:
    return replace(measured, mean=measured.mean * factor, low=measured.low * factor, high=measured.high * factor)
