"""A config of the user's own, which --config-dir and --config-name name, as overrides that say the same of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from effdl.config import grammar
from effdl.config.composition import CHOSEN, SEARCHES, compose, compose_named
from effdl.config.groups import GROUPS, choices
from effdl.errors import ConfigError


def spelled_out(overrides: Sequence[str], folder: str | None = None, name: str | None = None) -> list[str]:
    """What `compose` takes for the config that run.py composes of these; what is varied, as in a sweep, stays so.

    Args:
        folder: as --config-dir names it. name: as --config-name does.

    Raises:
        ConfigError: there is no such config, or what it says cannot be.
    """
    if folder is None and name is None:
        return list(overrides)
    read = grammar.read(overrides)
    beside = [SEARCHES] if any(key == "search" for key, _, _ in read) else []  # whose keys the config may set, too
    added = [text for key, text, _ in read if folder is not None and _is_added(key, Path(folder))]
    chosen = [text for key, text, swept in read if key in GROUPS and swept is None]
    varied = {key: swept.values for key, _, swept in read if key in GROUPS and isinstance(swept, grammar.Choices)}
    first = {key: values[0] for key, values in varied.items()}
    said: dict[str, str] = {}
    for key, values in varied.items() or [("", ("",))]:
        for value in values:  # what the config says may be the default of one choice, and another's not
            one = [*chosen, *(f"{group}={choice}" for group, choice in {**first, key: value}.items() if group)]
            composed = compose_named([*beside, *added, *one], folder, name)
            said |= {text.partition("=")[0].lstrip("+"): text for text in _said(OmegaConf.to_container(composed), one)}
    given = {key.lstrip("+") for key, _, _ in read}
    ours = [one for key, one in said.items() if key not in given]
    return [*ours, *(text for _, text, _ in read if text not in added)]


def _is_added(key: str, folder: Path) -> bool:
    """Whether a key names a group of the user's folder alone, as `best` in +best=study does."""
    group = key.lstrip("+")
    return group not in GROUPS and "." not in group and (folder / group).is_dir()


def _said(plain: Any, given: Sequence[str]) -> Iterator[str]:
    """The choices of a config that come of no other that is given or usual, and the values that are not their choices'."""
    names = plain[CHOSEN]
    if strange := next((group for group, name in names.items() if name not in choices(group)), None):
        raise ConfigError(
            f"{strange}={names[strange]}: is of --config-dir alone, which run.py takes for runs and sweeps; for searches and "
            "plans, too, EFFDL_PLUGINS names a folder with configs/<group>/<name>.yaml"
        )
    usual = compose(given)[CHOSEN]
    choosing = [f"{group}={name}" for group, name in names.items() if usual.get(group) != name]
    yield from choosing
    yield from _values(plain, OmegaConf.to_container(compose([*given, *choosing])), "")


def _values(plain: Mapping[str, Any], base: Any, above: str) -> Iterator[str]:
    for name, value in plain.items():
        if (key := f"{above}{name}") == CHOSEN:
            continue
        there = name in base
        if there and isinstance(value, Mapping) and isinstance(base[name], Mapping):
            yield from _values(value, base[name], f"{key}.")
        elif not there or value != base[name] or type(value) is not type(base[name]):
            yield f"{'' if there else '++'}{key}={grammar.quoted(value)}"
