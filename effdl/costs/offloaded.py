"""What segments cost where all that waits or is finished is off the device."""

from dataclasses import replace

from torch import nn

from effdl.training.engine import Engine
from effdl.training.handle import SegmentCost
from effdl.training.offload import tensors


def offloaded(costs: list[SegmentCost], engine: Engine) -> list[SegmentCost]:
    """The costs of segments without what lies on the host or on disk while each learns.

    Of the blocks below, whose weights a step counts as the feednet's, the largest is counted as if it were there all the while:
    they come one by one, and most of the time none is. What leaves with nobody, since its memory is shared, is counted beside
    each segment.
    """
    chain, training, found = engine.chain, engine.training, list[SegmentCost]()
    for segment, cost in enumerate(costs):
        lowest = training.segments[training.team(segment)[0]]
        largest = max(map(_bytes, chain[: lowest.start]), default=0)
        away = cost.below_bytes - _bytes(chain.input) - largest
        found.append(
            replace(cost, idle_bytes=engine.offloaded.staying_bytes, feednet_bytes=0, spared_bytes=0, away_bytes=max(0, away))
        )
    return found


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in tensors(module))
