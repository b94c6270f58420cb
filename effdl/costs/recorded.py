"""What recordings hold, and what they spare the segments above them (§6.2.2)."""

from collections.abc import Sequence
from dataclasses import replace

from effdl.training.engine import Engine
from effdl.training.handle import SegmentCost
from effdl.training.recording import BESIDE


def base_of(segment: int, costs: Sequence[SegmentCost], record: frozenset[int]) -> int | None:
    """The highest recorded segment below this one, from which it learns; None where there is none."""
    return max((one for one in record if one < segment and costs[one].stop <= costs[segment].start), default=None)


def with_recordings(costs: list[SegmentCost], engine: Engine) -> list[SegmentCost]:
    """A segment above a recorded one is fed through the layers between; beside it lie the recordings that are in memory.

    Of the frozen prefix below the recording its memory counts nothing, see `Prefix.above`; the weights lie idle.
    """
    training, problem = engine.training, engine.problem
    share = engine.run.filter.expected_share if engine.run.filter is not None else 1.0
    samples, found = round(share * problem.num_train), list(costs)
    at = {cost.start: cost for cost in reversed(costs)}
    sizes = {
        one: max(epochs for _, epochs in costs[one].turns) * samples * (at[costs[one].stop].feature_bytes + BESIDE)
        for one in training.record
    }
    in_memory = sizes if training.store != "disk" else dict.fromkeys(sizes, 0)
    for segment, cost in enumerate(costs):
        base, own = base_of(segment, costs, training.record), in_memory.get(segment, 0)
        if base is None:
            found[segment] = replace(cost, kept_bytes=cost.kept_bytes + own)
            continue
        there, val = at[costs[base].stop], problem.num_val * cost.feature_bytes
        copies, copied = cost.feednet_bytes - cost.spared_bytes, cost.feednet_bytes - there.feednet_bytes
        val_kept = val if val <= training.keep_bytes else 0
        found[segment] = replace(
            cost,
            fed_s=cost.feed_s - there.feed_s,
            made_s=0.0,
            kept_bytes=val_kept + in_memory[base] + own,
            idle_bytes=cost.idle_bytes - copies + (copied if val_kept else cost.feednet_bytes) + _weights(engine, there.start),
            spared_bytes=0,
        )
    return found


def _weights(engine: Engine, blocks: int) -> int:
    """Bytes of the weights below so many blocks, the input block's among them."""
    modules = (engine.chain.input, *list(engine.chain.blocks)[:blocks])
    return sum({id(t): t.nbytes for m in modules for t in (*m.parameters(), *m.buffers())}.values())
