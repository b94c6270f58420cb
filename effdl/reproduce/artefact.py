"""From a declaration to its cells: read and check the YAML, multiply its axes, merge the overrides of each cell."""

import itertools
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from effdl import config
from effdl.cache import installed, recall, remember
from effdl.errors import ConfigError, HardwareError, SearchMissing
from effdl.reproduce import floors, published, seeds
from effdl.reproduce.sought import Sought, question
from effdl.reproduce.validate import check
from effdl.reproduce.vocabulary import Artefact, Overrides, Scale, Where, explain

NO_GPU = "no GPU"  # why a cell that asks for one has no runs here


@dataclass(frozen=True)
class Cell:
    """One entry of a table or point of a figure.

    at: axis -> level, and assumption -> choice where it is not the first; own: assumption -> the first choice of all that
    concern the cell. first: the first of its seeds, where another seed draws anything anew. search: what is searched before it
    runs, whose answer stands beside ``set``. drawn: what the measures beside the declaration draw by a run's seed.
    """

    at: Mapping[str, str]
    set: Overrides
    seeds: int
    published: float | None
    own: Mapping[str, str] = field(default_factory=dict)
    first: int = 0
    search: Sought | None = None
    drawn: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        return list(_texts(self.set).values())

    @property
    def name(self) -> str:
        return ",".join(f"{axis}={level}" for axis, level in self.at.items())

    def matches(self, where: Where) -> bool:
        """Whether the cell has, for each axis or assumption named, that level or choice or one of those."""
        here = {**self.own, **self.at}
        return all(here.get(axis) in ((wanted,) if isinstance(wanted, str) else wanted) for axis, wanted in where.items())


@dataclass(frozen=True)
class Declaration:
    """A declared artefact and the file that it stands in."""

    artefact: Artefact
    path: Path
    raw: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.artefact.title or published.artefacts()[self.artefact.id]["title"]

    @property
    def module(self) -> Path:
        """The file that measures and draws; it need not be there unless it is named."""
        named = self.artefact.module
        return self.path.with_name(named) if named else self.path.with_suffix(".py")

    def scale(self, name: str) -> Scale:
        """Raises ConfigError."""
        if name not in self.artefact.scales:
            raise ConfigError(f"{self.artefact.id}: no scale {name!r}; there are {', '.join(self.artefact.scales)}")
        return self.artefact.scales[name]

    def cells(self, scale: str) -> list[Cell]:
        """All cells that a scale shows: of the product of the axes, each followed by its variants. Raises ConfigError."""
        if scale not in self._known_cells:
            here, first = self.scale(scale), seeds.first(self, scale)
            self._known_cells[scale] = [replace(cell, first=first) for cell in self._cells(here) if cell.matches(here.where)]
        return [*self._known_cells[scale]]

    def all_cells(self, scale: str) -> list[Cell]:
        """Those, and what its floors run beside them. Raises ConfigError."""
        cells = self.cells(scale)
        longer = [floors.longer(cell) for _, cell in floors.baselines(self, scale, cells, "longer")]
        return [*cells, *{cell.name: cell for cell in longer}.values()]

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
    def _known_cells(self) -> dict[str, list[Cell]]:
        return {}  # by scale; verdicts ask for them a thousand times

    @cached_property
    def open_axes(self) -> dict[str, list[str]]:
        """Axes and assumptions with their levels and choices: all that a ``where`` may name."""
        axes = {axis: list(levels) for axis, levels in self.artefact.axes.items()}
        return axes | {name: list(assumption.choices) for name, assumption in self.artefact.assumptions.items()}

    def _cells(self, scale: Scale) -> Iterator[Cell]:
        axes = self.artefact.axes
        for levels in itertools.product(*axes.values()):
            at = dict(zip(axes, levels, strict=True))
            if any(Cell(at, {}, 0, None).matches(where) for where in (*self.artefact.without, *scale.without)):
                continue
            yield self._cell(at, scale, None)
            for variant in scale.grid:
                concerned = all(Cell(at, {}, 0, None).matches(self.artefact.assumptions[name].where) for name in variant.choose)
                if not concerned or not Cell(at, {}, 0, None).matches(variant.where):
                    continue
                for choices in itertools.product(*variant.choose.values()):
                    yield self._cell(at | dict(zip(variant.choose, choices, strict=True)), scale, variant.seeds)

    def _cell(self, at: dict[str, str], scale: Scale, seeds: int | None) -> Cell:
        place = Cell(at, {}, 0, None)
        merged: Overrides = dict(self.artefact.set)
        for axis, levels in self.artefact.axes.items():
            merged = joined(merged, levels[at[axis]].set)
        concerned = {name: told for name, told in self.artefact.assumptions.items() if place.matches(told.where)}
        own = {name: next(iter(told.choices)) for name, told in concerned.items()}
        for name, assumption in concerned.items():
            merged = joined(merged, assumption.choices[at.get(name, own[name])].set)
        here = Cell(at, {}, 0, None, own)
        count = scale.seeds
        for rule in (*self.artefact.rules, *scale.rules):
            if here.matches(rule.where):
                merged = joined(merged, rule.set)
                count = rule.seeds or count
        asked = next((one for one in reversed(scale.searches) if here.matches(one.where)), None)
        search = None if asked is None else question(self.artefact.id, _texts(_trials(merged, asked.set)), asked)
        return Cell(at, merged, seeds or count, self._published(at), own, search=search, drawn=self.artefact.drawn)

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
    place = name, published.EXPERIMENTS, *config.plugin_folders()
    try:  # where it was before: measures beside a declaration may ask for it hundreds of times, and looking takes a millisecond
        return _read_once(_places[place], _places[place].stat().st_mtime_ns)
    except (KeyError, OSError):
        paths = declared()
    if name not in paths:
        raise ConfigError(f"{name}: not declared; there are {', '.join(paths)}")
    _places[place] = paths[name]
    return _read_once(paths[name], paths[name].stat().st_mtime_ns)


