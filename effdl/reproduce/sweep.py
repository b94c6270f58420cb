"""What the runs of a sweep, or the trials of a search, would cost; nothing of it is carried out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effdl import config
from effdl.errors import HardwareError
from effdl.records.report import Track, duration, size
from effdl.records.stacking import settled
from effdl.reproduce.console import ahead, at_once, shared

BEGUN = "begun"  # the record of a run that has not come to its end
LEFT = (None, BEGUN)
NOTHING = "Nothing was started."
COLUMNS = ("run", "id", "epochs", "time", "step", "resident", "record")


@dataclass(frozen=True)
class Planned:
    """One run. record: its status there, `BEGUN` before its end, None without. cost: None where its method does not say."""

    overrides: tuple[str, ...]
    label: str
    spec: config.Spec
    run_id: str
    record: str | None
    cost: Any

    @property
    def is_left(self) -> bool:
        return self.record in LEFT

    @property
    def epochs(self) -> int | None:
        """Over all segments."""
        return None if self.cost is None else sum(segment.epochs for segment in self.cost.segments)

    @property
    def seconds(self) -> float | None:
        return None if self.cost is None else self.cost.seconds


@dataclass(frozen=True)
class Sweep:
    """The runs in their order; equal ones run once. workers: how many work at once."""

    runs: list[Planned]
    workers: int

    @property
    def left(self) -> list[Planned]:
        return list({one.run_id: one for one in self.runs if one.is_left}.values())

    @property
    def epochs(self) -> int:
        return sum(one.epochs or 0 for one in self.left)

    @property
    def seconds(self) -> float:
        """Of all that is left, as far as it is known."""
        return shared([one.seconds for one in self.left if one.seconds is not None], self.workers)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [_in_json(one) for one in self.runs],
            "left": len(self.left),
            "epochs": self.epochs,
            "time/estimate_s": None if self._unknown == len(self.left) != 0 else self.seconds,
        }

    def text(self) -> str:
        rows = [COLUMNS, *map(_in_columns, self.runs)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        whole = f"{len(self.left)} runs left of {len(self.runs)}" + (f", {self.epochs} epochs" if self.epochs else "")
        return "\n".join([*lines, "", f"{whole}{self._ahead()}. {NOTHING}"])

    def _ahead(self) -> str:
        probed = any(one.spec.probe for one in self.left)
        return ahead(len(self.left), self._unknown, self.seconds, self.workers, probed)

    @property
    def _unknown(self) -> int:
        return sum(one.seconds is None for one in self.left)


Asked = tuple[tuple[str, ...], str, config.Spec]  # overrides, what of them varies, and the run


def runs(overrides: Sequence[str], track: Track) -> list[Asked]:
    """The runs of these overrides, built and checked. Raises ConfigError."""
    from effdl.records.carry import label

    asked = []
    listed = config.grammar.sweep(overrides)
    for run, varied in track(listed, "looking at runs", len(listed)):
        spec = config.build(config.compose(run))
        asked.append((run, " ".join(varied) or label(spec), spec))
    return asked


def sweep(asked: Sequence[Asked], root: Path, workers: int, track: Track, stack: bool = True) -> Sweep:
    """What runs would cost; those that differ by their seeds cost the same. stack: as in `execute`."""
    from effdl.records.carry import fingerprint

    specs = settled([spec for _, _, spec in asked], root, stack and len(asked) > 1)
    ids = [config.run_id(spec, fingerprint(spec.dataset)) for spec in specs]
    records = [_record(spec, root, run_id) for spec, run_id in zip(specs, ids, strict=True)]
    kinds = list(map(_but_for_its_seed, specs))
    to_time = {kind for kind, record in zip(kinds, records, strict=True) if record in LEFT}
    alone = len(set(specs)) == 1
    once = list(dict.fromkeys(kinds))
    costs = {kind: _cost(kind, alone, kind in to_time) for kind in track(once, "planning", len(once))}
    planned = [
        Planned(run, varied, spec, run_id, record, costs[kind])
        for (run, varied, _), spec, run_id, record, kind in zip(asked, specs, ids, records, kinds, strict=True)
    ]
    return Sweep(planned, 1 if any(spec.hardware.device != "cpu" for spec in specs) else workers)


def search(composed: Any, trials: int, workers: int) -> dict[str, Any]:
    """How much a search would try at most, with the values that it does not search."""
    spec = config.build(composed)
    cost = _cost(spec, alone=False)
    epochs = None if cost is None else trials * sum(segment.epochs for segment in cost.segments)
    seconds = None if cost is None or cost.seconds is None else shared([cost.seconds] * trials, workers)
    return {"trials": trials, "epochs": epochs, "time/estimate_s": seconds}


def search_text(told: dict[str, Any], workers: int) -> str:
    each = f" of {told['epochs'] // told['trials']} epochs, {told['epochs']} in all" if told["epochs"] else ""
    seconds = told["time/estimate_s"]
    time = "" if seconds is None else f": at most about {duration(seconds)} {at_once(workers)}"
    return f"{told['trials']} trials{each}{time}. {NOTHING}"


def _but_for_its_seed(spec: config.Spec) -> config.Spec:
    return replace(spec, seed=0, logger=None)


def _cost(spec: config.Spec, alone: bool, timed: bool = True) -> Any:
    """With one thread, as one of many has it; without seconds where this machine has not the device."""
    from effdl.records import plan

    threads = None if alone else 1
    if timed:
        with suppress(HardwareError):
            return plan.cost(spec, threads, timed=True, rows=())
    return plan.cost(spec, threads, rows=())


def _record(spec: config.Spec, root: Path, run_id: str) -> str | None:
    from effdl.records.carry import finished

    if (summary := finished(spec, root, lambda text: None)) is not None:
        return str(summary["status"])
    return BEGUN if (root / "runs" / run_id / "spec.json").exists() else None


def _in_json(one: Planned) -> dict[str, Any]:
    told = {
        "overrides": list(one.overrides),
        "run_id": one.run_id,
        "seed": one.spec.seed,
        "record": one.record,
        "epochs": one.epochs,
    }
    return {**told, "time/estimate_s": one.seconds, **(one.cost.to_json() if one.cost else {})}


def _in_columns(one: Planned) -> tuple[str, ...]:
    seconds = duration(one.seconds) if one.seconds is not None else "unknown" if one.is_left else ""
    if one.cost is None:
        return one.label, one.run_id, "", seconds, "", "", one.record or ""
    held = (size(one.cost.peak_bytes), size(one.cost.resident_bytes))
    return one.label, one.run_id, str(one.epochs), seconds, *held, one.record or ""


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Numbers to the right, words to the left."""
    words = (0, 1, len(row) - 1)
    return [
        f"{cell:<{width}}" if i in words else f"{cell:>{width}}"
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
