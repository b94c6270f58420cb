"""What is to be trained: the segments of a network, and in which order they learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

from torch import nn

from effdl.training.offload import Place
from effdl.training.orders import Turn, bottom_up
from effdl.training.recording import Where
from effdl.training.rule import Rule
from effdl.training.selection import Choose, Growth
from effdl.training.shelf import KeepOn
from effdl.training.untrained import Untrained

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class SegmentPlan:
    """How one segment is trained: blocks [start, stop) and everything that depends on its place.

    epochs: in all its turns together, over which its schedule spans.
    rule: (its blocks, the shape of what each puts out for one sample) -> its rule, whose other parameters are freshly drawn.
        It is made several times (to be rehearsed, to learn, for the network at the end) and leaves the blocks' weights as they
        are.
    """

    start: int
    stop: int
    epochs: int
    rule: Callable[[nn.Sequential, Shapes], Rule]
    lr_scale: float = 1.0
    weight_decay_scale: float = 1.0


@dataclass(frozen=True)
class Training:
    """What a method trains: segments, and in which order. Blocks below the lowest segment stay as they are.

    keep_bytes: outputs of the blocks below a segment are kept where they fit this bound, else a feednet computes them.
    record: segments whose outputs are recorded while they learn, for those above to learn from in the same order (§6.2.2).
    store: where recordings lie. full_disk: whether a training whose recording a disk does not take any longer stops there, or
        goes on with the blocks below as a feednet.
    keep_on: where outputs lie that do not fit it: in "memory" none, on "disk" all for which there is room when the run begins,
        by "auto" those of them that are reckoned to take less time so than a feednet (`costs.on_disk`). ``full_disk`` says what
        becomes of it where there is no room after all.
    order: each segment's turns come to the epochs of its plan; by default from the bottom up, one turn each.
    choose: see `selection.Best`.
    patience: end a segment's turn after so many epochs without a better validation score, with its last weights (ours); only
        where each segment has a single turn.
    feed_parts: a batch goes through the blocks below in so many parts, one after another, so that less is alive at once.
    growth: ends the order early; only where each segment has a single turn, from the bottom up, and ``choose`` is "validation".
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
    record: frozenset[int] = frozenset()
    store: Where = "device"
    full_disk: Literal["stop", "feed"] = "stop"
    feed_parts: int = 1
    growth: Growth = field(default_factory=Growth)
    offload: Place | None = None
    untrained: Untrained = "eval"
    keep_on: KeepOn = "memory"

    def __post_init__(self) -> None:
        if not self.order:
            object.__setattr__(self, "order", tuple(bottom_up([plan.epochs for plan in self.segments])))
        for turn in self.order:
            self._check(turn)
        for i, (plan, found) in enumerate(zip(self.segments, self.behind(len(self.order)), strict=True)):
            if plan.epochs != found:
                raise ValueError(f"segment {i} is to learn for {plan.epochs} epochs, its turns come to {found}")
        if self.patience is not None and (self.returns or any(turn.above for turn in self.order)):
            raise ValueError("patience ends a segment's only turn, and here segments have several, or share one")
        one_by_one = [list(turn.segments) for turn in self.order] == [[i] for i in range(len(self.segments))]
        if self.growth and not (one_by_one and self.choose == "validation"):
            raise ValueError("growth is of segments from the bottom up, in a single turn each, of which validation chooses")

    def _check(self, turn: Turn) -> None:
        if turn.epochs < 1:
            raise ValueError(f"a turn of segment {turn.segment} has {turn.epochs} epochs: it needs one or more")
        for segment in turn.segments:
            if not 0 <= segment < len(self.segments):
                raise ValueError(f"the order names segment {segment}, there are 0 to {len(self.segments) - 1}")
        for below, above in pairwise(turn.segments):
            if self.segments[below].stop != self.segments[above].start:
                raise ValueError(f"segments {below} and {above} learn at once: the one is to begin where the other ends")

    def behind(self, place: int) -> list[int]:
        """Of each segment the epochs that lie behind when the turn at this place begins, as the order has them."""
        epochs = [0] * len(self.segments)
        for turn in self.order[:place]:
            for segment in turn.segments:
                epochs[segment] += turn.epochs
        return epochs

    def place_of(self, segment: int, epoch: int, before: int) -> int:
        """Where in the order a segment has its epoch of this number. Raises ValueError where it is not before this place."""
        for place, turn in enumerate(self.order[:before]):
            if segment in turn.segments and 0 <= epoch - self.behind(place)[segment] < turn.epochs:
                return place
        raise ValueError("no such epoch behind")

    @cached_property
    def last_turns(self) -> list[int]:
        """Of each segment the place of its last turn in the order."""
        return [places[-1] for places in self._places]

    @cached_property
    def _places(self) -> list[list[int]]:
        """Of each segment the places of its turns: gone through once, for all segments ask, and there may be thousands."""
        places: list[list[int]] = [[] for _ in self.segments]
        for place, turn in enumerate(self.order):
            for segment in turn.segments:
                places[segment].append(place)
        return places

    def epochs_before(self, place: int) -> int:
        """Passes through the data that lie behind when the turn at this place begins."""
        return sum(turn.epochs for turn in self.order[:place])

    def turns(self, segment: int) -> tuple[tuple[int, int], ...]:
        """(place in the order, epochs) of each of a segment's turns."""
        return tuple((place, self.order[place].epochs) for place in self._places[segment])

    def team(self, segment: int) -> range:
        """Who learns at once with a segment, itself among them, in its first turn."""
        return self.order[self._places[segment][0]].segments

    def bases(self, segment: int) -> list[int]:
        """The recorded segments below one, from the highest, from which it learns, down: each learns from the next."""
        start = self.segments[segment].start
        return [one for one in sorted(self.record, reverse=True) if one < segment and self.segments[one].stop <= start]

    @property
    def replays(self) -> list[int]:
        """Segments that learn from a recording."""
        return [segment for segment in range(len(self.segments)) if self.record and self.bases(segment)]

    def yields(self, segment: int) -> bool:
        """Whether somebody takes what its blocks put out while it learns."""
        return segment in self.record or any(segment < self.order[place].segments[-1] for place in self._places[segment])

    @property
    def overlaps(self) -> bool:
        """Whether two segments have a block in common."""
        return any(above.start < below.stop for below, above in pairwise(self.segments))

    @property
    def returns(self) -> bool:
        """Whether some segment's turn comes again, and its learner waits for it."""
        return len(self.segments) < sum(len(turn.segments) for turn in self.order)

    @property
    def climbs(self) -> bool:
        """Whether after a turn comes the segment above, or the first: then features are made from those below."""
        return all(then.segment in (turn.segments[-1] + 1, 0) for turn, then in pairwise(self.order))
