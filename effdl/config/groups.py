"""Groups and their choices: what may stand in a config, ours and that of plugins."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from effdl.errors import ConfigError
from effdl.home import at_home

# A wheel's own, else the repository's; beside an installed package could stand anybody's folder of that name.
CONFIGS = next(p for p in (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs") if p.is_dir())


@dataclass(frozen=True, slots=True)
class Group:
    """What may be chosen under one key of a config.

    base: the class that its choices must be, "module:Class", imported when a choice is built.
    may_be_none: whether `none` is a choice.
    several: any number may be chosen: {name: choice} in a config, a tuple in the Spec.
    of_runs: says which runs there are, and is part of none.
    identity: whether the choice is part of a run's name: "always", where it is none too; "chosen", only where there is one, of
        groups that came after the first records, whose names must stay what they are; or "never".
    not_taken: what a method does that does not take a choice of it, and what to say instead, see `Method.takes`; empty where
        every method takes one.
    """

    base: str
    may_be_none: bool = False
    several: bool = False
    of_runs: bool = False
    identity: Literal["always", "chosen", "never"] = "always"
    not_taken: str = ""


# Nested groups by their full path. In this order they are listed.
GROUPS = {
    "dataset": Group("effdl.datasets.dataset:Dataset"),
    "arch": Group("effdl.archs.chain:Arch"),
    "objective": Group("effdl.objectives.objective:Objective"),
    "optimizer": Group(
        "effdl.training.optim:Optimizer",
        may_be_none=True,
        not_taken="uses none, leave it out or say optimizer=none",
    ),
    "optimizer/schedule": Group("effdl.training.optim:Schedule", may_be_none=True),
    "method": Group("effdl.methods.method:Method"),
    "method/decision": Group("effdl.training.decision:Decision", may_be_none=True),
    "method/loss": Group("effdl.training.local_loss:LocalLoss", may_be_none=True),
    "method/solver": Group("effdl.least_squares.solvers:Solver"),
    "augment": Group(
        "effdl.augment.augment:Augment",
        may_be_none=True,
        identity="chosen",
        not_taken="takes training images as they are, say augment=none",
    ),
    "filter": Group(
        "effdl.filters.filter:Filter",
        may_be_none=True,
        identity="chosen",
        not_taken="trains on all samples, leave it out or say filter=none",
    ),
    "probe": Group(
        "effdl.probes.probe:Probe",
        several=True,
        identity="chosen",
        not_taken="has no epochs after which to measure, say probe=none",
    ),
    "sync": Group(
        "effdl.training.sync:Sync",
        may_be_none=True,
        identity="chosen",
        not_taken="sends no weights, leave it out or say sync=none",
    ),
    "hardware": Group("effdl.training.hardware:Hardware"),
    "logger": Group("effdl.records.logger:Logger", may_be_none=True, identity="never"),
    "search": Group("effdl.search.setting:Search", may_be_none=True, of_runs=True),
    "search/sampler": Group("effdl.search.setting:Sampler"),
    "search/pruner": Group("effdl.search.setting:Pruner", may_be_none=True),
}
OF_A_RUN = tuple(name for name, group in GROUPS.items() if "/" not in name and not group.of_runs)
BASE = "_base_"


def choices(group: str) -> list[str]:
    """Names of a group's YAMLs, plugins' too. Raises ConfigError."""
    return sorted(path.stem for folder in _config_folders() for path in (folder / group).glob("*.yaml"))


def config_file(group: str, name: str) -> Path:
    """The YAML of a choice. Raises ConfigError."""
    for folder in _config_folders():
        if (path := folder / group / f"{name}.yaml").is_file():
            return path
    raise ConfigError(f"{group}={name}: unknown choice; there are {', '.join(choices(group))}")


def default_choices() -> dict[str, str]:
    """The choice of each group where nothing is said; of a nested one in the first choice of its parent that has it."""
    found = defaults_of(CONFIGS / "config.yaml")
    return found | {group: holder(group)[1] for group in GROUPS if "/" in group}


def holder(group: str) -> tuple[str, str]:
    """A nested group's first parent choice that has it, the default before all others, and what it chooses there."""
    parent, child = group.split("/")
    default = defaults_of(CONFIGS / "config.yaml")[parent]
    for name in sorted(choices(parent), key=lambda name: (name != default, name)):
        path: Path | None = config_file(parent, name)
        while path is not None:
            if child in (found := defaults_of(path)):
                return name, found[child]
            path = config_file(parent, found[BASE]) if BASE in found else None
    raise AssertionError(f"no choice of {parent} has a {child}")


