"""Many configs that differ in few choices, such as the cells of a table: put together, as plain values, of parts by Hydra."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf
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
SEVERAL = re.compile(r"(\w+)=\[(\w+(?:,\w+)+)\]")
PLACE = "parts"  # a root key that no config has
ELSEWHERE = ("override", "${")  # words of a YAML that speaks of other groups, or of surroundings


def composed(overrides: Sequence[str]) -> Plain:
    """The config that `compose` gives for these overrides, resolved. Raises ConfigError.

    Hydra composes the choices of a part once a process; the parts are laid together and values set, which is what it does last.
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
    """Choices that touch nothing but their own group are composed by themselves, and all others together."""
    alone = [one for one in choosing if _stands_alone(one, choosing, plugins)]
    made = dict(_whole(tuple(one for one in choosing if one not in alone), plugins))
    chosen = dict(made[CHOSEN])
    for one in alone:
        group = one.partition("=")[0]
        made[group], within = _part(one, plugins)
        chosen = {name: choice for name, choice in chosen.items() if name.partition("/")[0] != group} | within
    return {**made, CHOSEN: chosen}


def _part(one: str, plugins: str | None) -> tuple[Any, dict[str, str]]:
    """The node of a choice that stands alone, and what is chosen in it."""
    if (found := _known_part(one, plugins)) is not None:
        return found[0], found[1]
    group, made = one.partition("=")[0], _whole((one,), plugins)
    return made[group], {name: chosen for name, chosen in made[CHOSEN].items() if name.partition("/")[0] == group}


def _stands_alone(one: str, choosing: tuple[str, ...], plugins: str | None) -> bool:
    """Whether a choice changes its group's node and no other, and none of the others what is in it."""
    group, _, name = one.partition("=")
    if "/" in group or any(other is not one and other.startswith((f"{group}/", f"{group}=")) for other in choosing):
        return False
    if _known_part(one, plugins) is not None:
        return True
    return (
        not GROUPS[group].several
        and _is_plain(group, name, ELSEWHERE)
        and all(
            content == _whole((), plugins).get(key)
            for key, content in _whole((one,), plugins).items()
            if key not in (group, CHOSEN)
        )
    )


def _known_part(one: str, plugins: str | None) -> list[Any] | None:
    """The part of a choice, or of several of a group where there may be: group=[name,name], of which Hydra notes no name."""
    known = _known_parts(plugins)
    if (several := SEVERAL.fullmatch(one)) is None:
        return known.get(one)
    found = [known.get(f"{several[1]}={name}") for name in several[2].split(",")]
    nodes = [part[0] for part in found if part is not None]
    merged = {name: content for node in nodes for name, content in node.items()}
    return [merged, {}] if len(merged) == len(found) else None


@lru_cache(maxsize=8)
def _known_parts(plugins: str | None) -> dict[str, list[Any]]:
    """group=choice -> its node, and what is chosen in it: of all that, by their files, are of one place alone.

    Hydra composes them in one go, each in a place of its own; one by one they would take it sixty times as long.
    """
    key = json.dumps([installed("hydra-core"), installed("omegaconf"), digest_of_configs()])
    found: dict[str, list[Any]] | None = recall("parts", key)
    if found is None:
        found = _parts()
        remember("parts", key, found)
    return found


def _parts() -> dict[str, list[Any]]:
    groups = [name for name in GROUPS if "/" not in name]
    plain = [(group, name) for group in groups for name in choices(group) if _is_plain(group, name, (*ELSEWHERE, "@"))]
    asked = [one for one in plain if not _is_nothing(*one)]
    try:
        made: Any = OmegaConf.to_container(compose([f"+{group}@{PLACE}.{group}.{name}={name}" for group, name in asked]))
    except ConfigError:  # of which one is wrong, and is said where it is chosen
        return {}
    found: dict[str, list[Any]] = {}
    for group, name in plain:
        chosen = _chosen(group, name)
        if _is_nothing(group, name):
            node = None
        else:
            node = made[PLACE][group][name]
            within = [child.partition("/")[2] for child in chosen if "/" in child]
            node = {child: node.get(child) for child in within} | node
            node = {name: node} if GROUPS[group].several else node
        found[f"{group}={name}"] = [node, chosen]
    return found if survives_json(found) else {}


def _chosen(group: str, name: str) -> dict[str, str]:
    """A choice and those within it, by the names that Hydra notes."""
    within: dict[str, str] = {}
    base: str | None = name
    while base is not None:
        found = defaults_of(config_file(group, base))
        base = found.pop(BASE, None)
        within = {f"{group}/{child}": choice for child, choice in found.items()} | within
    return {group: name, **within}


def _is_plain(group: str, name: str, words: tuple[str, ...]) -> bool:
    """Whether a choice's YAML and those that it builds on, or chooses within, have none of the words that reach elsewhere."""
    try:
        return bool(NAME.fullmatch(name)) and _have_none(group, name, words)
    except (ConfigError, YAMLError, AttributeError, TypeError):  # of a YAML that is none, which is said where it is chosen
        return False


def _have_none(group: str, name: str, words: tuple[str, ...]) -> bool:
    path = config_file(group, name)
    if _is_nothing(group, name):
        return True
    own = f"# @package {group}.{name}\n" if group in GROUPS and GROUPS[group].several else ""
    entries = default_entries(path)
    bases = [one for one in entries if isinstance(one, str) and one != "_self_"]
    within = [pair for one in entries if isinstance(one, dict) for pair in one.items()]
    if len(bases) > 1 or any(word in path.read_text().removeprefix(own) for word in words):
        return False
    if not all(NAME.fullmatch(child) and isinstance(choice, str) for child, choice in within):
        return False
    chosen = [(f"{group}/{child}", choice) for child, choice in within]
    return all(_have_none(*one, words) for one in [*((group, base) for base in bases), *chosen])


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
