"""What single overrides say, by Hydra's grammar: a value, or what it sweeps over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from effdl.config.composition import composition_error
from effdl.config.groups import GROUPS, choices
from effdl.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """interval(low,high); log: under tag(log,...)."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Steps:
    """range(start,stop,step), without saying whether the stop is part of it."""

    start: float
    stop: float
    step: float


@dataclass(frozen=True)
class Choices:
    """a,b or choice(a,b), each as an override has it; those of shuffle(...) in their own order."""

    values: tuple[str, ...]


def read(overrides: Sequence[str]) -> list[tuple[str, str, Interval | Steps | Choices | None]]:
    """Key, whole text and what it sweeps over, None where it sets one value. Raises ConfigError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return [(one.get_key_element(), str(one.input_line), _swept(one)) for one in parsed]
    except HydraException as error:
        raise composition_error(error, overrides) from None


def with_their_groups(overrides: Sequence[str]) -> list[str]:
    """The same, and what sets a key of a part whose choice is varied is varied too, over one value.

    Before a sweep Hydra composes what does not vary, with the usual choice of the part, which may not have the key.
    """
    try:
        parsed = read(overrides)
    except ConfigError:  # said where the sweep is made
        return list(overrides)
    varied = tuple(f"{key.replace('/', '.')}." for key, _, swept in parsed if swept is not None and key in GROUPS)

    def put(key: str, text: str) -> str:
        name, _, value = text.partition("=")
        if not key.lstrip("+").startswith(varied) or not value or "=" in value:  # a function takes it for an argument's name
            return text
        return f"{name}=choice({value})"

    return [text if swept is not None else put(key, text) for key, text, swept in parsed]


def sweep(overrides: Sequence[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The runs of a sweep as Hydra's basic sweeper makes them: of each its overrides, and those of them that vary.

    Raises ConfigError: not in that grammar, or values that nobody can count.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise composition_error(error, overrides) from None
    values = {one.get_key_element(): _listed(one) for one in parsed}  # of a key said twice, the last
    vary = [len(written) > 1 for written in values.values()]
    runs = product(*values.values())
    return [(run, tuple(one for one, varies in zip(run, vary, strict=True) if varies)) for run in runs]


def _listed(override: Any) -> list[str]:
    """One override for each of its values."""
    from hydra.core.override_parser.types import Glob

    key, value = override.get_key_element(), override.value()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{key}: an interval is searched, which search=optuna does; a sweep takes a,b,c or range(...)")
    if not isinstance(value, Glob):
        values: Iterable[str] = override.sweep_string_iterator()
    elif key not in GROUPS:
        raise ConfigError(f"{key}: glob(...) is of a group's choices; a sweep takes a,b,c or range(...)")
    else:
        values = value.filter(choices(key))
    if not (written := [f"{key}={one}" for one in values]):
        raise ConfigError(f"{key}: no choice is like that; there are {', '.join(choices(key))}")
    return written


def plain(text: str) -> Any:
    """A value, written as in an override, as YAML has it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = OverridesParser.create().parse_override(f"x={text}").value()
    return json.loads(json.dumps(value, default=str))


def written(value: Any) -> str:
    """A plain value as an override has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def quoted(value: Any) -> str:
    """Any plain value as an override has it, text within quotes."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{quoted(one)}' for key, one in value.items())}}}"
    return f"[{','.join(map(quoted, value))}]" if isinstance(value, list | tuple) else written(value)


def _swept(override: Any) -> Interval | Steps | Choices | None:
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    if not override.is_sweep_override():
        return None
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        return Interval(value.start, value.end, "log" in value.tags)
    if isinstance(value, RangeSweep) and not value.shuffle:
        assert value.start is not None and value.stop is not None
        return Steps(value.start, value.stop, value.step)
    if hasattr(value, "shuffle"):
        value.shuffle = False  # the order of choices says nothing, and must be the same when a search goes on
        return Choices(_values(override))
    raise ConfigError(f"{override.get_key_element()}: {override.input_line} names no values; say which, as a,b,c")


def _values(override: Any) -> tuple[str, ...]:
    from hydra.core.override_parser.types import Transformer

    found = (written(one) for one in override.sweep_iterator(transformer=Transformer.encode))
    return tuple(dict.fromkeys(found))
