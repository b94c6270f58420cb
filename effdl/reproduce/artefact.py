"""From a declaration to its cells: read and check the YAML, multiply its axes, merge the overrides of each cell."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from effdl import config
from effdl.errors import ConfigError
from effdl.reproduce import published
from effdl.reproduce.vocabulary import Artefact, Claim, Entry, Overrides, Scale, Where

ALWAYS = ("smoke", "paper")  # scales of every artefact of a thesis
NAME = re.compile(r"[\w.-]+")
RESERVED = {"cell", "seed", "status", "reason", "run_id", "series"}  # columns of a table of runs


@dataclass(frozen=True)
class Cell:
    """One entry of a table or point of a figure. at: axis -> level, and assumption -> choice where it is not the first."""

    at: Mapping[str, str]
    set: Overrides
    seeds: int
    published: float | None

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={_text(value)}" for key, value in self.set.items()]

    @property
    def name(self) -> str:
        return ",".join(f"{axis}={level}" for axis, level in self.at.items())

    def matches(self, where: Where) -> bool:
        """Whether the cell has, for each axis named, that level or one of those."""
        return all(self.at.get(axis) in ((wanted,) if isinstance(wanted, str) else wanted) for axis, wanted in where.items())


@dataclass(frozen=True)
class Declaration:
    """A declared artefact and the file that it stands in."""

    artefact: Artefact
    path: Path
    raw: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.artefact.title or published.artefacts()[self.artefact.id]["title"]

    def scale(self, name: str) -> Scale:
        """Raises ConfigError."""
        if name not in self.artefact.scales:
            raise ConfigError(f"{self.artefact.id}: no scale {name!r}; there are {', '.join(self.artefact.scales)}")
        return self.artefact.scales[name]

    def cells(self, scale: str) -> list[Cell]:
        """All cells at a scale: the product of the axes, each followed by its variants. Raises ConfigError."""
        return list(self._cells(self.scale(scale)))

    def label(self, axis: str, level: str) -> str:
        """What people read instead of a level's key."""
        if axis in self.artefact.assumptions:
            return self.artefact.assumptions[axis].choices[level].label
        return self.artefact.axes[axis][level].label or level

    @property
    def names(self) -> list[str]:
        """Of everything that makes up the name of a cell."""
        return [name for axis, levels in self.open_axes.items() for name in (axis, *levels)]

    @cached_property
    def open_axes(self) -> dict[str, list[str]]:
        """Axes and assumptions with their levels and choices: all that a ``where`` may name."""
        axes = {axis: list(levels) for axis, levels in self.artefact.axes.items()}
        return axes | {name: list(assumption.choices) for name, assumption in self.artefact.assumptions.items()}

    def _cells(self, scale: Scale) -> Iterator[Cell]:
        axes = self.artefact.axes
        for levels in itertools.product(*axes.values()):
            at = dict(zip(axes, levels, strict=True))
            yield self._cell(at, scale, None)
            for variant in scale.grid:
                concerned = all(Cell(at, {}, 0, None).matches(self.artefact.assumptions[name].where) for name in variant.choose)
                if not concerned or not Cell(at, {}, 0, None).matches(variant.where):
                    continue
                for choices in itertools.product(*variant.choose.values()):
                    yield self._cell(at | dict(zip(variant.choose, choices, strict=True)), scale, variant.seeds)

    def _cell(self, at: dict[str, str], scale: Scale, seeds: int | None) -> Cell:
        here = Cell(at, {}, 0, None)
        merged: Overrides = dict(self.artefact.set)
        for axis, levels in self.artefact.axes.items():
            merged |= levels[at[axis]].set
        for name, assumption in self.artefact.assumptions.items():
            if here.matches(assumption.where):
                merged |= assumption.choices[at.get(name, next(iter(assumption.choices)))].set
        count = scale.seeds
        for rule in (*self.artefact.rules, *scale.rules):
            if here.matches(rule.where):
                merged |= rule.set
                count = rule.seeds or count
        return Cell(at, merged, seeds or count, self._published(at))

    def _published(self, at: Mapping[str, str]) -> float | None:
        source = self.artefact.published
        row: dict[str, str] = {}
        for axis, levels in self.artefact.axes.items():
            part = levels[at[axis]].row
            if source is None or part is None:
                return None
            row |= part
        return published.number(source.csv, row, source.column) if source else None


