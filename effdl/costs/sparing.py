"""Which blocks of partitions that learn at once are recomputed, so that a step stays within a memory budget (thesis §6.8.3)."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

from effdl.archs.chain import BlockChain
from effdl.costs.budget import TOLERANCE, full_step, refusal
from effdl.costs.cut import Peaks, Span, multiply_adds
from effdl.costs.outline import on_fakes
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.costs.segments import segment_costs
from effdl.datasets.problem import Problem, cut
from effdl.errors import ConfigError
from effdl.training.engine import Engine
from effdl.training.handle import RunHandle
from effdl.training.segments import SegmentPlan, Training

Positions = tuple[int, ...]  # of a partition's recomputed blocks, from 0, rising


@dataclass(frozen=True)
class Sparing:
    """A search for blocks to recompute.

    budget: the share of full backprop's step, in (0, 1], that no partition's step, with the weights and optimizers of all
    beside it, may pass by more than `TOLERANCE`. spans: the blocks of each partition. plan: (partition, what is recomputed) ->
    its plan. training: plans -> the whole.

    A partition that misses it recomputes one block more until it does not, those first that hold most for a multiply-add; then
    those are left out again that it can do without.
    """

    budget: float
    spans: Sequence[Span]
    plan: Callable[[int, Positions], SegmentPlan]
    training: Callable[[list[SegmentPlan]], Training]

    def choose(self, problem: Problem, chain: BlockChain, run: RunHandle) -> Training:
        """The training within the budget, the same on all ranks, and again in a run that goes on; noted, with the bytes of full
        backprop's step, as segment/recomputed, blocks from 1, and memory/backprop_peak_bytes.

        Raises:
            ConfigError: some partition misses it whatever is recomputed; with the least that can be met, and who needs it.
        """

        def found(problem: Problem, chain: BlockChain) -> tuple[list[Positions], int]:
            return _Tries(self, problem, chain, run).chosen()

        chosen, full = run.ranks.agree(lambda: on_fakes(found, problem, chain, as_stored=True))
        recomputed = [[start + at + 1 for at in of] for (start, _), of in zip(self.spans, chosen, strict=True)]
        run.note({"segment/recomputed": recomputed, "memory/backprop_peak_bytes": full})
        return self.of(chosen)

    def of(self, chosen: Sequence[Positions]) -> Training:
        """The training in which these are recomputed."""
        return self.training([self.plan(i, positions) for i, positions in enumerate(chosen)])


class _Size:
    """Steps on a problem's first batch.

    ``full``: bytes of full backprop's.
    """

    def __init__(self, search: Sparing, problem: Problem, chain: BlockChain, run: RunHandle) -> None:
        plain: list[Positions] = [() for _ in search.spans]
        self._search, self._engine = search, Engine(search.of(plain), problem, chain, run)
        batch, parts = run.ranks.share(next(problem.train(0))), self._engine.training.feed_parts
        self.full = full_step(self._engine, batch)
        prefix = Prefix(batch, chain.input, fake=problem.is_outline, autocast=run.hardware.autocast, parts=parts)
        self._prefixes = list[Prefix]()
        for start, stop in search.spans:
            self._prefixes.append(prefix.as_it_is())
            prefix.climb(*chain[start:stop])
        costs = segment_costs(self._engine)
        self._beside = [cost.memory.peak - self._own(i, ()) for i, cost in enumerate(costs)]

    def share(self, i: int, recomputed: Positions) -> float:
        """What a partition's step takes, with what lies beside it, over full backprop's."""
        return (self._own(i, recomputed) + self._beside[i]) / self.full

    def _own(self, i: int, recomputed: Positions) -> int:
        """Without what is the same whatever is recomputed: weights and optimizers of the others."""
        learner = self._engine.making.learner_of(self._search.plan(i, recomputed), i)
        learner.rule.yields = self._engine.training.yields(i)
        rehearsal = Rehearsal(learner, self._prefixes[i])
        return (rehearsal.memory() if i == 0 else rehearsal.step().memory).peak


class _Tries:
    """One search, on whatever tensors a problem and a chain have."""

    def __init__(self, search: Sparing, problem: Problem, chain: BlockChain, run: RunHandle) -> None:
        self._search, self._problem, self._chain, self._run = search, problem, chain, run
        self._limit = search.budget + TOLERANCE
        self._sizes = [_Size(search, one, chain, run) for one in (problem, *_with_a_sample_more(problem))]

    def chosen(self) -> tuple[list[Positions], int]:
        """Of each partition what is recomputed; and the bytes of full backprop's step."""
        partitions, full = range(len(self._search.spans)), self._sizes[0].full
        missed = [i for i in partitions if self._share(i, []) > self._limit]
        chosen: list[Positions] = [() for _ in partitions]
        least = dict[int, float]()
        if missed:
            costs = multiply_adds(self._chain, self._problem)
            orders = self._orders(costs)
            for i in missed:
                chosen[i], share = self._enough(i, orders[i], costs)
                if share > self._limit:
                    least[i] = share
        if least:
            raise ConfigError(self._refusal(least))
        return chosen, full

    def _enough(self, i: int, order: Sequence[int], costs: Sequence[int]) -> tuple[Positions, float]:
        """What is recomputed of a partition, and the share that it takes; the least of all tries where it does not do.

        Blocks that later ones make up for are left out again, those of most multiply-adds first.
        """
        recomputed, least = list[int](), float("inf")
        for at in order:
            recomputed.append(at)
            least = min(least, self._share(i, recomputed))
            if least <= self._limit:
                break
        else:
            return (), least
        start = self._search.spans[i][0]
        for at in sorted(recomputed, key=lambda at: costs[start + at], reverse=True):
            fewer = [one for one in recomputed if one != at]
            if self._share(i, fewer) <= self._limit:
                recomputed = fewer
        return tuple(sorted(recomputed)), self._share(i, recomputed)

    def _share(self, i: int, recomputed: Sequence[int]) -> float:
        """The largest over all sizes of a batch."""
        return max(size.share(i, tuple(sorted(recomputed))) for size in self._sizes)

    def _orders(self, costs: Sequence[int]) -> list[list[int]]:
        """Of each partition its blocks, in the order in which they are chosen; the last one, whose backward pass comes at once,
        after all others. costs: multiply-adds of each block."""
        search = self._search

        def plan(start: int, stop: int) -> SegmentPlan:
            return replace(search.plan(0, ()), start=start, stop=stop)

        held = Peaks(plan, self._problem, self._chain, self._run).held
        worth = [size / max(1, count) for size, count in zip(held, costs, strict=True)]
        orders = [sorted(range(start, stop - 1), key=worth.__getitem__, reverse=True) for start, stop in search.spans]
        return [[at - start for at in (*order, stop - 1)] for order, (start, stop) in zip(orders, search.spans, strict=True)]

    def _refusal(self, missed: dict[int, float]) -> str:
        holder = max(missed, key=missed.__getitem__)
        start, stop = self._search.spans[holder]
        blocks = f"block {stop}" if stop == start + 1 else f"blocks {start + 1} to {stop}"
        return refusal(self._search.budget, f"partition {holder + 1} of those that learn at once ({blocks})", missed[holder])


def _with_a_sample_more(problem: Problem) -> list[Problem]:
    """The problem whose first batch is as large as this one's last, where that has a sample more than others."""
    if max(cut(problem.num_train, problem.batch_size)) == len(next(problem.train(0))):
        return []
    larger = copy(problem)
    larger.batch_size += 1
    return [larger]
