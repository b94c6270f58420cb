"""Many configs that differ in few choices, such as the cells of a table: put together of parts, as plain values."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from effdl.cache import installed, recall, remember
from effdl.config.composition import CHOSEN, SETS_A_VALUE, compose, parse, survives_json
from effdl.config.groups import (
    BASE,
    GROUPS,
    choices,
    config_file,
    default_entries,
    defaults_of,
    digest_of_configs,
)
from effdl.errors import ConfigError

Plain = dict[str, Any]
NAME = re.compile(r"\w+")
SEVERAL = re.compile(r"\[(\w+(?:,\w+)+)\]")
IMPLIED = re.compile(r"^ *- override /(\w+)@_global_\.\1: (\w+)\n", re.MULTILINE)
FORM = "node, chosen, implied"  # of what is remembered of a part
ELSEWHERE = ("override", "${", "@")  # words of a YAML that speaks of other groups, or of surroundings


def composed(overrides: Sequence[str]) -> Plain:
    """The config that `compose` gives for these overrides, resolved. Raises ConfigError.

    What chooses for other groups is composed by Hydra, once a process; parts are laid on it and values set, as it does last.
    """
    choosing = [one for one in overrides if one.partition("=")[0] in GROUPS]
    setting = [one for one in overrides if one not in choosing]
    try:
        plain = _set(_choices(tuple(choosing), os.environ.get("EFFDL_PLUGINS")), setting)
    except ConfigError:  # said of the whole, not of a part
        plain = None
    if plain is None:
        return _resolved(compose(overrides))
    return plain


def _set(plain: Plain, setting: Sequence[str]) -> Plain | None:
    """The same with values of keys that are there; None where there is more to it."""
    made: Plain = pickle.loads(pickle.dumps(plain))  # plain values, in a fifth of the time of a deep copy
    for one in setting:
        if (parsed := _parsed(one)) is None:
            return None
        (*parents, last), value = parsed
        here: Any = made
        for parent in parents:
            here = here.get(parent) if isinstance(here, dict) else None
        if not isinstance(here, dict) or last not in here or isinstance(here[last], dict):
            return None
        here[last] = deepcopy(value)
    return made


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[list[str], Any] | None:
    """The path and the value of an override; None where it does more than set a value. Parsing takes a millisecond."""
    if not SETS_A_VALUE.match(text) or "${" in text:
        return None
    try:
        override = parse(text)
    except ConfigError:
        return None
    if override.is_sweep_override() or isinstance(value := override.value(), dict):
        return None
    return override.key_or_group.split("."), value


@lru_cache(maxsize=1024)
def _choices(choosing: tuple[str, ...], plugins: str | None) -> Plain:
    """Parts are laid on what Hydra composes of all other choices, nested ones last; all is Hydra's where they may not agree."""
    asked = dict(one.partition("=")[::2] for one in choosing)
    parts = {group: part for group, name in asked.items() if (part := _known_part(group, name, plugins)) is not None}
    others = tuple(one for one in choosing if one.partition("=")[0] not in parts)
    implied = {pair for part in parts.values() for pair in part[2].items() if pair[0] not in asked}
    parts |= {group: part for group, name in implied if (part := _known_part(group, name, plugins)) is not None and not part[2]}
    if len(asked) < len(choosing) or len({group for group, _ in implied} & parts.keys()) < len(implied) or (implied and others):
        return _whole(choosing, plugins)
    made = dict(_whole(others, plugins))
    chosen = dict(made[CHOSEN])
    usual = _whole((), plugins)[CHOSEN] if others else chosen
    within_others = {name for name, choice in chosen.items() if "/" in name and choice != usual.get(name)} - asked.keys()
    for group in sorted(parts, key=lambda group: "/" in group):
        node, within, _ = parts[group]
        parent, _, child = group.partition("/")
        if child and group not in chosen:  # of a parent that has none
            return _whole(choosing, plugins)
        # such as a schedule that a method chooses, which stays though its optimizer is asked for
        stays = {name: chosen[name] for name in within_others if name.startswith(f"{group}/")}
        if not stays.keys() <= within.keys():
            return _whole(choosing, plugins)
        kept = {name.partition("/")[2]: made[group][name.partition("/")[2]] for name in stays}
        made[parent] = made[parent] | {child: node} if child else node | kept if kept else node
        chosen = {name: choice for name, choice in chosen.items() if not f"{name}/".startswith(f"{group}/")} | within | stays
    return {**made, CHOSEN: chosen}


def _known_part(group: str, name: str, plugins: str | None) -> list[Any] | None:
    """The part of a choice, or of several of a group where there may be: group=[name,name], of which Hydra notes no name."""
    known = _known_parts(plugins)
    if (several := SEVERAL.fullmatch(name)) is None:
        return known.get(f"{group}={name}")
    found = [part for one in several[1].split(",") if (part := known.get(f"{group}={one}")) is not None and not part[2]]
    merged = {name: content for node, *_ in found for name, content in (node or {}).items()}
    return [merged, {}, {}] if len(merged) == several[1].count(",") + 1 else None


