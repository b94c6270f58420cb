"""Decision blocks for a memory budget (thesis §6.2.2, §6.7): the largest with which each segment's step stays within it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from math import ceil
from typing import Any, NamedTuple

import torch

from effdl.archs.chain import BlockChain
from effdl.costs.outline import on_fakes
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.batch import Batch, concatenate
from effdl.datasets.problem import Problem, cut
from effdl.errors import ConfigError
from effdl.training.decision import DownConv
from effdl.training.decision_rule import DecisionRule
from effdl.training.engine import Engine
from effdl.training.handle import RunHandle
from effdl.training.recompute import Recompute
from effdl.training.segments import SegmentPlan, Training

TOLERANCE = 0.005  # §6.7's 30 ± 0.5%
MOST_CONVS = 4  # of table 6.3's "Max. DC", where nothing else is said
STEP = 8  # channels are multiples of it
FEED_PARTS = 4
LEVELS: tuple[Recompute, ...] = (False, "block", "parts", "channels")  # each takes more time than the one before


class Choice(NamedTuple):
    """How a segment is trained: under which decision block, and what of its blocks is recomputed."""

    decision: DownConv
    checkpoint: Recompute

    def to_json(self, weights: int) -> dict[str, Any]:
        """weights: how many its decision block has."""
        return {"decision": asdict(self.decision), "weights": weights, "checkpoint": self.checkpoint or None}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Choice":
        return cls(DownConv(**told["decision"]), told["checkpoint"] or False)


Found = tuple[list[Choice], dict[str, Any]]  # and what is noted of them


@dataclass(frozen=True)
class Search:
    """A search for decision blocks.

    budget: the share of full backprop's step, in (0, 1], that no segment's step may pass by more than `TOLERANCE`, feednet
    included. most: the largest decision block. plan: (segment, how it is trained) -> its plan. training: (plans, feed_parts) ->
    the whole, see `Training`. levels: what of the segment's blocks may be recomputed, the first that does being taken.

    Of all decision blocks that fit, the one with the most weights is taken: of up to so many convolutions as ``most`` has, each
    with 8, 16, ... channels up to the segment's own number, or that of ``most``, with and without a bottleneck.
    """

    budget: float
    most: DownConv
    plan: Callable[[int, Choice], SegmentPlan]
    training: Callable[[list[SegmentPlan], int], Training]
    segments: int
    levels: Sequence[Recompute] = LEVELS
    feed_parts: int = FEED_PARTS

    def choose(self, problem: Problem, chain: BlockChain, run: RunHandle) -> list[Choice]:
        """Of each segment how it is trained, the same on all ranks, and again in a run that goes on; noted, with the bytes of
        full backprop's step, as segment/choices and memory/backprop_peak_bytes.

        Raises:
            ConfigError: some segment does not fit; with the least budget that can be met, and the block that needs it.
        """

        def found(problem: Problem, chain: BlockChain) -> Found:
            return _Walk(self, problem, chain, run).choices()

        chosen, notes = run.ranks.agree(lambda: on_fakes(found, problem, chain, as_stored=True))
        run.note(notes)
        return chosen


@dataclass
class _Size:
    """Steps on batches of one size. limit: the bytes that a step may take."""

    prefix: Prefix
    full: int
    limit: int


@dataclass
class _Walk:
    """One search, from the bottom up, on whatever tensors a problem and a chain have."""

    search: Search
    problem: Problem
    chain: BlockChain
    run: RunHandle
    plans: list[SegmentPlan] = field(init=False)

    def __post_init__(self) -> None:
        search = self.search
        self.plans = [search.plan(i, Choice(search.most, search.levels[0])) for i in range(search.segments)]
        self.engine = Engine(search.training(self.plans, search.feed_parts), self.problem, self.chain, self.run)

    def choices(self) -> Found:
        sizes = [self._size(batch) for batch in self._batches()]
        found, missed = list[Choice](), dict[int, float]()
        whole = range(len(self.plans))
        watched = whole if self.problem.is_outline else self.run.watch(whole, len(whole), "searching decision blocks")
        for i in watched:
            choice, least = self._segment(i, sizes)
            if choice is None:
                missed[i] = least
            else:
                found.append(choice)
            above = self.plans[min(i + 1, len(self.plans) - 1)].start  # which may be within segment i
            for size in sizes:
                size.prefix.climb(*self.chain[self.plans[i].start : above])
                if i in self.engine.training.record:  # what is above is fed from there
                    size.prefix = size.prefix.above()
        if missed:
            raise ConfigError(self._refusal(missed))
        weights = [one.decision.weights(self._shape(i), self.problem.outputs) for i, one in enumerate(found)]
        told = [one.to_json(weight) for one, weight in zip(found, weights, strict=True)]
        return found, {"segment/choices": told, "memory/backprop_peak_bytes": sizes[0].full}

    def _shape(self, i: int) -> tuple[int, ...]:
        """Of what a segment puts out for a sample."""
        return self.engine.making.shapes[self.plans[i].stop - 1]

    def _batches(self) -> Iterator[Batch]:
        """The batches on which steps are counted: the first, and the last where a sample more makes it the largest."""
        first, sizes = next(self.problem.train(0)), cut(self.problem.num_train, self.problem.batch_size)
        yield self.run.ranks.share(first)
        if max(sizes) > len(first):
            yield self.run.ranks.share(concatenate([first, first.take(torch.arange(1, device=first.y.device))]))

    def _size(self, batch: Batch) -> _Size:
        full, fake = full_step(self.engine, batch), self.problem.is_outline
        autocast = self.run.hardware.autocast
        prefix = Prefix(batch, self.chain.input, fake=fake, autocast=autocast, parts=self.search.feed_parts)
        return _Size(prefix, full, int((self.search.budget + TOLERANCE) * full))

    def _segment(self, i: int, sizes: Sequence[_Size]) -> tuple[Choice | None, float]:
        """How a segment is trained; else None, and the least share of full backprop's that its step takes."""
        shape, outputs = self._shape(i), self.problem.outputs
        known, least = families(self.search.most, shape), lightest(self.search.most, shape)

        @cache
        def over(choice: Choice) -> float:
            """By how much it passes the limit, at most: a share, 1 and less of what fits."""
            self.plans[i] = self.search.plan(i, choice)
            learner = self.engine.making.learner(i)
            return max(Rehearsal(learner, size.prefix).memory().peak / size.limit for size in sizes)

        for level in self.search.levels:
            fits = lambda decision, level=level: over(Choice(decision, level)) <= 1  # noqa: E731
            if not any(map(fits, [known[0][-1], *least])):
                continue
            decision = largest(known, fits, lambda decision: decision.weights(shape, outputs))
            assert decision is not None
            return Choice(decision, level), 0.0
        share = min(over(Choice(decision, level)) for decision in least for level in self.search.levels)
        return None, share * max(size.limit / size.full for size in sizes)

    def _refusal(self, missed: dict[int, float]) -> str:
        holder = max(missed, key=missed.__getitem__)
        plan, names = self.plans[holder], self.chain.names
        blocks = names[plan.start] if plan.stop == plan.start + 1 else f"{names[plan.start]} to {names[plan.stop - 1]}"
        most = f", the most of {len(missed)} segments that miss it" if len(missed) > 1 else ""
        return refusal(self.search.budget, f"{blocks} (segment {holder + 1})", missed[holder], most)


