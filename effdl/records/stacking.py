"""Which runs of a command are trained as one: settled before any of them begins, since float32 rounds otherwise in a stack."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from effdl import config
from effdl.config import Spec
from effdl.errors import ConfigError, EffdlError

if TYPE_CHECKING:
    from effdl.datasets.dataset import Facts

LEAST = 8  # runs: of fewer, what a stack takes beside its products is more than it saves
MOST = 64
GAIN = 4  # how much faster a run is in a stack, about
STEP_PRODUCTS = 16_000_000  # multiply-adds of a step's forward pass: of larger ones products are nearly all of the time
MEMORY_SHARE = 0.5


def settled(specs: Sequence[Spec], root: Path, on: bool = True) -> list[Spec]:
    """The same with ``stacked`` said of each: True of those that are trained in stacks.

    Of runs that can be, which differ in seed, learning rate and schedule alone, all are or none: the kind of which less is left
    to do by the records, which count as they are. What was said before stays. on: False where nobody wants any.
    """
    waiting = dict.fromkeys(spec for spec in specs if on and spec.stacked is None)
    groups = [group for group in _groups(waiting).values() if len(group) >= LEAST and _pays(group, root)]
    stacked = {spec for group in groups for spec in group}
    return [spec if spec.stacked is not None else replace(spec, stacked=spec in stacked) for spec in specs]


def kept(specs: Sequence[Spec], root: Path) -> list[Spec]:
    """Runs that differ in their seeds as most of them stand in the records: all stacked, or none."""
    if not specs or specs[0].stacked is not None or key(specs[0]) is None:
        return list(specs)
    single, stacked = (sum(_is_done(spec, root) for spec in kind) for kind in (specs, _as(specs, True)))
    return _as(specs, stacked > single)


def _as(specs: Sequence[Spec], stacked: bool) -> list[Spec]:
    return [replace(spec, stacked=stacked) for spec in specs]


def _groups(specs: Iterable[Spec]) -> Mapping[Hashable, list[Spec]]:
    groups: dict[Hashable, list[Spec]] = defaultdict(list)
    for spec in specs:
        if (found := key(spec)) is not None:
            groups[found].append(spec)
    return groups


def _pays(group: Sequence[Spec], root: Path) -> bool:
    """Whether less is left to do in stacks."""
    single, stacked = (sum(not _is_done(spec, root) for spec in _as(group, kind)) for kind in (False, True))
    return single > 0 and stacked <= GAIN * single


def _is_done(spec: Spec, root: Path) -> bool:
    from effdl.records.carry import fingerprint

    with suppress(EffdlError):
        return (root / "runs" / config.run_id(spec, fingerprint(spec.dataset)) / "summary.json").exists()
    return False


def key(spec: Spec) -> Hashable | None:
    """Runs with equal keys can be trained as one; None where a run is by itself."""
    return _key(replace(spec, seed=0, stacked=None, logger=None)) if spec.logger is None and _is_plain(spec) else None


def _is_plain(spec: Spec) -> bool:
    """Nothing that a stack cannot serve, and no time that anybody measures, which is why threads are set."""
    hardware = spec.hardware
    computes = hardware.device == "cpu" and hardware.precision == "float32" and not hardware.compile
    beside = spec.filter or spec.probe or spec.augment or (spec.sync is not None and not spec.sync.stacks)
    return computes and hardware.processes == 1 and hardware.threads is None and not beside


SAME = ("method", "arch", "dataset", "objective", "hardware", "test_every", "sync")


@lru_cache(maxsize=1024)
def _key(spec: Spec) -> Hashable | None:
    with suppress(Exception):  # of a user's class too; the run itself will say it
        facts = spec.dataset.facts()
        linear = spec.arch.facts(facts).linear
        if spec.optimizer is None or linear is None:
            return None
        products = sum(a * b for a, b in pairwise((math.prod(facts.input_shape), *linear, facts.outputs)))
        if products * facts.batch_size <= STEP_PRODUCTS and (form := _form(spec, facts)) is not None:
            # What memory its state takes is counted once for all.
            return *(getattr(spec, group) for group in SAME), replace(spec.optimizer, lr=1.0, schedule=None), form
    return None


def _form(spec: Spec, facts: Facts) -> Hashable | None:
    """The method's own key, where its optimizer and objective can be stacked."""
    from effdl.archs.vision import undrawn
    from effdl.training.stacked import maps
    from effdl.training.stacked_optimizer import will_be_by_element

    if not will_be_by_element(spec.optimizer) or not maps(spec.objective, facts):
        return None
    found: Hashable | None = spec.method.stack_key(undrawn(lambda: spec.arch.untrained().build(facts)))
    return found


def check_stacked(specs: Iterable[Spec]) -> None:
    """Raise a ConfigError where a run is said to be stacked that no stack can serve."""
    if any(spec.stacked and key(replace(spec, stacked=None, logger=None)) is None for spec in specs):
        raise ConfigError(
            "stacked=true: a stack is of perceptrons of at most 16 million products a step, in float32 on a CPU, under a "
            "method that says so, without filter, probe, augment, a sync by the step or hardware.threads; leave it out"
        )


def split_up(specs: Sequence[Spec], workers: int) -> Iterator[list[int]]:
    """Places of runs that a process carries out together: those of a stack, as many as its memory has room for."""
    stacks: dict[Hashable, list[int]] = defaultdict(list)
    for place, spec in enumerate(specs):
        if spec.stacked:
            stacks[key(replace(spec, stacked=None)) or place].append(place)
        else:
            yield [place]
    for places in stacks.values():
        most = min(MOST, max(1, int(_room(workers) / bytes_of(specs[places[0]]))))
        parts = -(-len(places) // most)
        parts = max(parts, min(workers, len(places) // LEAST))
        yield from (places[i::parts] for i in range(parts))


def _room(workers: int) -> float:
    from effdl.training.hardware import Hardware

    return MEMORY_SHARE * Hardware().memory() / workers


def bytes_of(spec: Spec) -> int:
    """What a run of a stack holds of its data, about: samples as they are stored, and standardised."""
    facts = spec.dataset.facts()
    return int((facts.train + facts.val + facts.test) * math.prod(facts.input_shape) * (5 if facts.is_image else 8)) + 1
