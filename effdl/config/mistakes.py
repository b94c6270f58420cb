"""Overrides that Hydra answers in riddles, or takes for something else than was meant, and what to write instead."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from effdl.config.composition import parse
from effdl.config.groups import GROUPS, SEVERAL, choices
from effdl.errors import ConfigError

EMPTY = re.compile(r"\{\s*\}")


def refuse(overrides: Sequence[str]) -> None:
    """Raise a ConfigError for a command line with such an override."""
    for one in overrides:
        key, equals, value = one.partition("=")
        if not key:
            raise ConfigError(f"{one}: values are given as key=value")
        group = key.strip("+~").partition("@")[0].replace(".", "/")
        if equals and group in GROUPS and EMPTY.fullmatch(value.strip()):
            raise ConfigError(f"{one}: says nothing; {key} takes a choice by its name; there are {', '.join(choices(group))}")
        if one.startswith("~") and "." in key and key[1:].split(".")[0] in set(GROUPS) - SEVERAL:
            raise ConfigError(
                f"{one}: would put its class's default in the place of your choice's; set {key[1:]}, or leave it out"
            )


def unreadable(override: str) -> str | None:
    """Why an override cannot be read, and how it is written; None where it can."""
    if override.startswith("-"):
        return None
    key, equals, value = override.partition("=")
    if not key or not (equals or override.startswith("~")):
        return f"{override}: values are given as key=value"
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
