"""What is to be trained: the segments of a network, and in which order they learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from effdl.training.offload import Where
from effdl.training.orders import Turn, bottom_up
from effdl.training.rule import Rule
from effdl.training.selection import Choose
from effdl.training.untrained import Untrained


@dataclass(frozen=True)
class SegmentPlan:
    """How one segment is trained: blocks [start, stop) and everything that depends on its place.

    epochs: in all its turns together, over which its schedule spans.
    rule: (its blocks, output shape of the last) -> its rule, whose other parameters are freshly drawn. It is made several times
        (to be rehearsed, to learn, for the network at the end) and leaves the blocks' weights as they are.
    """

    start: int
    stop: int
    epochs: int
    rule: Callable[[nn.Sequential, tuple[int, ...]], Rule]
    lr_scale: float = 1.0
    weight_decay_scale: float = 1.0


@dataclass(frozen=True)
class Training:
    """What a method trains: segments, and in which order.

    keep_bytes: outputs of the blocks below a segment are kept where they fit this bound, else a feednet computes them.
    order: each segment's turns come to the epochs of its plan; by default from the bottom up, one turn each.
    choose: see `selection.Best`.
    patience: end a segment's turn after so many epochs without a better validation score, with its last weights (ours); only
        where each segment has a single turn.
    offload: where blocks and learners lie that wait or are finished, see `offload.Offload`; None leaves them on the device.
    untrained: how blocks below a segment are called that have never learned: as they are, or with the batch's statistics, see
        `untrained.OfBatch`; then the segment's network is chosen only where there is no other yet.

    Raises:
        ValueError: an order that does not go with the segments.
    """

    segments: Sequence[SegmentPlan]
    keep_bytes: int
    order: Sequence[Turn] = ()
    choose: Choose = "validation"
    patience: int | None = None
    offload: Where | None = None
    untrained: Untrained = "eval"

    def __post_init__(self) -> None:
        if not self.order:
            object.__setattr__(self, "order", tuple(bottom_up([plan.epochs for plan in self.segments])))
        turns = [0] * len(self.segments)
        for turn in self.order:
            if turn.epochs < 1:
                raise ValueError(f"a turn of segment {turn.segment} has {turn.epochs} epochs: it needs one or more")
            if not 0 <= turn.segment < len(self.segments):
                raise ValueError(f"the order names segment {turn.segment}, there are 0 to {len(self.segments) - 1}")
            turns[turn.segment] += turn.epochs
        for i, (planned, found) in enumerate(zip((plan.epochs for plan in self.segments), turns, strict=True)):
            if planned != found:
                raise ValueError(f"segment {i} is to learn for {planned} epochs, its turns come to {found}")
        if self.patience is not None and self.returns:
            raise ValueError("patience ends a segment's only turn, and here segments have several")

    def behind(self, place: int) -> list[int]:
        """Of each segment the epochs that lie behind when the turn at this place begins, as the order has them."""
        epochs = [0] * len(self.segments)
        for turn in self.order[:place]:
            epochs[turn.segment] += turn.epochs
        return epochs

    def turns(self, segment: int) -> int:
        """How often it is a segment's turn."""
        return sum(turn.segment == segment for turn in self.order)

    @property
    def returns(self) -> bool:
        """Whether some segment's turn comes again, and its learner waits for it."""
        return len({turn.segment for turn in self.order}) < len(self.order)

    @property
    def climbs(self) -> bool:
        """Whether after a turn comes the segment above, or the first: then features are made from those below."""
        segments = [turn.segment for turn in self.order]
        return all(above in (below + 1, 0) for below, above in pairwise(segments))
