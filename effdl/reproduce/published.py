"""What the theses print: every table and figure, every checkable claim, and the numbers of the tables, from CSV files."""

import csv
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from effdl.errors import ConfigError

# A wheel's own, else the repository's.
EXPERIMENTS = next(
    path
    for path in (Path(__file__).parents[1] / "experiments", Path(__file__).parents[2] / "experiments")
    if (path / "published").is_dir()
)
PUBLISHED = EXPERIMENTS / "published"

Row = dict[str, str]


@lru_cache(maxsize=64)
def rows(name: str) -> list[Row]:
    """All rows of a CSV file beside the declarations. Raises ConfigError where there is none."""
    path = PUBLISHED / name
    if not path.is_file():
        raise ConfigError(f"{name}: no such file of published numbers; there are {', '.join(sorted(_names()))}")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def artefacts() -> dict[str, Row]:
    """Every table and figure of both theses by its id, in their order."""
    return {row["id"]: row for row in rows("artefacts.csv")}


def claims() -> dict[str, Row]:
    """Every checkable claim of both theses by its id, in their order, after those of the first reading those found later."""
    return {row["id"]: row for name in ("claims.csv", "claims_later.csv") for row in rows(name)}


def claim(name: str) -> Row:
    """One claim. Raises ConfigError."""
    if name not in claims():
        raise ConfigError(f"{name}: no such claim in claims.csv or claims_later.csv")
    return claims()[name]


def number(name: str, where: Mapping[str, str], column: str) -> float | None:
    """The published number in the one row of a CSV file that has these values; None where its note tells what is printed.

    Raises:
        ConfigError: no such column, not exactly one such row, or nothing in it; says which.
    """
    table = rows(name)
    for key in (*where, column):
        if table and key not in table[0]:
            raise ConfigError(f"{name} has no column {key}; there are {', '.join(table[0])}")
    found = [row for row in table if all(row[key] == value for key, value in where.items())]
    said = ", ".join(f"{key}={value}" for key, value in where.items())
    if len(found) != 1:
        raise ConfigError(f"{name} has {len(found) or 'no'} row{'s' if len(found) != 1 else ''} with {said}")
    if found[0][column] == "" and "printed as " in found[0].get("note", ""):
        return None
    try:
        value = float(found[0][column])
    except (TypeError, ValueError):  # a row that ends before the column has None there
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name} has {found[0][column]!r} as {column} of {said}, which is no number")
    return value


def chapter(claim_id: str) -> str:
    """The chapter a claim stands in: "6" for ch6.dll_margin, "dfa" for those of the second thesis."""
    return claim_id.split(".")[0].removeprefix("ch")


def _names() -> list[str]:
    return [path.name for path in PUBLISHED.glob("*.csv")]
