"""What single runs would take, as people read it: beside what else would train the network, and what would save memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from effdl.records.report import duration, size

OF_STEP = {
    "batch": "activations, and what else a batch makes on its way",
    "below": "weights of the layers below, of which only a smaller network has fewer",
    "weights": "weights of what is being trained, with gradients and optimizer state",
}
NOT_MEASURED = "process: not measured by a plan but by a run (memory/process_peak_bytes)"
UNKEPT = "  method.keep_features_mib=0"
BESIDE_UNKEPT = f"Shares with {UNKEPT.strip()} are beside backprop that keeps nothing either."


def cost_of_run(overrides: str, cost: Any, remark: str | None = None) -> str:
    """One run's plan: what it holds, by segment, beside what else would train the network, and what would save memory.

    remark: what is to be known of how the network is cut.
    """
    timed, full = cost.seconds is not None, "full backprop's"
    step = f"step {size(cost.peak_bytes)}, {cost.share:.0%} of {full} {size(cost.backprop_bytes)}"
    whole = size(cost.beside["backprop"].resident)
    resident = f"resident {size(cost.resident_bytes)}, {cost.resident_share:.0%} of {full} {whole}"
    count = f"{len(cost.blocks)} block{'s' * (len(cost.blocks) > 1)}"
    if not all(one.certain for one in cost.segments):
        count = f"At most {count}, all of which are drawn, and of which training ends with the first that suffice"
    lines = [f"{overrides}: {step}; {resident}; {NOT_MEASURED}", f"{count}: {', '.join(cost.blocks)}"]
    if any(one.stop - one.start > 1 for one in cost.segments) and len(cost.segments) > 1:
        lines.append(f"{len(cost.segments)} segments: blocks {', '.join(map(_blocks, cost.segments))}")
    lines += [remark, ""] if remark else [""]
    if len(cost.segment_bytes) > 1:
        trained = _trained(cost)
        lines.append("segment      step  of backprop" + ("     time" if timed else "") + trained[0])
        for i, peak in enumerate(cost.segment_bytes):
            row = f"{i + 1:>7}  {size(peak):>8}  {_share(peak / cost.backprop_bytes, cost):>11}"
            lines.append(row + (f"  {duration(cost.segment_seconds[i]):>7}" if timed else "") + trained[i + 1])
        lines.append("")
    lines += [*_table(_this(cost), cost), "", *_advice(cost)]
    most = "About" if all(one.certain for one in cost.segments) else "At most about"
    unprobed = f", without its probes ({', '.join(cost.probes)})" if cost.probes else ""
    lines.append(f"{most} {duration(cost.seconds)} on this machine{unprobed}." if timed else "How long it takes: --time.")
    return "\n".join(lines)


def _blocks(segment: Any) -> str:
    """Counted from 1."""
    first, last = segment.start + 1, segment.stop
    return str(first) if first == last else f"{first}-{last}"


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, those in a row as one range."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(row[0]) if len(row) == 1 else f"{row[0]}-{row[-1]}" for row in found)


def _share(share: float, cost: Any) -> str:
    """Beside a budget, whose tolerance is half a percent, to a tenth."""
    return f"{share:.1%}" if cost.trained or cost.recomputed is not None else f"{share:.0%}"


def _trained(cost: Any) -> list[str]:
    """Columns of what a memory budget chose: their head, and of each segment its decision block, with its weights; of segments
    that learn at once the blocks that are recomputed."""
    if cost.recomputed is not None:
        return ["  recomputed blocks", *(f"  {_ranges(blocks) or 'none'}" for blocks in cost.recomputed)]
    if not cost.trained:
        return [""] * (len(cost.segment_bytes) + 1)
    blocks = [_decision(**one["decision"]) for one in cost.trained]
    width = max(map(len, (*blocks, "decision block")))
    recomputed = {
        None: "",
        "block": "  recomputed: all of it",
        "parts": "  recomputed: in parts",
        "channels": "  recomputed: by channels",
    }
    rows = zip(blocks, cost.trained, strict=True)
    return [
        f"  {'decision block':<{width}}  weights",
        *[f"  {block:<{width}}  {one['weights']:>7,}{recomputed[one['checkpoint']]}" for block, one in rows],
    ]


def _decision(convs: int, channels: int, size: int, bottleneck: bool) -> str:
    pooled = "linear" if size == 1 else f"{size}×{size}, linear"
    if not convs:
        return pooled
    return f"{'1×1, ' if bottleneck else ''}{convs} conv{'s' * (convs > 1)} of {channels}, {pooled}"


def _this(cost: Any) -> str:
    worst = max(range(len(cost.segment_bytes)), key=cost.segment_bytes.__getitem__) + 1
    return f"this, in segment {worst}" if len(cost.segment_bytes) > 1 else "this"


def _table(this: str, cost: Any) -> list[str]:
    """Step and resident of the run, of full backprop and of checkpointing; the step in bf16 too where it was counted.

    A row in which nothing is kept has its shares of backprop that keeps nothing either.
    """
    rows = {
        (this, "accounted"): (cost.peak_bytes, cost.resident_bytes),
        (UNKEPT, "unkept"): cost.beside.get("unkept"),
        ("full backprop", "backprop"): cost.beside["backprop"],
        (UNKEPT, "backprop_unkept"): cost.beside.get("backprop_unkept"),
        ("checkpointed by block", "backprop_checkpointed"): cost.beside.get("backprop_checkpointed"),
    }
    if (cost.peak_bytes, cost.resident_bytes) == cost.beside["backprop"]:  # most likely asked for itself
        del rows[this, "accounted"], rows[UNKEPT, "unkept"]
    width = max(len(what) for what, _ in rows)
    has_bf16 = any(name.startswith("bf16_") for name in cost.beside)
    lines = [f"{'peak':<{width}}      step  of backprop  resident  of backprop" + ("  step in bf16" if has_bf16 else "")]
    for (what, name), held in rows.items():
        if held is None:
            continue
        step, resident = held
        whole = cost.beside["backprop_unkept" if what == UNKEPT else "backprop"]
        row = f"{what:<{width}}  {size(step):>8}  {step / whole.step:>11.0%}"
        row += f"  {size(resident):>8}  {resident / whole.resident:>11.0%}"
        half = cost.beside.get(f"bf16_{name}")
        lines.append(row + (f"  {size(half.step):>8} {half.step / whole.step:>4.0%}" if half else ""))
    return [*lines, *([BESIDE_UNKEPT] if any(line.startswith(UNKEPT) for line in lines) else [])]


def _advice(cost: Any) -> list[str]:
    """What most of the step is, and most of what lies beside it, each with the setting that was found to save it."""
    from effdl.records.alternatives import of_step

    parts = of_step(cost.segments)
    most = max(parts, key=parts.__getitem__)
    share = parts[most] / cost.peak_bytes
    line = f"{'Almost all' if share > 0.99 else f'{share:.0%}'} of the step are {OF_STEP[most]}"
    if cost.remedy is not None and (less := cost.remedy[1].step) < cost.peak_bytes:
        line += f"; {cost.remedy[0]} brings it to {size(less)}"
    return [f"{line}.", *_of_kept(cost), *_of_waiting(cost)]


def _of_kept(cost: Any) -> list[str]:
    """Whether keeping no outputs saves memory, where the run keeps any."""
    unkept, largest = cost.beside.get("unkept"), max(one.kept_bytes for one in cost.segments)
    if unkept is None or not largest:
        return []
    kept, nothing = f"Up to {size(largest)} of outputs are kept between epochs", "method.keep_features_mib=0"
    if unkept.resident < cost.resident_bytes:
        return [f"{kept}; {nothing} computes them for every batch instead, and brings resident to {size(unkept.resident)}."]
    return [f"{kept}, and save memory: with {nothing} resident is {size(unkept.resident)}."]


def _of_waiting(cost: Any) -> list[str]:
    """Where layers and learners are that wait, where that is a question."""
    from effdl.records.plan import DEVICE

    if states := [one for one in cost.state_bytes if one]:
        what = f"Learners that wait for their next turn hold {size(sum(states))}, up to {size(max(states))} each"
        return [f"{what}, {cost.lies}."]
    return [] if cost.lies == DEVICE else [f"Layers that do not learn lie {cost.lies}."]


def ending(costs: Mapping[str, Any]) -> str:
    """What runs of these labels would take, none of which is trained."""
    lines = ["Planned, nothing of this is trained (step: the peak of a training step; resident: with what lies beside it):"]
    for label, cost in costs.items():
        lines += ["", label, *(["only a run tells what it takes"] if cost is None else _table("this", cost))]
    return "\n".join(lines)