def defaults_of(path: Path) -> dict[str, str]:
    """What a YAML's defaults list chooses by group, and under `BASE` the choice that it builds on; without overrides."""
    entries = default_entries(path)
    found = {k: v for e in entries if isinstance(e, dict) for k, v in e.items() if not k.startswith("override ")}
    bases = [e for e in entries if isinstance(e, str) and e != "_self_"]
    return found | dict(zip([BASE], bases, strict=False))


def default_entries(path: Path) -> list[Any]:
    """A YAML's defaults list as it stands."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a tenth of the time
    return list((yaml.load(path.read_text(), loader) or {}).get("defaults", []))


def plugin_folders() -> list[Path]:
    """The folders that EFFDL_PLUGINS names, from now on importable from.

    Each holds choices as ours lie, configs/<group>/<name>.yaml, and the modules of their classes. Raises ConfigError.
    """
    folders = [
        at_home(name, "EFFDL_PLUGINS").resolve() for name in os.environ.get("EFFDL_PLUGINS", "").split(os.pathsep) if name
    ]
    for folder in folders:
        if not (folder / "configs").is_dir():
            raise ConfigError(f"EFFDL_PLUGINS: {folder} is not a folder with configs/<group>/<name>.yaml")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last: a plugin's module stands for no other; workers get the path with their job
    return folders


def _config_folders() -> list[Path]:
    """Ours and those of the plugins; a plugin's choice of an unknown group, or of a name that is taken, is an error."""
    folders = [CONFIGS]
    for folder in (plugin / "configs" for plugin in plugin_folders()):
        for path in sorted(folder.rglob("*.yaml")):
            if (group := path.parent.relative_to(folder).as_posix()) not in GROUPS:
                raise ConfigError(f"{path}: {group!r} is no group; there are {', '.join(GROUPS)}")
            if taken := [other / group / path.name for other in folders if (other / group / path.name).is_file()]:
                raise ConfigError(f"{path}: {group}={path.stem} is {taken[0]} already; take another name")
        folders.append(folder)
    return folders


def digest_of_configs() -> str:
    """SHA-256 over the path and the content of every YAML. Raises ConfigError."""
    digest = hashlib.sha256()
    for path in (path for folder in _config_folders() for path in sorted(folder.rglob("*.yaml"))):
        digest.update(f"{path}\0".encode(errors="surrogateescape") + path.read_bytes() + b"\0")
    return digest.hexdigest()


def search_path(more: Sequence[Path] = ()) -> list[str]:
    """The override by which Hydra finds the plugins' choices, and what is in ``more`` folders. Raises ConfigError."""
    folders = [str(one).replace("\\", "\\\\").replace("'", "\\'") for one in (*more, *_config_folders()[1:])]
    quoted = ",".join(f"'file://{folder}'" for folder in folders)
    return [f"hydra.searchpath=[{quoted}]"] if quoted else []


def about(group: str, name: str) -> str:
    """A choice's line for lists and help: the first comment of its YAML."""
    lines = config_file(group, name).read_text().splitlines()
    comments = (line[1:].strip() for line in lines if line.startswith("#"))
    return next((line for line in comments if not line.startswith("@")), "")
