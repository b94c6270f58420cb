"""What an artefact's cells need: their Specs, how many have run, what the rest would cost."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdl import config
from effdl.errors import ConfigError, DataError, EffdlError, HardwareError, SearchMissing
from effdl.records.report import Track, untracked
from effdl.reproduce import searched
from effdl.reproduce.artefact import Cell, Declaration, specs
from effdl.reproduce.sought import MISSING


@dataclass
class Surveyed:
    """A cell on this machine. specs: none where ``reason`` says why: no data, no GPU, no search yet; left: those that have not
    ended."""

    cell: Cell
    specs: list[config.Spec] = field(default_factory=list)
    left: list[config.Spec] = field(default_factory=list)
    reason: str | None = None

    @property
    def done(self) -> int:
        return len(self.specs) - len(self.left)


def survey(
    declaration: Declaration, scale: str, root: Path, only: str | None = None, track: Track = untracked
) -> list[Surveyed]:
    """Every cell of a scale, or those that ``only`` (axis=level,...) selects. Raises ConfigError."""
    cells = select(declaration.all_cells(scale), only)
    return [_survey(declaration, scale, cell, root) for cell in track(cells, "looking at cells", len(cells))]


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


def _survey(declaration: Declaration, scale: str, cell: Cell, root: Path) -> Surveyed:
    from effdl.records.carry import finished

    try:
        made = specs(cell, searched.values(declaration, scale, cell, root))
        left = [spec for spec in made if finished(spec, root, lambda text: None) is None]
    except SearchMissing:
        return Surveyed(cell, reason=MISSING)
    except (DataError, HardwareError) as error:
        return Surveyed(cell, reason=str(error))
    return Surveyed(cell, made, left)


def costs(surveyed: list[Surveyed], track: Track) -> Iterator[tuple[Surveyed, Any]]:
    """Each cell that has Specs with what one of its runs would cost, None where its method does not say."""
    from effdl.records.plan import cost

    runnable = [one for one in surveyed if one.specs]
    for one in track(runnable, "planning", len(runnable)):
        try:
            yield one, cost(one.specs[0], threads=1, timed=True, rows=())
        except EffdlError as error:
            raise type(error)(f"{one.cell.name}: {error}") from None