_places: dict[tuple[object, ...], Path] = {}  # of declarations, by id and the folders that were looked through


@lru_cache(maxsize=256)
def _read_once(path: Path, written: int) -> Declaration:
    """A declaration takes a tenth of a second, and measures beside it may ask for it at each of their runs."""
    return read(path)


def read(path: Path) -> Declaration:
    """One declaration, checked throughout. Raises ConfigError."""
    try:
        raw = shared(parse(path.read_text()), lambda name: path.with_name(name).read_text())
        declaration = Declaration(Artefact.model_validate(raw), path, raw)
        if declaration.artefact.id != _id_of(path):
            raise ConfigError(f"id: a file of this name declares {_id_of(path)}, not {declaration.artefact.id}")
        check(declaration)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain(error)}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path.name}: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    except FileNotFoundError as error:
        raise ConfigError(f"{path.name}: cells_of: {error.filename} is not there") from None
    return declaration


def shared(raw: Mapping[str, Any], text_of: Callable[[str], str]) -> dict[str, Any]:
    """A declaration with what it takes from the one that its ``cells_of`` names: set, axes, rules, assumptions, and rules of
    scales of the same names. Own levels and assumptions win, own overrides and rules come later, new axes stand last.

    Args:
        text_of: name of a file beside it -> its text.
    """
    if (name := raw.get("cells_of")) is None:
        return dict(raw)
    other = parse(text_of(name))
    axes, own = other["axes"], raw.get("axes") or {}
    rules = {scale: here.get("rules") or () for scale, here in other["scales"].items()}
    return {
        **raw,
        "scales": {
            scale: {**here, "rules": [*rules.get(scale, ()), *(here.get("rules") or ())]}
            for scale, here in raw["scales"].items()
        },
        "set": joined(other.get("set") or {}, raw.get("set") or {}),
        "axes": {
            axis: {**axes.get(axis, {}), **own.get(axis, {})} for axis in [*axes, *(new for new in own if new not in axes)]
        },
        "rules": [*(other.get("rules") or ()), *(raw.get("rules") or ())],
        "assumptions": {**(other.get("assumptions") or {}), **(raw.get("assumptions") or {})},
    }


def parse(text: str) -> dict[str, Any]:
    """A declaration's YAML as plain values; a key that stands twice is an error. Raises YAMLError, OmegaConfBaseException or
    ConfigError."""
    found: dict[str, Any] = pickle.loads(_parsed(text))  # a fifth of the time of a deep copy
    return found


@lru_cache(maxsize=256)
def _parsed(text: str) -> bytes:
    return pickle.dumps(_plain(text))


