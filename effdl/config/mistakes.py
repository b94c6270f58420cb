"""Overrides that Hydra answers in riddles, or takes for something else than was meant, and what to write instead."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from effdl.config.composition import CHOSEN, parse
from effdl.config.groups import CONFIGS, GROUPS, choices
from effdl.errors import ConfigError

NAME = re.compile(r"[\w.+-]+")
ARTEFACT = re.compile(r"(\w+-)?(table|fig|claims)-[\w.]+")  # how their ids look
SPACE = "hydra.sweeper.params"
NO_NAME = re.compile(r"[-+]?\d[\d_]*(\.\d*)?(e[-+]?\d+)?|true|false|null|[-+]?(nan|inf)", re.IGNORECASE)  # no text to Hydra
EMPTY = re.compile(r"\{\s*\}")


def refuse(overrides: Sequence[str]) -> None:
    """Raise a ConfigError for a command line with such an override."""
    searched = any(one.startswith("search=") and one != "search=none" for one in overrides)
    for one in overrides:
        key, equals, value = one.partition("=")
        if key.lstrip("+") == SPACE and not searched:  # Hydra's own sweeper crashes over it
            raise ConfigError(f"{SPACE}: is the space of a search, which -m search=optuna makes; a sweep is -m key=a,b,c")
        if not key:
            raise ConfigError(f"{one}: values are given as key=value")
        if key.lstrip("+~").split(".")[0] == CHOSEN:
            raise ConfigError(f"{one}: {CHOSEN} is no key of a config, but what effdl notes in it; see --help")
        group = key.strip("+~").partition("@")[0].replace(".", "/")
        if equals and group in GROUPS and EMPTY.fullmatch(value.strip()):
            raise ConfigError(f"{one}: says nothing; {key} takes a choice by its name; there are {', '.join(choices(group))}")
        named = key.lstrip("+").partition("@")[0]
        if equals and named in GROUPS and any(NO_NAME.fullmatch(each.strip()) for each in value.split(",")):
            raise ConfigError(f"{one}: {named} takes a choice by its name; there are {', '.join(choices(named))}")
        known = GROUPS.get(key[1:].split(".")[0])
        if one.startswith("~") and "." in key and known is not None and not known.several:
            raise ConfigError(
                f"{one}: would put its class's default in the place of your choice's; set {key[1:]}, or leave it out"
            )


def no_config(overrides: Sequence[str], folder: str | None, name: str | None) -> None:
    """Raise a ConfigError where there is no such config as --config-dir and --config-name name, or none of a search's best."""
    if folder is not None and not Path(folder).is_dir():
        path = Path(folder)
        raise ConfigError(f"--config-dir {folder}: {f'say {by_name(path)}' if path.is_file() else 'there is no such folder'}")
    if any(one.lstrip("+").startswith("hydra.searchpath=") for one in overrides):  # which names other folders
        return
    if name is not None:
        _no_name(name, folder)
    given = dict(one.split("=", 1) for one in overrides if "=" in one)
    searches = Path(given.get("results", "results").strip("'\"")) / "searches"
    for key in {"best", "+best", "++best"} & set(given):
        for study in given[key].split(","):
            _no_best(key, study, folder, searches)


def _no_name(name: str, folder: str | None) -> None:
    """Raise a ConfigError where --config-name names no config in the folder, nor of ours."""
    file = Path(f"{name.removesuffix('.yaml')}.yaml")
    places = [*([Path(folder)] if folder is not None else []), CONFIGS]
    there = [place / file for place in places if (place / file).is_file()]
    if "/" not in name and there:
        return
    if (group := str(file.parent)) in GROUPS and (CONFIGS / file).is_file():
        raise ConfigError(f"--config-name {name}: is a choice of {group}; say {group}={file.stem}")
    if there or file.is_file():
        raise ConfigError(f"--config-name {name}: takes a name without its folder; say {by_name((*there, file)[0])}")
    if "/" in name:
        raise ConfigError(f"--config-name {name}: there is no {file}; a config is named as in {by_name(file)}")
    where = "; --config-dir names the folder that it is in" if folder is None else f" in {folder}"
    raise ConfigError(f"--config-name {name}: there is no such config{where}")


def by_name(path: Path) -> str:
    """The options that name a config by its file."""
    return shlex.join(("--config-dir", str(path.parent), "--config-name", path.stem))


def _no_best(key: str, study: str, folder: str | None, searches: Path) -> None:
    """Raise a ConfigError where the best of a search is asked for otherwise than by +best=<study> and the folder it is in."""
    if folder is not None and (Path(folder) / "best" / f"{study}.yaml").is_file():
        if key == "best":
            raise ConfigError(f"best={study}: is added, with a plus: +best={study}")
        return
    study = study if NAME.fullmatch(study) else "<study>"
    right = f"--config-dir {shlex.quote(str(searches / study))} +best={study}"
    if (searches / study / "best" / f"{study}.yaml").is_file():
        raise ConfigError(f"{key}={study}: is in the folder of its search; say {right}")
    there = sorted(path.parent.parent.name for path in searches.glob("*/best/*.yaml"))
    known = f"the searches in {searches} are {', '.join(there)}" if there else f"{searches} has no search with a best trial"
    raise ConfigError(f"{key}={study}: a search keeps its best in its folder, as in {right}; {known}")


def unreadable(override: str) -> str | None:
    """Why an override cannot be read, and how it is written; None where it can."""
    if override.startswith("-"):
        return None
    key, equals, value = override.partition("=")
    if not key or not (equals or override.startswith("~")):
        command = f"; effdl run {override} is for tables and figures" if ARTEFACT.fullmatch(override) else ""
        return f"{override}: values are given as key=value{command}"
    try:
        parse(override)
    except ConfigError:
        pass
    else:
        return None
    if any(value.count(quote) % 2 for quote in "'\"") and not ("'" in value and '"' in value):
        return f"{override}: a quote is opened and not closed"
    if any(value.count(one) > value.count(other) for one, other in ("[]", "{}", "()")):
        return f"{override}: a bracket is opened and not closed"
    if value.startswith("~"):
        key = key.lstrip("+")
        return f"{key}: a value that begins with ~ needs quotes within the shell's: \"{key}='{value}'\""
    return f"{override}: such a value stands in quotes, and these in others for the shell: \"{key}='{value}'\""


def unbuildable(cls: type, target: str, dotted: str, group: str) -> str | None:
    """Why a class of the right kind is no choice; None where it is one."""
    if inspect.isabstract(cls):
        lacks = " and ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        return (
            f"{dotted}._target_: {target} is no choice by itself, as it lacks {lacks}; {group} has {', '.join(choices(group))}"
        )
    if not is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
        return f"{dotted}._target_: {target} has no fields: put @setting (of effdl.setting) above the class"
    return None


def values_of_a_sweep(composed: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ConfigError for a sweep over nothing."""
    if not composed:
        raise ConfigError(
            "-m: sweeps over no run, as glob(...) finds choices of a group alone (method=glob(d*)); values are a,b,c"
        )
