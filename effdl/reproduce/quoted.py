"""Numbers that a page quotes in its text, from the ledger alone.

A page writes ``<!-- number: demo small method=dll test/acc percent --><!-- /number -->``: an artefact, a scale, a cell, a
metric and a unit ("-" for none), and between the two comments stands the mean over the cell's finished runs, with its unit.
After the unit may stand ``of CELL``, for the share or the ratio of means, or ``minus CELL``, for their difference. A cell that
the ledger has nothing of is "not run yet".
"""

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from effdl.errors import ConfigError
from effdl.reproduce import artefact, ledger
from effdl.reproduce.counterpart import numbers
from effdl.reproduce.frame import frame
from effdl.reproduce.runs import Runs
from effdl.reproduce.vocabulary import SCALE_OF

NUMBER = re.compile(r"(?P<start><!-- number: (?P<what>[^>]+?) -->).*?(?P<end><!-- /number -->)", re.DOTALL)
NOT_RUN = "not run yet"
DIGITS = {"percent": 1, "points": 1, "MiB": 0, "s": 0}  # others have two
WORDS = {"percent": "%", "-": ""}  # behind a number; others are their own, after a space


def quoted(text: str, root: Path) -> str:
    """The text with each quoted number made anew.

    Raises:
        ConfigError: one names an artefact, scale or cell that is not declared, a metric that its runs have not, or does not say
            what it is as above.
        RecordError: a ledger was edited.
    """
    runs = cache(lambda name, scale: _runs(name, scale, root))

    def one(match: re.Match[str]) -> str:
        return f"{match['start']}{_said(match['what'], runs)}{match['end']}"

    return NUMBER.sub(one, text)


def _runs(name: str, scale: str, root: Path) -> tuple[Runs, frozenset[str]]:
    """What the ledger has, and the cells that there are."""
    declaration = artefact.load(name)
    lines = [line for line in ledger.read(root, name) if line["scale"] == scale]
    return frame(declaration, scale, lines), frozenset(cell.name for cell in declaration.cells(scale))


def _said(what: str, runs: Callable[[str, str], tuple[Runs, frozenset[str]]]) -> str:
    words = what.split()
    if len(words) not in (5, 7) or (len(words) == 7 and words[5] not in ("of", "minus")):
        raise ConfigError(f"number: {what}: say artefact, scale, cell, metric and unit, and of or minus another cell")
    name, scale, cell, metric, unit, *rest = words
    found, cells = runs(name, scale)
    means = [_mean(found, cells, name, one, metric) for one in (cell, *rest[1:])]
    if any(math.isnan(mean) for mean in means):
        return NOT_RUN
    if rest and rest[0] == "of":
        value = means[0] / means[1] * (SCALE_OF["percent"] if unit == "percent" else 1.0)
    else:
        value = (means[0] - sum(means[1:])) * SCALE_OF.get(unit, 1.0)
    sign = "+" if rest and rest[0] == "minus" else ""
    return f"{value:{sign}.{DIGITS.get(unit, 2)}f}{WORDS.get(unit, f' {unit}')}"


def _mean(runs: Runs, cells: frozenset[str], name: str, cell: str, metric: str) -> float:
    """NaN where nothing was run."""
    if cell not in cells:
        raise ConfigError(f"number: {name} has no cell {cell}")
    own = runs[runs["cell"] == cell]
    there = numbers(own, metric).dropna() if len(own) else own["seed"].astype(float)
    if (own["status"] == "finished").any() and not len(there):
        raise ConfigError(f"number: {name}, {cell}: its runs have no {metric}")
    return float(there.mean()) if len(there) else math.nan