def declared() -> dict[str, Path]:
    """The file of every declared artefact by its id: ours, then those of plugin folders. Raises ConfigError."""
    found: dict[str, Path] = {}
    for folder in (published.EXPERIMENTS, *(folder / "experiments" for folder in config.plugin_folders())):
        for path in sorted(folder.rglob("*.yaml")):
            if (name := _id_of(path)) in found:
                raise ConfigError(f"{path}: {name} is declared in {found[name]} already; take another name")
            found[name] = path
    return found


def load(name: str) -> Declaration:
    """Raises ConfigError: not declared, or the declaration is wrong; names the key."""
    paths = declared()
    if name not in paths:
        raise ConfigError(f"{name}: not declared; there are {', '.join(paths)}")
    return read(paths[name])


def read(path: Path) -> Declaration:
    """One declaration, checked throughout. Raises ConfigError."""
    try:
        raw = parse(path.read_text())
        declaration = Declaration(Artefact.model_validate(raw), path, raw)
        check(declaration)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {_explain(error)}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path.name}: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    return declaration


def parse(text: str) -> dict[str, Any]:
    """A declaration's YAML as plain values; a key that stands twice is an error. Raises YAMLError, OmegaConfBaseException or
    ConfigError."""
    try:
        created = OmegaConf.create(text)
    except AssertionError:  # a number
        created = None
    if not isinstance(created, DictConfig):
        raise ConfigError("must be keys with values")
    return {str(key): value for key, value in OmegaConf.to_container(created, resolve=True).items()}  # type: ignore[union-attr]


def specs(cell: Cell) -> list[Any]:
    """The cell's Specs, one a seed; composed once. Raises ConfigError, which names the cell, or DataError."""
    try:
        spec = _built(tuple(cell.overrides), os.environ.get("EFFDL_DATA"), os.environ.get("EFFDL_PLUGINS"))
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from None
    return [replace(spec, seed=seed) for seed in range(cell.seeds)]


@lru_cache(maxsize=4096)
def _built(overrides: tuple[str, ...], *surroundings: str | None) -> config.Spec:
    """Composing takes 0.1 s, and a table asks for its cells again and again."""
    return config.build(config.compose(overrides))


def check(declaration: Declaration) -> None:
    """Everything that a declaration names is there. Raises ConfigError."""
    artefact = declaration.artefact
    if artefact.id != _id_of(declaration.path):
        raise ConfigError(f"id: a file of this name declares {_id_of(declaration.path)}, not {artefact.id}")
    if artefact.id not in published.artefacts() and artefact.title is None:
        raise ConfigError(f"id: {artefact.id} stands in no thesis, so it needs a title")
    if artefact.id in published.artefacts() and (missing := [s for s in ALWAYS if s not in artefact.scales]):
        raise ConfigError(f"scales: {missing[0]} is missing; an artefact of a thesis always has {' and '.join(ALWAYS)}")
    if sorted((*artefact.rows, *((artefact.columns,) if artefact.columns else ()))) != sorted(artefact.axes):
        raise ConfigError(f"rows, columns: must name each of the axes {', '.join(artefact.axes)} once")
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
    for name in artefact.scales:
        declaration.cells(name)  # each published number is looked up


def _check_where(declaration: Declaration, key: str, where: Where) -> None:
    for axis, wanted in where.items():
        if axis not in declaration.open_axes:
            raise ConfigError(f"{key}.{axis}: no such axis; there are {', '.join(declaration.open_axes)}")
        for level in (wanted,) if isinstance(wanted, str) else wanted:
            if level not in (there := declaration.open_axes[axis]):
                raise ConfigError(f"{key}.{axis}: no {level!r} there; there are {', '.join(there)}")


