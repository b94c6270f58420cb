"""What a Spec would cost, without training it: counted bytes and a few steps' seconds, by segment."""

from dataclasses import dataclass, replace
from typing import Any

from effdl import config
from effdl.records.carry import build_network, open_problem, open_run
from effdl.records.report import Silent
from effdl.training.handle import SegmentCost
from effdl.training.hardware import restoring


@dataclass(frozen=True)
class Cost:
    """seconds: of the whole run, with its measurements. Bytes are peaks of a training step; share: of full backprop's."""

    seconds: float
    peak_bytes: int
    resident_bytes: int
    segment_bytes: list[int]
    segment_seconds: list[float]
    backprop_bytes: int

    @property
    def share(self) -> float:
        return self.peak_bytes / self.backprop_bytes

    def to_json(self) -> dict[str, object]:
        """By the keys of a run's summary."""
        return {
            "time/estimate_s": self.seconds,
            "memory/accounted_peak_bytes": self.peak_bytes,
            "memory/resident_peak_bytes": self.resident_bytes,
            "memory/share_of_backprop": self.share,
            "memory/segment_peak_bytes": self.segment_bytes,
            "memory/segment_share_of_backprop": [peak / self.backprop_bytes for peak in self.segment_bytes],
            "time/segment_estimate_s": self.segment_seconds,
        }


_rehearsed: dict[Any, dict[str, Any]] = {}


class _Told(Exception):
    """A run has said what it would cost, and need not go on."""


class _Asking(Silent):
    def cost(self, name: str, seconds: float, costs: list[SegmentCost]) -> None:
        raise _Told


def cost(spec: config.Spec, threads: int | None = None) -> Cost | None:
    """Rehearse a Spec; None where its method does not say what it will cost. threads: CPU threads where the Spec leaves them
    open, one in a sweep.

    Raises:
        EffdlError: no data, or a combination that cannot run.
    """
    if not (notes := _rehearse(spec, threads)):
        return None
    full = _rehearse(_with_backprop(spec), threads)
    return Cost(
        notes["time/estimate_s"],
        notes["memory/accounted_peak_bytes"],
        notes["memory/resident_peak_bytes"],
        notes["memory/segment_peak_bytes"],
        notes["time/segment_estimate_s"],
        full["memory/accounted_peak_bytes"],
    )


def _with_backprop(spec: config.Spec) -> config.Spec:
    """Full backpropagation of the same network on the same data."""
    optimizer = spec.optimizer or config.build_choice("optimizer", "sgd")
    return replace(spec, method=config.build_choice("method", "backprop"), optimizer=optimizer, filter=None, probe=())


def _rehearse(spec: config.Spec, threads: int | None) -> dict[str, Any]:
    """The notes of a run that stops where it knows its cost, which is the same for all seeds and for data of one form; {} where
    it ended without a word."""
    alike = (spec.dataset.facts(), replace(spec, dataset=None, seed=0, logger=None), threads)
    if alike not in _rehearsed:
        _rehearsed[alike] = _begin(spec, threads)
    return _rehearsed[alike]


def _begin(spec: config.Spec, threads: int | None) -> dict[str, Any]:
    with restoring():  # a lone run that follows takes all cores
        try:
            device = spec.hardware.open(threads)
            train, test = spec.dataset.load()
            problem = open_problem(spec, train, test, device)
            run = open_run(spec, test.to(device), reporter=_Asking())
            spec.method.fit(problem, build_network(spec, problem, device), run)
        except _Told:
            return run.notes
    return {}
