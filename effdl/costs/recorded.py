"""What recordings hold, and what they spare the segments above them (§6.2.2)."""

from dataclasses import replace

from effdl.training.engine import Engine
from effdl.training.handle import SegmentCost
from effdl.training.recording import BESIDE


def with_recordings(costs: list[SegmentCost], engine: Engine) -> list[SegmentCost]:
    """A segment above a recorded one is fed through the layers between, which have feednets of their own beside those that
    validation samples go through; beside it lie the recordings that are in memory.

    Of the frozen prefix below the recording its memory counts nothing, see `Prefix.above`; the weights lie idle. A filter that
    does not see features chose before the recording, and nothing waits for it above.
    """
    training, problem, found = engine.training, engine.problem, list(costs)
    refilters = engine.run.filter is not None and engine.run.filter.sees == "features"
    at = {cost.start: cost for cost in reversed(costs)}
    sizes = {
        one: max(epochs for _, epochs in costs[one].turns)
        * round(engine.share(one) * problem.num_train)
        * (at[costs[one].stop].feature_bytes + BESIDE)
        for one in training.record
    }
    in_memory = sizes if training.store != "disk" else dict.fromkeys(sizes, 0)
    for segment, cost in enumerate(costs):
        own = in_memory.get(segment, 0)
        if not (bases := training.bases(segment)):
            found[segment] = replace(cost, kept_bytes=cost.kept_bytes + own)
            continue
        base, *_ = bases
        there = at[costs[base].stop]
        found[segment] = replace(
            cost,
            replayed_s=cost.feed_s - there.feed_s,
            fed_steps=costs[base].steps,
            filter_bytes=cost.filter_bytes if refilters else 0,
            kept_bytes=cost.kept_bytes + in_memory[base] + own,
            making_bytes=cost.making_bytes + in_memory[base] if cost.making_bytes else 0,
            idle_bytes=cost.idle_bytes + cost.feednet_bytes - there.feednet_bytes + _weights(engine, there.start),
        )
    return found


def _weights(engine: Engine, blocks: int) -> int:
    """Bytes of the weights below so many blocks, the input block's among them."""
    modules = (engine.chain.input, *list(engine.chain.blocks)[:blocks])
    return sum({id(t): t.nbytes for m in modules for t in (*m.parameters(), *m.buffers())}.values())