def _check_claim(key: str, claim: Claim, artefact: Artefact) -> None:
    if unknown := [name for name in answered(claim) if name not in published.claims()]:
        raise ConfigError(f"{key}.answers: {unknown[0]}: no such claim in claims.csv")
    for relation, _ in statements(claim):
        if relation is None:
            raise ConfigError(f"{key}.relation: needs one of >=, <=, ~, since {claim.answers or 'nothing'} prints none")
    if len(answered(claim)) == 2 and [relation for relation, _ in statements(claim)] != [">=", "<="]:
        raise ConfigError(f"{key}.answers: two claims must be the lower (>=) and the upper end (<=) of a range")
    if unknown := [axis for axis in claim.each if axis not in artefact.axes]:
        raise ConfigError(f"{key}.each: no axis {unknown[0]!r}; there are {', '.join(artefact.axes)}")
    if claim.right is None and claim.compare != "difference":
        raise ConfigError(f"{key}.compare: {claim.compare} needs a right side")
    if claim.right is not None and claim.right == claim.left:
        raise ConfigError(f"{key}.right: is the same as left")
    levels = (*claim.left.values(), *(claim.right or {}).values())
    if claim.right is not None and (set(claim.left) != set(claim.right) or not all(isinstance(one, str) for one in levels)):
        raise ConfigError(f"{key}.right: needs the axes of left, each side one level; what both share belongs in where")


def answered(claim: Claim) -> tuple[str, ...]:
    """The ids of the claims in claims.csv that a claim answers."""
    return (claim.answers,) if isinstance(claim.answers, str) else claim.answers or ()


def statements(claim: Claim) -> list[tuple[str | None, float]]:
    """(relation, value) as declared, else as the claims that it answers print them; two are the ends of a range."""
    printed = [published.claim(name) for name in answered(claim)] or [{"comparator": "", "value": "0"}]
    relations = [claim.relation or {"=": "~"}.get(row["comparator"], row["comparator"]) or None for row in printed]
    return [(r, float(row["value"]) if claim.value is None else claim.value) for r, row in zip(relations, printed, strict=True)]


def _wheres(artefact: Artefact) -> Iterator[tuple[str, Where]]:
    """Every ``where`` of a declaration with its full key."""
    yield from ((f"rules.{i}.where", rule.where) for i, rule in enumerate(artefact.rules))
    yield from ((f"assumptions.{name}.where", assumption.where) for name, assumption in artefact.assumptions.items())
    for name, claim in artefact.claims.items():
        yield from ((f"claims.{name}.{side}", getattr(claim, side) or {}) for side in ("left", "right", "where"))
    yield from ((f"details.{i}.share_of", column.share_of or {}) for i, column in enumerate(artefact.details))
    for name, scale in artefact.scales.items():
        for part in ("rules", "grid", "floors"):
            yield from ((f"scales.{name}.{part}.{i}.where", entry.where) for i, entry in enumerate(getattr(scale, part)))
        yield from ((f"scales.{name}.grid.{i}.choose", dict(variant.choose)) for i, variant in enumerate(scale.grid))


def _id_of(path: Path) -> str:
    """table_6_1.yaml holds table-6.1, my_table.yaml my-table."""
    of_theses = {_stem(name): name for name in published.artefacts()}
    return of_theses.get(path.stem, path.stem.replace("_", "-"))


def _stem(name: str) -> str:
    return name.replace("-", "_").replace(".", "_")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; there are {', '.join(_siblings(first['loc']))}"
    if first["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: {first['msg']}, got {first['input']!r}"


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where the last one of ``loc`` stands."""
    annotation: Any = Artefact
    for part in loc[:-1]:
        if isinstance(annotation, type) and issubclass(annotation, Entry):
            annotation = annotation.model_fields[str(part)].annotation
        else:  # a dict's or a tuple's value
            annotation = [arg for arg in get_args(annotation) if arg is not ...][-1]
        annotation = next(iter(get_args(annotation)), annotation) if type(None) in get_args(annotation) else annotation
    return list(annotation.model_fields)


def _text(value: Any) -> str:
    """A value as the command line writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(one) for one in value) + "]"
    return str(value)
