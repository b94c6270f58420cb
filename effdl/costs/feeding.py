"""What feeding segments takes, turn by turn: the rules by which features are kept, played through on stand-ins."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from effdl.training.features import Lift, Stack, Through
from effdl.training.handle import SegmentCost


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """The modules between the places where two segments begin, as one.

    seconds: for a batch. nbytes: of what they put out for a sample, in whose place a piece itself is passed on. copied: bytes
    of what a feednet of them copies.
    """

    seconds: float
    nbytes: int
    copied: int


class Access(NamedTuple):
    """Seconds that a batch of features on disk takes."""

    write_s: float
    read_s: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """A split, of which only the size counts, and where it lies on disk what a batch takes there."""

    count: int
    kept: Any = None
    access: Access | None = None

    def __len__(self) -> int:
        return self.count

    def first(self) -> Any:
        return self.kept


class Feeding:
    """`Through` without data: whatever it keeps, drops and calls again, it does for the reasons that hold in a run.

    Args:
        costs: what is said of the modules below each segment, and its turns.
        samples: of each split that is kept with the others or not at all.
        limit_bytes: see `Through`.
        on_disk: where segments begin whose features may lie there, with what they take; `lay` adds more.
    """

    def __init__(
        self,
        costs: Sequence[SegmentCost],
        samples: Sequence[int],
        limit_bytes: int,
        on_disk: Mapping[int, Access] | None = None,
    ) -> None:
        self._costs, self._limit, at = costs, limit_bytes, {cost.start: cost for cost in reversed(costs)}
        self._access, self._heights = dict[int, Access](), set[int]()
        self._starts = sorted(at)
        self._pieces: list[Any] = []
        feed_s, copied = 0.0, 0
        for cost in (at[start] for start in self._starts):
            self._pieces.append(Piece(max(0.0, cost.feed_s - feed_s), cost.feature_bytes, cost.feednet_bytes - copied))
            feed_s, copied = cost.feed_s, cost.feednet_bytes
        self._ages = [0] * len(self._pieces)
        self.making_bytes = 0  # of features and of feednets' copies, the most while the last turn's were made
        self.through: Through[Any] = Through(
            [_Rows(n) for n in samples], limit_bytes, _passed, _kept, laid=self._laid, heights=self._heights
        )
        for start, access in (on_disk or {}).items():
            self.lay(start, access)

    def lay(self, start: int, access: Access) -> None:
        """Features below this block may lie on disk from now on."""
        height = self._starts.index(start) + 1
        self._heights.add(height)
        self._access[height] = access

    def look(self, segment: int) -> None:
        """From where the segment begins."""
        below = self.stack(self._costs[segment].start)
        assert below is not None
        self.through.look(below)

    def stack(self, start: int) -> Stack | None:
        """What lies below this block as it is now; None where no segment begins there."""
        if start not in self._starts:
            return None
        height = self._starts.index(start) + 1
        return Stack(tuple(self._pieces[:height]), tuple(self._ages[:height]))

    def begin(self, segment: int, made: bool = False) -> tuple[float, float]:
        """A turn begins: seconds that a batch takes to make features that are kept, and to be fed anew in each epoch.

        made: somebody has made its features on the way.
        """
        before = self.through.made
        self.look(segment)
        ready: list[Any] = self.through.ready
        old = self.through.kept_bytes + sum(piece.copied for piece in ready)
        lift = self.fed_s
        if made:
            features = [_kept(split, self.through.features) for split in self.through.splits]
            self.through.put([rows for rows, _ in features], sum(size for _, size in features))
        else:
            self.through.keep()
        if self.through.made == before:
            self.making_bytes = 0
            return 0.0, self.fed_s
        self.making_bytes = old + self.through.kept_bytes
        return lift + (self._laid_as.write_s if self._laid_as else 0.0), self.fed_s

    def learned(self, segment: int, epochs: int) -> None:
        """The segment has, and whatever its blocks put out is another thing now."""
        cost = self._costs[segment]
        for i, (below, start) in enumerate(zip(self._starts, self._starts[1:], strict=False), 1):
            if cost.start < start and below < cost.stop:
                self._ages[i] += epochs

    def ahead(self, segment: int) -> Stack | None:
        """What lies below the segment that begins where this one ends, if its features fit beside what is kept."""
        found = self.stack(self._costs[segment].stop)
        top: Any = found.modules[-1] if found is not None else None
        fits = top is not None and sum(map(len, self.through.splits)) * top.nbytes + self.through.kept_bytes <= self._limit
        return found if fits else None

    @property
    def samples(self) -> int:
        """Of all its splits."""
        return sum(map(len, self.through.splits))

    @property
    def fed_s(self) -> float:
        """Seconds that a batch takes from what is kept up to where the segment begins."""
        reading_s = self._laid_as.read_s if self._laid_as else 0.0
        return float(sum(piece.seconds for piece in self._called)) + reading_s

    @property
    def laid_bytes(self) -> int:
        """Of the features that lie on disk."""
        return sum(rows.count * rows.kept.nbytes for rows in self.through.splits) if self._laid_as else 0

    @property
    def _laid_as(self) -> Access | None:
        """What features take that lie on disk now; None where they lie in memory, or there are none."""
        found: Access | None = self.through.splits[0].access
        return found

    @property
    def copied_bytes(self) -> int:
        """Of the feednets that do it."""
        return int(sum(piece.copied for piece in self._called))

    def _laid(self, rows: _Rows, features: Lift) -> tuple[_Rows, int]:
        return _Rows(rows.count, features(rows.first()), self._access[self.through.height]), 0

    @property
    def _called(self) -> list[Any]:
        return list(self.through.pending)


class Sources:
    """The sources of a run, turn by turn, as `Engine` changes them: of all splits, and above a recording, which gives the
    training batches, of the validation set alone (§6.2.2).

    Args:
        costs, samples, limit_bytes, on_disk: see `Feeding`; the validation set is the last split.
        replays: segments that learn from a recording.
        val_limit_bytes: of what may be kept above one, where the training set's may be such as nothing is kept of.
    """

    def __init__(
        self,
        costs: Sequence[SegmentCost],
        samples: Sequence[int],
        limit_bytes: int,
        on_disk: Mapping[int, Access] | None = None,
        replays: Collection[int] = (),
        val_limit_bytes: int = -1,
    ) -> None:
        self._costs, self._replays, self._access = costs, replays, dict(on_disk or {})
        self._val = samples[-1:], val_limit_bytes if samples[-1] else -1
        self._whole = self._active = Feeding(costs, samples, limit_bytes, on_disk)

    def of(self, segment: int) -> Feeding:
        """Whose a turn is that begins with this segment; what another one kept is dropped."""
        if segment not in self._replays:
            self._active = self._whole
        elif self._active is self._whole:
            self._active = Feeding(self._costs, *self._val, self._access)
            self._whole.through.forget()
        return self._active

    def lay(self, start: int, access: Access) -> None:
        """As `Feeding.lay`, of the source of this turn and all that come."""
        self._access[start] = access
        self._active.lay(start, access)

    def learned(self, segment: int, epochs: int) -> None:
        """As `Feeding.learned`."""
        for feeding in {self._whole, self._active}:
            feeding.learned(segment, epochs)


def turns(costs: Sequence[SegmentCost]) -> list[tuple[list[int], int]]:
    """(segments that learn at once, epochs) in the order of their turns."""
    found: dict[int, tuple[list[int], int]] = {}
    for segment, cost in enumerate(costs):
        for place, epochs in cost.turns:
            found.setdefault(place, ([], epochs))[0].append(segment)
    return [found[place] for place in sorted(found)]


def _passed(pieces: Iterable[Any], x: Any) -> Any:
    for x in pieces:  # noqa: B007
        pass
    return x


def _kept(rows: _Rows, features: Lift) -> tuple[_Rows, int]:
    made = features(rows.first())
    return _Rows(rows.count, made), rows.count * made.nbytes
