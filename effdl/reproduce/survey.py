"""What an artefact's cells need: their Specs, how many have run, what the rest would cost."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdl import config
from effdl.errors import ConfigError, DataError, EffdlError, HardwareError, SearchMissing
from effdl.records.report import Track, untracked
from effdl.records.stacking import key, settled
from effdl.reproduce import searched
from effdl.reproduce.artefact import Cell, Declaration, specs
from effdl.reproduce.sought import MISSING


@dataclass
class Surveyed:
    """A cell on this machine. specs: none where ``reason`` says why: no data, no GPU, no search yet; left: those that have not
    ended; after: those that follow on a search, with the defaults of what is searched, see `foreseen`; unseen: why there are
    none of these, though a search is missing."""

    cell: Cell
    specs: list[config.Spec] = field(default_factory=list)
    left: list[config.Spec] = field(default_factory=list)
    after: list[config.Spec] = field(default_factory=list)
    unseen: str | None = None
    reason: str | None = None

    @property
    def done(self) -> int:
        return len(self.specs) - len(self.left)


def survey(
    declaration: Declaration,
    scale: str,
    root: Path,
    only: str | None = None,
    track: Track = untracked,
    stack: bool = True,
) -> list[Surveyed]:
    """Every cell of a scale, or those that ``only`` (axis=level,...) selects. Raises ConfigError.

    stack: whether small networks may be trained as one, which is settled for all cells, whichever are selected.
    """
    every, folder = declaration.all_cells(scale), root / "runs"
    cells = select(every, only)
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    found = [_made(declaration, scale, cell, root) for cell in cells]
    may_be = stack and any(key(spec) is not None for one in found for spec in one.specs[:1])
    beside = [_made(declaration, scale, cell, root) for cell in every if cell not in cells] if may_be else []
    said = iter(settled([spec for one in (*found, *beside) for spec in one.specs], root, may_be))
    for one in track(found, "looking at cells", len(cells)):
        one.specs = [next(said) for _ in one.specs]
        _look(one, root, there)
    return found


def select(cells: list[Cell], only: str | None) -> list[Cell]:
    """The cell of that very name, else all that have these levels. Raises ConfigError where there are none."""
    if only is None:
        return cells
    if exact := [cell for cell in cells if cell.name == only]:
        return exact
    parts = [part.partition("=") for part in only.split(",")]
    where = {axis: level for axis, _, level in parts}
    found = [cell for cell in cells if cell.matches(where)]
    if not found or not all(equals for _, equals, _ in parts):
        raise ConfigError(f"--cell {only}: there is none; cells are named like {cells[0].name}")
    return found


def _made(declaration: Declaration, scale: str, cell: Cell, root: Path) -> Surveyed:
    try:
        return Surveyed(cell, specs(cell, searched.values(declaration, scale, cell, root)))
    except SearchMissing:
        return Surveyed(cell, reason=MISSING)
    except (DataError, HardwareError) as error:
        return Surveyed(cell, reason=str(error))


def _look(one: Surveyed, root: Path, there: Collection[str]) -> None:
    """there: names of the runs that have a record, whole or not."""
    from effdl.records.carry import fingerprint, finished

    if (made := one.specs) == []:
        return
    try:
        names = config.run_ids(made[0], fingerprint(made[0].dataset), [spec.seed for spec in made])
        one.left = [
            s for s, name in zip(made, names, strict=True) if name not in there or finished(s, root, lambda text: None) is None
        ]
    except (DataError, HardwareError) as error:
        one.specs, one.reason = [], str(error)


def foreseen(surveyed: Collection[Surveyed]) -> None:
    """Give cells that wait for a search the Specs of the defaults in the place of what it will find, which cost the same."""
    for one in surveyed:
        if one.reason == MISSING:
            try:
                one.after = specs(one.cell, [])
            except (DataError, HardwareError) as error:
                one.unseen = str(error)


def costs(surveyed: list[Surveyed], track: Track) -> Iterator[tuple[Surveyed, Any]]:
    """Each cell that has Specs, or will after its search, with what one of its runs would cost, None where its method does not
    say."""
    from effdl.records.plan import cost

    runnable = [one for one in surveyed if one.specs or one.after]
    for one in track(runnable, "planning", len(runnable)):
        try:
            yield one, cost((one.specs or one.after)[0], threads=1, timed=True, rows=())
        except EffdlError as error:
            raise type(error)(f"{one.cell.name}: {error}") from None