@lru_cache(maxsize=8)
def _known_parts(plugins: str | None) -> dict[str, list[Any]]:
    """group=choice -> its node, what is chosen in it, and what it chooses for other groups if nobody else does.

    Of all that, by their files, are of one place alone. Hydra would take a third of a second for each of them.
    """
    key = json.dumps([installed("hydra-core"), installed("omegaconf"), digest_of_configs(), FORM])
    found: dict[str, list[Any]] | None = recall("parts", key)
    if found is None:
        found = _parts()
        remember("parts", key, found)
    return found


def _parts() -> dict[str, list[Any]]:
    made = {f"{group}={name}": _part(group, name) for group in GROUPS for name in choices(group)}
    found = {one: part for one, part in made.items() if part is not None}
    return found if survives_json(found) else {}


def _part(group: str, name: str) -> list[Any] | None:
    """See `_known_parts`; None of a choice that is none, and of a file that is wrong, which is said where it is chosen."""
    try:
        if not _is_plain(group, name):
            return None
        node, implied = _node(group, name), _implied(group, name)
    except (ConfigError, YAMLError, OmegaConfBaseException, AttributeError, TypeError, ValueError, RecursionError):
        return None
    if len(dict(implied)) < len(implied) or (implied and "/" in group):
        return None
    return [{name: node} if node is not None and GROUPS[group].several else node, _chosen(group, name), dict(implied)]


def _node(group: str, name: str) -> Any:
    """A plain choice as Hydra makes it: in its defaults list's order what it builds on, what it chooses within, its own."""
    if _is_nothing(group, name):
        return None
    own = OmegaConf.load(path := config_file(group, name))
    made: Any = OmegaConf.create()
    for entry in _entries(path) or ["_self_"]:
        if isinstance(entry, dict):
            made = OmegaConf.merge(made, {child: _node(f"{group}/{child}", choice) for child, choice in entry.items()})
        else:
            made = OmegaConf.merge(made, own if entry == "_self_" else _node(group, entry))
    plain: Any = OmegaConf.to_container(made)
    return {key: content for key, content in plain.items() if key != "defaults"}


def _entries(path: Path) -> list[Any]:
    """A defaults list without what it chooses for other groups."""
    return [one for one in default_entries(path) if not (isinstance(one, dict) and all("override" in key for key in one))]


def _chosen(group: str, name: str) -> dict[str, str]:
    """A choice and those within it, by the names that Hydra notes."""
    within: dict[str, str] = {}
    base: str | None = name
    while base is not None:
        found = defaults_of(config_file(group, base))
        base = found.pop(BASE, None)
        within = {f"{group}/{child}": choice for child, choice in found.items()} | within
    return {group: name, **within}


def _implied(group: str, name: str) -> set[tuple[str, str]]:
    """What a choice, and those that it builds on, choose for other groups."""
    path = config_file(group, name)
    base = defaults_of(path).get(BASE)
    return {(one[1], one[2]) for one in IMPLIED.finditer(path.read_text())} | (_implied(group, base) if base else set())


def _is_plain(group: str, name: str) -> bool:
    """Whether a choice's YAML and those that it builds on, or chooses within, have none of the words that reach elsewhere, but
    for what they choose for other groups."""
    path = config_file(group, name)
    if not NAME.fullmatch(name) or _is_nothing(group, name):
        return bool(NAME.fullmatch(name))
    own = f"# @package {group}.{name}\n" if group in GROUPS and GROUPS[group].several else ""
    text, entries = IMPLIED.sub("", path.read_text().removeprefix(own)), _entries(path)
    bases = [one for one in entries if isinstance(one, str) and one != "_self_"]
    within = [pair for one in entries if isinstance(one, dict) for pair in one.items()]
    if len(bases) > 1 or any(word in text for word in ELSEWHERE) or (default_entries(path) and "_self_" not in entries):
        return False
    if not all(NAME.fullmatch(child) and isinstance(choice, str) for child, choice in within):
        return False
    chosen = [(f"{group}/{child}", choice) for child, choice in within]
    return all(_is_plain(*one) for one in [*((group, base) for base in bases), *chosen])


def _is_nothing(group: str, name: str) -> bool:
    """Whether a choice is null and no more, as no filter, or a rate that stays. Such a file names its parent's place."""
    text = config_file(group, name).read_text()
    parent, _, key = group.rpartition("/")
    return text.startswith(f"# @package {parent or '_global_'}\n") and safe_load(text) == {key: None}


@lru_cache(maxsize=1024)
def _whole(choosing: tuple[str, ...], plugins: str | None) -> Plain:
    return _resolved(compose(choosing))


def _resolved(made: Any) -> Plain:
    plain: Any = OmegaConf.to_container(made)
    plain.pop("hydra", None)
    if "${" in json.dumps(plain, default=str):
        plain = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    return {str(key): value for key, value in plain.items()}
