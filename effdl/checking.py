"""Runs checked before they start: libraries are imported and networks cut, which may take seconds, with a word of how far."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, TypeVar

from effdl import config, torchrun
from effdl.records.report import Track, untracked

T = TypeVar("T")


def spec_of(overrides: Sequence[str]) -> tuple[config.Spec, str | None]:
    """The Spec of one run, and what is to be known of its network. Raises ConfigError."""
    config.refuse(overrides)
    made: list[Any] = [overrides]
    steps: list[Callable[[Any], Any]] = [config.compose, _with_torch, config.build, _remark]
    with _tracking() as track:
        for step in track(steps, "checking", len(steps)):
            made.append(step(made[-1]))
    return made[-2], made[-1]


def specs(composed: Sequence[Any]) -> list[config.Spec]:
    """The Specs of composed configs. Raises ConfigError."""
    steps: list[Callable[[Any], Any]] = [_with_torch, *[config.build] * len(composed)]
    with _tracking() as track:
        pairs = zip(track(steps, "checking", len(steps)), [composed[0], *composed], strict=True)
        return [step(one) for step, one in pairs][1:]


def remarks(specs: Sequence[config.Spec]) -> list[str]:
    """What is to be known of the networks of these runs, of each once."""
    alike = list({spec.arch: spec for spec in specs}.values())
    with _tracking() as track:
        return [said for spec in track(alike, "looking at networks", len(alike)) if (said := _remark(spec)) is not None]


def _remark(spec: config.Spec) -> str | None:
    said: str | None = spec.arch.remark(spec.dataset.facts())
    return said


def _with_torch(given: T) -> T:
    """The same, with torch imported, which takes as long as much of the rest."""
    import_module("torch")
    return given


def _tracking() -> AbstractContextManager[Track]:
    """Of several processes the first shows how far it is."""
    if torchrun.place().rank > 0:
        return nullcontext(untracked)
    from effdl.records.tracking import tracking

    return tracking()
