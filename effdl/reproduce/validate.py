"""Everything that a declaration names is there, and what it says can be judged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from effdl.errors import ConfigError
from effdl.reproduce import floors, published
from effdl.reproduce.claims import answered, statements
from effdl.reproduce.vocabulary import Artefact, Claim, Searched, Where

if TYPE_CHECKING:
    from effdl.reproduce.artefact import Declaration

ALWAYS = ("smoke", "paper")  # scales of every artefact of a thesis
NAME = re.compile(r"[\w.-]+")
# Columns of a table of runs, and the axis of the cells that floors run.
RESERVED = {
    "cell",
    "seed",
    "status",
    "reason",
    "run_id",
    "series",
    "draws",
    "test_samples",
    "outdated",
    "finished",
    floors.AXIS,
}
OF_SIZE = re.compile(r"\b(much|far)\b")


def check(declaration: Declaration) -> None:
    """Everything that a declaration names is there. Raises ConfigError."""
    artefact = declaration.artefact
    if artefact.id not in published.artefacts() and artefact.title is None:
        raise ConfigError(f"id: {artefact.id} stands in no thesis, so it needs a title")
    if artefact.id in published.artefacts() and (missing := [s for s in ALWAYS if s not in artefact.scales]):
        raise ConfigError(f"scales: {missing[0]} is missing; an artefact of a thesis always has {' and '.join(ALWAYS)}")
    if artefact.module is not None and not declaration.module.is_file():
        raise ConfigError(f"module: {declaration.module} is not there")
    if sorted((*artefact.rows, *((artefact.columns,) if artefact.columns else ()))) != sorted(artefact.axes):
        raise ConfigError(f"rows, columns: must name each of the axes {', '.join(artefact.axes)} once")
    if artefact.pooled and not (artefact.columns and set(artefact.pooled) < set(artefact.rows)):
        raise ConfigError(f"pooled: needs columns, and some but not all of rows ({', '.join(artefact.rows)})")
    choices = {f"assumptions.{name}.choices": assumption.choices for name, assumption in artefact.assumptions.items()}
    several: dict[str, Any] = {"scales": artefact.scales, **{f"axes.{a}": artefact.axes[a] for a in artefact.axes}, **choices}
    if empty := [key for key, named in several.items() if not named]:
        raise ConfigError(f"{empty[0]}: needs at least one")
    for name in declaration.names:
        if not NAME.fullmatch(name) or name in RESERVED:
            raise ConfigError(
                f"{name!r}: axes, assumptions, levels and choices are named by letters, digits and _ . -, unlike a run's facts"
            )
    if artefact.statistic != "mean" and artefact.claims:
        raise ConfigError(f"statistic: claims are about means, not about a {artefact.statistic}")
    if twice := set(artefact.axes) & set(artefact.assumptions):
        raise ConfigError(f"assumptions.{min(twice)}: is an axis already")
    for key, where in _wheres(artefact):
        _check_where(declaration, key, where)
    for name, scale in artefact.scales.items():
        for i, variant in enumerate(scale.grid):
            if unknown := sorted(set(variant.choose) & set(artefact.axes)):
                raise ConfigError(f"scales.{name}.grid.{i}.choose.{unknown[0]}: is an axis; a grid chooses among assumptions")
    for name, claim in artefact.claims.items():
        _check_claim(f"claims.{name}", claim, artefact)
        _check_strength(f"claims.{name}", claim, artefact)
    for name in artefact.scales:
        _check_floors(declaration, name)
        for i, searched in enumerate(artefact.scales[name].searches):
            _check_search(f"scales.{name}.searches.{i}", searched)
    for name in artefact.scales:
        if not declaration.cells(name):  # each published number is looked up here
            raise ConfigError(f"scales.{name}.where: leaves no cell")


def _check_where(declaration: Declaration, key: str, where: Where) -> None:
    for axis, wanted in where.items():
        if axis not in declaration.open_axes:
            raise ConfigError(f"{key}.{axis}: no such axis; there are {', '.join(declaration.open_axes)}")
        for level in (wanted,) if isinstance(wanted, str) else wanted:
            if level not in (there := declaration.open_axes[axis]):
                raise ConfigError(f"{key}.{axis}: no {level!r} there; there are {', '.join(there)}")


def _check_claim(key: str, claim: Claim, artefact: Artefact) -> None:
    if unknown := [name for name in answered(claim) if name not in published.claims()]:
        raise ConfigError(f"{key}.answers: {unknown[0]}: no such claim in claims.csv or claims_later.csv")
    for relation, _ in statements(claim):
        if relation is None:
            raise ConfigError(f"{key}.relation: needs one of >=, <=, ~, since {claim.answers or 'nothing'} prints none")
    if len(answered(claim)) == 2 and claim.compare != "ratio" and [rel for rel, _ in statements(claim)] != [">=", "<="]:
        raise ConfigError(
            f"{key}.answers: two claims must be the lower (>=) and the upper end (<=) of a range, or compare: ratio takes them"
        )
    if unknown := [axis for axis in claim.each if axis not in artefact.axes]:
        raise ConfigError(f"{key}.each: no axis {unknown[0]!r}; there are {', '.join(artefact.axes)}")
    if claim.along is not None and (claim.along not in artefact.axes or claim.along in claim.each or claim.right is not None):
        there = ", ".join(artefact.axes)
        raise ConfigError(f"{key}.along: needs an axis that is not in each, and no right side; there are {there}")
    if claim.right is None and claim.along is None and claim.compare != "difference":
        raise ConfigError(f"{key}.compare: {claim.compare} needs a right side")
    if claim.right is not None and claim.right == claim.left:
        raise ConfigError(f"{key}.right: is the same as left")
    levels = (*claim.left.values(), *(claim.right or {}).values())
    if claim.right is not None and (set(claim.left) != set(claim.right) or not all(isinstance(one, str) for one in levels)):
        raise ConfigError(f"{key}.right: needs the axes of left, each side one level; what both share belongs in where")
    if stood := [axis for axis in claim.each if axis in {*claim.left, *(claim.right or {})}]:
        raise ConfigError(f"{key}.each: {stood[0]} is an axis of left or right already; the levels to judge belong in where")


def _check_strength(key: str, claim: Claim, artefact: Artefact) -> None:
    """A claim says no more than its bounds and its cells do."""
    if claim.least and (claim.tolerance or any(relation == "~" for relation, _ in statements(claim))):
        raise ConfigError(f"{key}.least: goes with one of >= and <=, and with no tolerance")
    if OF_SIZE.search(claim.says) and not claim.least:
        raise ConfigError(
            f"{key}.least: is missing; a claim that says {OF_SIZE.findall(claim.says)[0]!r} needs a least difference"
        )
    if unknown := [axis for axis in claim.pooled if axis not in artefact.axes or axis in claim.each]:
        raise ConfigError(f"{key}.pooled: {unknown[0]!r} is no axis, or stands in each; there are {', '.join(artefact.axes)}")
    for side in (claim.left,) if claim.right is None else (claim.left, claim.right):
        held = {axis for axis, level in {**claim.where, **side}.items() if isinstance(level, str) or len(level) == 1}
        held |= {*claim.each, *claim.pooled, *([claim.along] if claim.along else ())}
        if free := [axis for axis, levels in artefact.axes.items() if len(levels) > 1 and axis not in held]:
            raise ConfigError(
                f"{key}.pooled: a verdict is for one cell a side: {free[0]} has several levels; name it in each to judge each "
                "level, or in pooled where the claim speaks of a mean"
            )


def _check_floors(declaration: Declaration, scale: str) -> None:
    for i, floor in enumerate(declaration.scale(scale).floors):
        key = f"scales.{scale}.floors.{i}"
        if (floor.chance is None) == (floor.reaches != "longer"):
            raise ConfigError(f"{key}.chance: belongs to reaches: print or twice_chance, which need it")
        for of_cell, cell in floors.baselines(declaration, scale, declaration.cells(scale)):
            if of_cell is not floor:
                continue
            if floor.reaches == "print" and cell.published is None:
                raise ConfigError(f"{key}: nothing is printed for {cell.name}; say with where which cells it concerns")
            if floor.reaches == "longer" and not isinstance(cell.set.get("method.epochs"), int):
                raise ConfigError(
                    f"{key}: {cell.name} must set method.epochs to a whole number, of which a floor takes three times"
                )


def _check_search(key: str, searched: Searched) -> None:
    """What is searched is written as in a sweep, and no test number chooses."""
    from effdl.config import grammar

    if not searched.params:
        raise ConfigError(f"{key}.params: names nothing to search")
    if searched.metric is not None and not searched.metric.startswith("val/"):
        raise ConfigError(f"{key}.metric: {searched.metric} is of the test split or none that chooses; take one of val/")
    try:
        read = grammar.read([f"{name}={text}" for name, text in searched.params.items()])
    except ConfigError as error:
        raise ConfigError(f"{key}.params: {error}") from None
    if single := next((name for name, _, swept in read if swept is None), None):
        raise ConfigError(f"{key}.params: {single}: is one value; write a range, as interval(a,b), or several, as a,b")


def _wheres(artefact: Artefact) -> Iterator[tuple[str, Where]]:
    """Every ``where`` of a declaration with its full key."""
    yield from ((f"without.{i}", where) for i, where in enumerate(artefact.without))
    yield from ((f"rules.{i}.where", rule.where) for i, rule in enumerate(artefact.rules))
    yield from ((f"assumptions.{name}.where", assumption.where) for name, assumption in artefact.assumptions.items())
    for name, claim in artefact.claims.items():
        yield from ((f"claims.{name}.{side}", getattr(claim, side) or {}) for side in ("left", "right", "where"))
        yield from _fitted(f"claims.{name}", claim.fitted)
    if artefact.published is not None:
        yield from _fitted("published", artefact.published.fitted)
    yield from ((f"details.{i}.share_of", column.share_of or {}) for i, column in enumerate(artefact.details))
    for name, scale in artefact.scales.items():
        yield f"scales.{name}.where", scale.where
        yield from ((f"scales.{name}.without.{i}", where) for i, where in enumerate(scale.without))
        for part in ("rules", "grid", "floors", "searches"):
            yield from ((f"scales.{name}.{part}.{i}.where", entry.where) for i, entry in enumerate(getattr(scale, part)))
        yield from ((f"scales.{name}.floors.{i}.baseline", dict(floor.baseline)) for i, floor in enumerate(scale.floors))
        yield from ((f"scales.{name}.grid.{i}.choose", dict(variant.choose)) for i, variant in enumerate(scale.grid))


def _fitted(key: str, fitted: bool | tuple[Where, ...]) -> Iterator[tuple[str, Where]]:
    yield from () if isinstance(fitted, bool) else ((f"{key}.fitted.{i}", where) for i, where in enumerate(fitted))
