"""A small declaration that tests change, and ledger lines as its runs would have left them."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from effdl.errors import DataError, HardwareError
from effdl.records.carry import carry_out
from effdl.reproduce import artefact
from effdl.reproduce.artefact import Declaration

Told = Sequence[float | str] | str
REMOVED = object()
QUICK = {  # a run takes a tenth of a second
    "arch": "mlp",
    "arch.hidden": [8, 8],
    "dataset.train_limit": 128,
    "dataset.val_size": 100,
    "method.epochs": 1,
    "hardware.threads": 1,
}
TOY: dict[str, Any] = {
    "id": "toy",
    "title": "A toy",
    "metric": "test/acc",
    "unit": "percent",
    "rows": ["data"],
    "columns": "method",
    "set": QUICK,
    "axes": {
        "data": {"few": {}, "many": {"set": {"dataset.train_limit": 256}}},
        "method": {"base": {"set": {"method": "backprop"}}, "ours": {"set": {"method": "dll"}}},
    },
    "scales": {"smoke": {"about": "Seconds.", "seeds": 2}},
    "claims": {
        "level": {
            "says": "ours is level",
            "left": {"method": "ours"},
            "right": {"method": "base"},
            "relation": ">=",
            "tolerance": 0.5,
            "each": ["data"],
        }
    },
}
PROVENANCE = {
    "commit": "0" * 40,
    "dirty": False,
    "python": "3",
    "torch": "2",
    "machine": "m",
    "cpus": 2,
    "gpu": None,
    "threads": 1,
}


def changed(changes: Mapping[str, Any], base: Mapping[str, Any] = TOY) -> dict[str, Any]:
    """A declaration's content with values put in (or REMOVED) at paths such as "scales/smoke/seeds"."""
    content: dict[str, Any] = copy.deepcopy(dict(base))
    for path, value in changes.items():
        node: Any = content
        *parents, last = path.split("/")
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is REMOVED:
            del node[last]
        else:
            node[last] = value
    return content


def declare(folder: Path, changes: Mapping[str, Any] | None = None) -> Declaration:
    """The toy with changes, written to toy.yaml and read as `effdl` reads declarations."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(changed(changes or {}), sort_keys=False))
    return artefact.read(path)


def lines(told: Mapping[str, Told], scale: str = "smoke", metric: str = "test/acc") -> list[dict[str, Any]]:
    """A ledger line for each cell: the metric by seed, where a word is the status of a run without numbers; or why it has
    no runs."""
    return [_line(cell, runs, scale, metric) for cell, runs in told.items()]


def _line(cell: str, told: Told, scale: str, metric: str) -> dict[str, Any]:
    head = {"artefact": "toy", "scale": scale, "cell": cell}
    if isinstance(told, str):
        return {**head, "reason": told, "runs": []}
    runs = []
    for seed, value in enumerate(told):
        status, numbers = (value, {}) if isinstance(value, str) else ("finished", {metric: value})
        run = {"run_id": f"{cell} {seed}", "seed": seed, "status": status, "numbers": numbers, "times": {}, "series": {}}
        runs.append(run)
    return {**head, "provenance": PROVENANCE, "declaration": {"commit": None, "fixed": {}}, "runs": runs}


def plugin(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A folder for EFFDL_PLUGINS in which the toy is declared, so that commands in other processes know it."""
    (folder / "configs").mkdir(parents=True)
    declare(folder / "experiments", changes)
    return folder


def ran(declaration: Declaration, root: Path, scale: str = "smoke") -> None:
    """Carry out every run of a scale whose data are there, in this process."""
    for cell in declaration.cells(scale):
        with suppress(DataError, HardwareError):
            for spec in artefact.specs(cell):
                carry_out(spec, root)