def refusal(budget: float, holder: str, share: float, most: str = "") -> str:
    """Why a budget cannot be met: who takes this share at the least, and what could be met instead."""
    least = ceil(1000 * (share - TOLERANCE)) / 1000
    way = (
        f"method.memory_budget={least:.3f} is the least that can be met"
        if least <= 1
        else "no budget can be met: a smaller dataset.batch_size, or another arch"
    )
    misses = f"method.memory_budget={budget:g} cannot be met: {holder} takes {share:.1%}"
    return f"{misses} of full backprop's step at the least{most}; {way}"


def full_step(engine: Engine, batch: Batch) -> int:
    """Bytes at the peak of full backprop's step on a batch, under the network's own head."""
    chain, problem = engine.chain, engine.problem
    whole = SegmentPlan(0, len(chain), 1, lambda blocks, shape: DecisionRule(blocks, chain.head, problem.objective))
    prefix = Prefix(batch, chain.input, fake=problem.is_outline, autocast=engine.run.hardware.autocast)
    return Rehearsal(engine.making.learner_of(whole), prefix).memory().peak


def families(most: DownConv, feature_shape: tuple[int, ...]) -> list[list[DownConv]]:
    """All decision blocks to choose from, those with the most convolutions first, each family from narrow to wide."""
    count = most.convolved(feature_shape)
    found = []
    for convs in range(count, 0, -1):
        widest = most.channels or feature_shape[0]
        widths = sorted({*range(STEP, widest, STEP), widest})
        for bottleneck in (False, True):
            narrower = [width for width in widths if not bottleneck or 2 * width <= feature_shape[0]]
            family = [replace(most, convs=convs, channels=width, bottleneck=bottleneck) for width in narrower]
            found += [family] if family else []
    return [*found, [replace(most, convs=0, channels=0, bottleneck=False)]]


def largest(
    families: Sequence[Sequence[DownConv]], fits: Callable[[DownConv], bool], weights: Callable[[DownConv], int]
) -> DownConv | None:
    """The one with the most weights of those that fit; within a family all up to some width do, or none."""
    best, heaviest = None, -1
    for family in families:
        heavier = [one for one in family if weights(one) > heaviest]
        found = _widest(heavier, fits, widest_first=best is None)
        if found is not None:
            best, heaviest = found, weights(found)
    return best


def _widest(family: Sequence[DownConv], fits: Callable[[DownConv], bool], widest_first: bool) -> DownConv | None:
    """The last one that fits, by halving. widest_first: whether the last is likely to."""
    low, high = -1, len(family)  # the widest known to fit, the narrowest known not to
    for place in (high - 1, 0) if widest_first else (0, high - 1):
        if low < place < high:
            low, high = (place, high) if fits(family[place]) else (low, place)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(family[middle]) else (low, middle)
    return family[low] if low >= 0 else None


def lightest(most: DownConv, feature_shape: tuple[int, ...]) -> list[DownConv]:
    """Of all decision blocks to choose from those of which one takes the least memory: more convolutions take more."""
    return [family[0] for family in families(replace(most, convs=min(most.convs, 1)), feature_shape)]
