"""A Spec as plain values, and the name of its run."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from effdl.config.groups import GROUPS
from effdl.config.spec import Spec
from effdl.setting import Setting

STACK_VERSION = 2  # goes up where stacked runs begin to give other numbers


def is_setting(value: Any) -> bool:
    return isinstance(value, Setting) and is_dataclass(value)


def all_settings(spec: Spec) -> Iterator[Setting]:
    """Every choice of a Spec that is part of its identity, those within others too."""
    waiting: list[Any] = [chosen for group, chosen in spec.settings().items() if GROUPS[group].identity != "never"]
    while waiting:
        here = waiting.pop(0)
        if isinstance(here, tuple):
            waiting += here
        elif is_setting(here):
            yield here
            waiting += [getattr(here, f.name) for f in fields(here) if f.name not in type(here).not_identity]


def dump(spec: Spec, *, identity_only: bool = False) -> dict[str, Any]:
    """The whole config as plain JSON values, from which `build` makes the same Spec; or only what is part of its identity."""

    def plain(setting: Any) -> Any:
        if not is_setting(setting):
            return list(setting) if isinstance(setting, tuple) else setting
        cls = type(setting)
        names = [f.name for f in fields(setting) if not (identity_only and f.name in cls.not_identity)]
        target = f"{cls.__module__}.{cls.__qualname__}"
        return {"_target_": target, **{name: plain(getattr(setting, name)) for name in names}}

    groups = {g: s for g, s in spec.settings().items() if not (identity_only and GROUPS[g].identity == "never")}
    built = {g: {one.snake_name(): plain(one) for one in s} if GROUPS[g].several else plain(s) for g, s in groups.items()}
    extra = {"stacked": True} if spec.stacked else {}
    return {**built, "seed": spec.seed, "test_every": spec.test_every, **extra}


def identity(spec: Spec, fingerprint: str, versions: Mapping[type, int] | None = None) -> dict[str, Any]:
    """What the run's numbers depend on: classes, numerics versions and fields that differ from their defaults.

    Defaults are left out, so a new field with a default changes no old run's name; paths, worker counts and the logger too.
    versions: of classes that are taken to be at another than today's, which tells by what code an old run was made.
    """

    def named(setting: Any) -> Any:
        if not is_setting(setting):
            return list(setting) if isinstance(setting, tuple) else setting
        cls = type(setting)
        values = {f.name: getattr(setting, f.name) for f in fields(setting) if f.name not in cls.not_identity}
        defaults = {f.name: f.default for f in fields(setting)}
        changed = {name: named(value) for name, value in values.items() if value != defaults[name] or revised(value)}
        known = cls.__qualname__ if cls.__module__.startswith("effdl.") else f"{cls.__module__}.{cls.__qualname__}"
        return {"class": known, "version": (versions or {}).get(cls, setting.version()), **changed}

    def revised(value: Any) -> bool:
        """A nested setting that gives other numbers than it did at first, though it is the default."""
        if not is_setting(value):
            return False
        version = (versions or {}).get(type(value), value.version())
        return version > 1 or any(revised(getattr(value, f.name)) for f in fields(value))

    settled = [(g, s, GROUPS[g].identity) for g, s in spec.settings().items()]
    used = {g: s for g, s, part in settled if part == "always" or (part == "chosen" and s)}
    settings = {g: {one.snake_name(): named(one) for one in s} if GROUPS[g].several else named(s) for g, s in used.items()}
    extra: dict[str, Any] = {} if spec.test_every == "epoch" else {"test_every": spec.test_every}
    if spec.stacked:
        extra["stacked"] = STACK_VERSION
    return {**settings, **extra, "seed": spec.seed, "data": fingerprint}


def run_id(spec: Spec, fingerprint: str, versions: Mapping[type, int] | None = None) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the identity."""
    return _name(_canonical(identity(spec, fingerprint, versions)))


def run_ids(spec: Spec, fingerprint: str, seeds: Iterable[int]) -> list[str]:
    """The names of a Spec's runs under these seeds, in less than a tenth of the time that each by itself takes."""
    before, after = _canonical({**identity(spec, fingerprint), "seed": SEED}).split(json.dumps(SEED))
    return [_name(f"{before}{seed}{after}") for seed in seeds]


SEED = "\0seed"  # which no value of a config can be


def _canonical(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
