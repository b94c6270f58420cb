"""What a run is expected to take, segment by segment, and by that how far it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from effdl.costs.seconds import training_seconds
from effdl.training.handle import KINDS, SegmentCost

# Of each segment a number, by what it is; it goes into checkpoints. Those of older versions lack some.
Plan = Mapping[str, Sequence[float]]


def plan(costs: Sequence[SegmentCost], tests_s: Sequence[float]) -> dict[str, list[float]]:
    """tests_s: what each segment's measurements on the test split take, in all."""
    return {
        "epochs": [float(cost.epochs) for cost in costs],
        "epoch_s": [training_seconds(cost) / cost.epochs for cost in costs],
        "tests_s": list(tests_s),
        "certain": [float(cost.certain) for cost in costs],
        "peak": [cost.memory.peak for cost in costs],
        "resident": [cost.resident for cost in costs],
        **{kind: [cost.memory.by_kind.get(kind, 0) for cost in costs] for kind in KINDS},
    }


def peaks(expected: Plan, segments: int) -> dict[str, Any]:
    """Of the lowest segments, for the record: bytes of the largest step and what it is made of, and with what lies beside."""
    peak = [int(bytes_) for bytes_ in expected["peak"][:segments]]
    worst = peak.index(max(peak))
    return {
        "memory/accounted_peak_bytes": peak[worst],
        "memory/resident_peak_bytes": int(max(expected["resident"][:segments])),
        "memory/segment_peak_bytes": peak,
        **{f"memory/peak_{kind}_bytes": int(expected[kind][worst]) for kind in KINDS},
    }


def fraction(expected: Plan, past: Sequence[float], test_every: str) -> float:
    """Share of the expected time that is done.

    Measurements on the test split count when they have been made: after an epoch, after a segment's last one, or at the end,
    when this is asked no longer.

    past: epochs of each segment that lie behind, with the part of the present one.
    """
    epochs, total, done = expected["epochs"], 0.0, 0.0
    tests_s = expected.get("tests_s", [0.0] * len(epochs))  # older versions spread them over the epochs
    for count, epoch_s, test_s, behind in zip(epochs, expected["epoch_s"], tests_s, past, strict=False):
        tested = {"epoch": int(behind) / count, "segment": float(behind >= count), "run": 0.0}[test_every]
        total += count * epoch_s + test_s
        done += behind * epoch_s + tested * test_s
    return min(1.0, done / total) if total else 0.0
