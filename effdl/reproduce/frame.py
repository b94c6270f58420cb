"""Ledger lines as a table of runs, with what a declaration's own functions add and draw."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pandas as pd

from effdl.errors import ConfigError, RecordError
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.lines import SEARCH, Line
from effdl.reproduce.runs import FINISHED, NO_RUNS, Runs


def frame(declaration: Declaration, scale: str, lines: Sequence[Line]) -> Runs:
    """One row a run: cell, its axes, seed, run_id, status, reason, every number, the series, and the declaration's measures.
    ``attrs["digest"]`` tells these runs from others; ``attrs["searches"]`` has what was searched before them.
    Measures find ``attrs["artefact"]`` and ``attrs["scale"]``: cells of others bear the same names.

    Beside them, of the cell: draws, what another seed draws anew; test_samples, how many the test split has; outdated, which
    code made it where that is not today's; and of each run finished, 1 or 0.

    A cell of which the ledger only knows why it has no runs has one row, of status NO_RUNS.

    Raises:
        RecordError: a cell has a seed twice, or runs on several data sets.
        ConfigError: the module beside the declaration cannot be imported.
    """
    rows: list[dict[str, Any]] = []
    facts: list[dict[str, Any]] = []
    here = [line for line in lines if line["scale"] == scale and SEARCH not in line]
    check_cells(declaration.artefact.id, here)
    for line in here:
        head = {"cell": line["cell"], **dict(part.split("=") for part in line["cell"].split(","))}
        known = {"draws": tuple(line.get("draws", ("seeds",))), **{key: line.get(key) for key in ("test_samples", "outdated")}}
        if not line["runs"]:
            rows.append({**head, "run_id": None, "seed": -1, "status": NO_RUNS, "reason": line["reason"]})
            facts.append({})
        for run in line["runs"]:
            told = {key: run.get(key) for key in ("run_id", "seed", "status", "reason", "series")}
            rows.append({**head, **told, **run["numbers"], **run["times"]})
            facts.append({**known, FINISHED: float(run["status"] == FINISHED)})
    runs = pd.DataFrame(rows, columns=None if rows else ["cell", "seed", "status", "reason", "run_id"])
    runs = runs.join(pd.DataFrame(facts, index=runs.index))
    runs.attrs |= {"artefact": declaration.artefact.id, "scale": scale}
    module = beside(declaration)
    if module is not None and hasattr(module, "measures") and len(runs):
        runs = module.measures(runs)
    # Before measures: the last bits of what they work out are each machine's own.
    runs.attrs["digest"] = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    runs.attrs["searches"] = [line[SEARCH] for line in lines if line["scale"] == scale and SEARCH in line]
    return runs


def check_cells(name: str, lines: Sequence[Line]) -> None:
    """Raise a RecordError unless each cell of these lines, of one scale, has each seed once, and all on the same data."""
    by_cell: dict[str, list[Line]] = {}
    for line in lines:
        by_cell.setdefault(line["cell"], []).append(line)
    for cell, of_cell in by_cell.items():
        seeds = [run["seed"] for line in of_cell for run in line["runs"]]
        if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise RecordError(f"{name}: {cell} has seed {twice[0]} twice; delete one of its lines from the ledger")
        if len({line.get("data") for line in of_cell if line["runs"]}) > 1:
            raise RecordError(f"{name}: {cell} has runs on different data; delete the lines of one of them from the ledger")


def beside(declaration: Declaration) -> ModuleType | None:
    """The module beside a declaration: ``measures(runs) -> runs``, ``draw(declaration, scale, runs) -> Figure``, and
    ``remarks(declaration, runs) -> Iterator[str]``, sentences that a reader of its verdicts must know.

    It has the declaration's own name, and need not be there, or the one that it names.

    Raises:
        ConfigError: it cannot be imported.
    """
    path = declaration.module
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"experiments.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return module