def _plain(text: str) -> dict[str, Any]:
    """A tenth of a second each, and the verdicts of a figure look into its declaration once a cell."""
    key = json.dumps([installed("omegaconf"), text])
    if (known := recall("declarations", key)) is not None:
        return dict(known)
    plain = _read(text)
    if "${" not in text and json.loads(json.dumps(plain, default=str)) == plain:
        remember("declarations", key, plain)
    return plain


def _read(text: str) -> dict[str, Any]:
    try:
        created = OmegaConf.create(_loaded(text))
    except AssertionError:  # a number
        created = None
    if not isinstance(created, DictConfig):
        raise ConfigError("must be keys with values")
    return {str(key): value for key, value in OmegaConf.to_container(created, resolve=True).items()}  # type: ignore[union-attr]


def _loaded(text: str) -> Any:
    """What OmegaConf reads of a YAML, with libyaml's parser in a tenth of the time; the text itself where that is not there,
    or does not like it: OmegaConf then says why."""
    try:
        found = yaml.load(text, Loader=_quick_loader())
    except (ImportError, AttributeError, YAMLError):
        return text
    return found if isinstance(found, dict) else text


@cache
def _quick_loader() -> type[Any]:
    from omegaconf._utils import get_yaml_loader
    from yaml.cyaml import CParser

    own: Any = get_yaml_loader()

    class Loader(CParser, own):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return Loader


def specs(cell: Cell, found: Sequence[str] | None = None) -> list[Any]:
    """The cell's Specs, one a seed; composed once.

    Where another seed draws nothing anew, in the run or in measures beside it, seeds count from 0: they name runs whose numbers
    anybody may know before.

    Args:
        found: overrides that the cell's search found, see `searched.values`.

    Raises:
        ConfigError: names the cell.
        DataError: its data are not here.
        HardwareError: it is a GPU's, and none is there.
        SearchMissing: it has a search, whose answer is not given.
    """
    spec = built(cell.name, (*cell.overrides, *(found or ())))
    if cell.search is not None and found is None:
        raise SearchMissing(f"{cell.name}: runs with what its search finds, which is not given")
    first = cell.first if spec.draws or cell.drawn else 0
    return [replace(spec, seed=seed) for seed in range(first, first + cell.seeds)]


def built(name: str, overrides: Sequence[str]) -> Any:
    """The Spec of these overrides. Raises what `specs` does."""
    try:
        spec = _built(tuple(overrides), *map(os.environ.get, ("EFFDL_DATA", "EFFDL_PLUGINS", "EFFDL_PRETRAINED")))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if spec.hardware.device == "cuda" and not _has_gpu():
        raise HardwareError(NO_GPU)
    return spec


@lru_cache(maxsize=4096)
def _built(overrides: tuple[str, ...], *surroundings: str | None) -> config.Spec:
    """Composing takes 0.1 s, and a table asks for its cells again and again.

    Where a declaration names no hardware, its cells are the CPU's: what a table's runs are must not depend on the machine that
    asks, as ``hardware=auto`` does.
    """
    return config.build(config.composed(on_the_cpu(overrides)))


def on_the_cpu(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides that name their hardware, the CPU where they named none."""
    named = any(override.startswith("hardware=") for override in overrides)
    return tuple(overrides) if named else ("hardware=cpu", *overrides)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _id_of(path: Path) -> str:
    """table_6_1.yaml holds table-6.1, my_table.yaml my-table."""
    return _of_theses().get(path.stem, path.stem.replace("_", "-"))


@cache
def _of_theses() -> dict[str, str]:
    return {name.replace("-", "_").replace(".", "_"): name for name in published.artefacts()}


def joined(overrides: Overrides, more: Overrides) -> Overrides:
    """With more of them, which win; a group that these leave out, as `probe: none`, takes along what was said within it."""
    out = tuple(f"{key}." for key, value in more.items() if value == "none")
    kept = {key: value for key, value in overrides.items() if not (out and key.startswith(out))}
    return {**kept, **more}


def _trials(overrides: Overrides, of_trials: Overrides) -> Overrides:
    """Of a search's trials. What these leave out stands last, so that cells which differ in it alone ask the same."""
    out = {key: value for key, value in of_trials.items() if value == "none"}
    return {**{key: value for key, value in joined(overrides, of_trials).items() if key not in out}, **out}


def _texts(overrides: Overrides) -> dict[str, str]:
    return {key: f"{key}={_text(value)}" for key, value in overrides.items()}


def _text(value: Any) -> str:
    """A value as the command line writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(one) for one in value) + "]"
    return str(value)
