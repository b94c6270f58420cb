"""What else a user might choose, to be planned beside a run: other methods, and settings that make a step smaller."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from effdl import config
from effdl.training.handle import SegmentCost


class Held(NamedTuple):
    """Bytes. step: the peak of a training step; resident: with what lies in memory beside it."""

    step: int
    resident: int


def alternatives(spec: config.Spec) -> dict[str, config.Spec]:
    """What else would train this network on these data: full backprop, plain and checkpointed by block, and all in bf16. Full
    backprop may keep as much as the run."""
    optimizer = spec.optimizer or config.build_choice("optimizer", "sgd")
    kept = getattr(spec.method, "keep_features_mib", None)
    method = config.build_choice("method", "backprop")
    method = method if kept is None else replace(method, keep_features_mib=kept)
    whole = replace(spec, method=method, optimizer=optimizer, filter=None, probe=())
    rows = {"backprop": whole, "backprop_checkpointed": replace(whole, method=replace(method, checkpoint="block"))}
    in_bf16 = replace(spec.hardware, precision="bf16")
    # In bf16 a budget would be another, of which decision blocks are searched anew.
    also = {"accounted": spec} if getattr(spec.method, "memory_budget", None) is None else {}
    return rows | {f"bf16_{name}": replace(row, hardware=in_bf16) for name, row in (also | rows).items()}


def unkept(segments: Sequence[SegmentCost]) -> Held:
    """The same run with ``method.keep_features_mib`` 0. A step is counted the same, since its feednet counts in any case."""
    fed = [replace(one, kept_bytes=0, making_bytes=0) for one in segments]
    return Held(max(one.memory.peak for one in fed), max(one.resident + one.spared_bytes for one in fed))


def of_step(segments: Sequence[SegmentCost]) -> dict[str, int]:
    """Bytes of the largest step: "below", the weights of the frozen layers; "weights" of what trains, with their gradients and
    the optimizer's state; "batch", all that a batch makes on its way."""
    worst = max(segments, key=lambda segment: segment.memory.peak)
    weights = sum(worst.memory.by_kind[kind] for kind in ("parameter", "gradient", "optimizer"))
    return {"batch": worst.memory.peak - weights - worst.below_bytes, "below": worst.below_bytes, "weights": weights}


def remedy(spec: config.Spec, segments: Sequence[SegmentCost]) -> tuple[str, config.Spec] | None:
    """A setting, as one types it, that may make the most of a step smaller, and the Spec with it; None where none is known."""
    parts, size = of_step(segments), getattr(spec.dataset, "batch_size", 1)
    most = max(parts, key=parts.__getitem__)
    if most == "batch" and size > 3:  # batch normalisation cannot take one sample
        return f"dataset.batch_size={size // 2}", replace(spec, dataset=replace(spec.dataset, batch_size=size // 2))
    pool = config.build_choice("method/decision", "pool")
    if most == "weights" and getattr(spec.method, "decision", pool) != pool:
        return "method/decision=pool", replace(spec, method=replace(spec.method, decision=pool))
    return None
