"""A small declaration that tests change, and ledger lines as its runs would have left them."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from effdl import config
from effdl.errors import DataError, HardwareError
from effdl.records.carry import carry_out
from effdl.reproduce import artefact, ledger
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import Judged, judged

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
    # Seeds from 0, which tests can name; where they follow from the claims, a test says so.
    "scales": {"smoke": {"about": "Seconds.", "seeds": 2, "evidence": "first_looks"}},
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
DRAWS_NOTHING = ("method=ridge_regression", "arch=linear", "dataset.val_size=0")  # 355 test images
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


@cache
def spec(*overrides: str) -> dict[str, Any]:
    """What a ledger line says of its config: of these overrides, or of backprop on digits, which draws all that there is."""
    return config.dump(config.build(config.compose(["hardware=cpu", *overrides])), identity_only=True) | {"seed": 0}


def lines(
    told: Mapping[str, Told], scale: str = "smoke", metric: str = "test/acc", made_by: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A ledger line for each cell: the metric by seed, where a word is the status of a run without numbers; or why it has
    no runs. made_by: overrides of the config that all of them are of."""
    return [_line(cell, runs, scale, metric, spec(*made_by)) for cell, runs in told.items()]


def _line(cell: str, told: Told, scale: str, metric: str, spec: dict[str, Any]) -> dict[str, Any]:
    head = {"artefact": "toy", "scale": scale, "cell": cell}
    if isinstance(told, str):
        return {**head, "reason": told, "runs": []}
    runs = []
    for seed, value in enumerate(told):
        status, numbers = (value, {}) if isinstance(value, str) else ("finished", {metric: value})
        run = {"run_id": f"{cell} {seed}", "seed": seed, "status": status, "numbers": numbers, "times": {}, "series": {}}
        runs.append(run)
    head |= {"spec": spec, "data": "digits", "provenance": PROVENANCE, "declaration": {"commit": None, "fixed": {}}}
    return ledger.stamped({**head, "runs": runs})


def cells(**told: Told) -> dict[str, Told]:
    """few_base=... as the name of its cell."""
    return {"data={},method={}".format(*name.split("_")): values for name, values in told.items()}


# Each number six times over: one that never varies is known from six on.
LEVEL = cells(few_base=[0.9, 0.91] * 3, few_ours=[0.92, 0.93] * 3, many_base=[0.9] * 6, many_ours=[0.88] * 6)
SEEDS = {"scales/smoke/seeds": 6}


def verdicts(
    folder: Path,
    told: Mapping[str, Told] | list[dict[str, Any]],
    changes: Mapping[str, Any] | None = None,
    metric: str = "test/acc",
    made_by: Sequence[str] = (),
) -> list[Judged]:
    """What is said of the toy's claims, of six seeds a cell. told: metrics as of `lines`, or lines."""
    declaration = declare(folder, {**SEEDS, **(changes or {})})
    made = told if isinstance(told, list) else lines(told, metric=metric, made_by=made_by)
    return judged(declaration, "smoke", frame(declaration, "smoke", made))


def plugin(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A folder for EFFDL_PLUGINS in which the toy is declared, so that commands in other processes know it."""
    (folder / "configs").mkdir(parents=True)
    declare(folder / "experiments", changes)
    return folder


def ran(declaration: Declaration, root: Path, scale: str = "smoke") -> None:
    """Carry out every run of a scale whose data are there, in this process."""
    for cell in declaration.all_cells(scale):
        with suppress(DataError, HardwareError):
            for spec in artefact.specs(cell):
                carry_out(spec, root)
