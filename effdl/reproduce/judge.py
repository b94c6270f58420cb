"""A declaration's claims against the runs of its cells: verdicts, or the reason why there is none."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.claims import statements
from effdl.reproduce.floors import unfinished
from effdl.reproduce.measured import Side, absolute_of, measured
from effdl.reproduce.runs import Runs, by_cell, diverged, draws, incomplete, missing, outdated, picked
from effdl.reproduce.verdict import FITTED, REPRODUCED, TIE, Verdict, region, verdict
from effdl.reproduce.vocabulary import Claim, Where

EXPLORATORY = "exploratory"


@dataclass(frozen=True)
class Judged:
    """A claim for one combination of the axes in its ``each``.

    bounds: of what is compared, in the claim's unit. without: cells that have no runs and were left out. over: what varies from
    one run to another, in words; () where nothing does. looked: whether numbers of these very runs were known before the claim
    was declared. fitted: whether a configuration was searched on the very number. survives: Holm's correction over a family of
    claims, None where it was not asked.
    """

    name: str
    claim: Claim
    at: Mapping[str, str]
    verdict: Verdict
    bounds: tuple[float, float]
    without: list[Cell]
    over: tuple[str, ...] = ()
    looked: bool = False
    fitted: bool = False
    survives: bool | None = None


@dataclass(frozen=True)
class _Place:
    """Where a claim is judged, and on what."""

    name: str
    claim: Claim
    at: Mapping[str, str]
    left: list[Cell]
    right: list[Cell]
    bounds: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        claim = self.claim
        regions = [region(str(relation), value, claim.tolerance, claim.least) for relation, value in statements(claim)]
        object.__setattr__(self, "bounds", (max(low for low, _ in regions), min(high for _, high in regions)))

    @property
    def sides(self) -> tuple[list[Cell], ...]:
        return (self.left,) if self.claim.right is None else (self.left, self.right)


def judged(declaration: Declaration, scale: str, runs: Runs, choices: Mapping[str, str] | None = None) -> list[Judged]:
    """Every claim, under our own assumptions or under other choices.

    Args:
        runs: of all cells, as `frame` makes them.
        choices: assumption -> choice, where another than the first is to be judged.
    """
    with by_cell(runs):
        return _judged(declaration, scale, runs, choices or {})


def _judged(declaration: Declaration, scale: str, runs: Runs, choices: Mapping[str, str]) -> list[Judged]:
    cells, here = under(declaration, scale, choices), declaration.cells(scale)
    found = []
    for name, claim in declaration.artefact.claims.items():
        for one, at in _combinations(declaration, claim):
            if any(cell.matches(claim.where) and cell.matches(at) for cell in here):  # a scale may have some of the levels only
                left = [cell for cell in cells if cell.matches({**claim.where, **at, **one.left})]
                right = [cell for cell in cells if one.right is not None and cell.matches({**claim.where, **at, **one.right})]
                found.append(_judge(declaration, scale, runs, _Place(name, one, at, left, right)))
    return found


def is_fitted(fitted: bool | tuple[Where, ...], cells: Sequence[Cell]) -> bool:
    """Whether the configuration of one of these cells was searched on the number that is judged."""
    return bool(fitted) if isinstance(fitted, bool) else any(cell.matches(where) for cell in cells for where in fitted)


def absolute(declaration: Declaration, scale: str, runs: Runs, cell: Cell) -> str:
    """The verdict on a published number by itself, which only runs at paper scale can have."""
    artefact = declaration.artefact
    if scale != "paper" or cell.published is None or artefact.published is None:
        return "below paper scale"
    if reason := _without(runs, cell, artefact.metric) or unfinished(declaration, scale, runs, cell):
        return reason
    found = verdict(absolute_of(artefact, runs, cell), region("~", cell.published, artefact.published.tolerance))
    return _as_fitted(found, is_fitted(artefact.published.fitted, [cell])).text


def combinations(declaration: Declaration, scale: str) -> list[dict[str, str]]:
    """The choices of assumptions, other than ours, that the scale runs cells under."""
    found = [_chosen(declaration, cell) for cell in declaration.cells(scale)]
    return [dict(pairs) for pairs in dict.fromkeys(tuple(one.items()) for one in found) if pairs]


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


def _judge(declaration: Declaration, scale: str, runs: Runs, place: _Place) -> Judged:
    claim, evidence = place.claim, declaration.scale(scale).evidence
    cells = [*place.left, *place.right]
    without = [cell for cell in cells if missing(runs, cell)]
    used = [cell for cell in cells if cell not in without]
    over = tuple(dict.fromkeys(what for cell in used for what in draws(runs, cell)))
    found, paired = None, False
    reason = _no_side(place, without, runs) or (EXPLORATORY if evidence == EXPLORATORY else None)
    metrics = [claim.metric or declaration.artefact.metric, *([claim.less] if claim.less else [])]
    reason = reason or next(
        filter(None, (_without(runs, cell, metric, claim.kind) for cell in used for metric in metrics)), None
    )
    if reason is None:
        given = claim.length is not None
        reason = next(filter(None, (unfinished(declaration, scale, runs, cell, given) for cell in used)), None)
    if reason is None:
        sides = [Side(runs, [cell for cell in side if cell not in without], declaration.artefact) for side in place.sides]
        found, paired, reason = measured(claim, sides)
    if found is None:
        return Judged(place.name, claim, place.at, Verdict(reason or "no pairs"), place.bounds, without, over)
    told = verdict(found, place.bounds, paired, None if claim.right is None else TIE[claim.compare])
    fitted = is_fitted(claim.fitted, used)
    looked = evidence == "first_looks" and bool(over) and claim.kind != "value"
    varies = (over or ("test samples",)) if found.varies else ()
    varies = tuple(dict.fromkeys((*varies, *(("order of samples",) if found.moved else ()))))
    return Judged(place.name, claim, place.at, _as_fitted(told, fitted), place.bounds, without, varies, looked, fitted)


def _no_side(place: _Place, without: Sequence[Cell], runs: Runs) -> str | None:
    """Why a side of the claim has no runs at all."""
    for side in place.sides:
        if all(cell in without for cell in side):
            return next((reason for cell in side if (reason := missing(runs, cell))), "no such cells")
    return None


def _without(runs: Runs, cell: Cell, metric: str, kind: str = "mean") -> str | None:
    """Why a cell's runs can be judged on nothing."""
    if reason := missing(runs, cell) or outdated(runs, cell) or picked(runs, cell):
        return reason
    if kind != "share" and (reason := diverged(runs, cell)):
        return reason
    return incomplete(runs, cell, metric)


def _as_fitted(told: Verdict, fitted: bool) -> Verdict:
    """What agrees with a number that the configuration was searched on is *fitted*; it cannot be *reproduced*."""
    return replace(told, word=FITTED) if fitted and told.word == REPRODUCED else told


def under(declaration: Declaration, scale: str, choices: Mapping[str, str]) -> list[Cell]:
    """One cell for each combination of levels: the one under these choices where they concern it, else our own."""
    assumptions = declaration.artefact.assumptions

    def wanted(cell: Cell) -> bool:
        concerned = {name: choice for name, choice in choices.items() if cell.matches(assumptions[name].where)}
        return _chosen(declaration, cell) == concerned

    return [cell for cell in declaration.cells(scale) if wanted(cell)]


def _chosen(declaration: Declaration, cell: Cell) -> dict[str, str]:
    return {axis: choice for axis, choice in cell.at.items() if axis in declaration.artefact.assumptions}
