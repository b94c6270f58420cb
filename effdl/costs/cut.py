"""Partitions of a chain that weigh alike: by multiply-adds of a forward pass, or by the memory of a training step (§6.8)."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.costs.outline import on_fakes
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.problem import Problem
from effdl.training.engine import Engine
from effdl.training.handle import RunHandle
from effdl.training.loop import switch_mode
from effdl.training.segments import SegmentPlan, Training

Span = tuple[int, int]
Weight = Callable[[int, int], float]  # of blocks [start, stop)
Recorded = Sequence[int] | Literal["all"]
FAR = float("inf")


def by_cost(parts: int, problem: Problem, chain: BlockChain) -> list[Span]:
    """Partitions of which the largest has as few multiply-adds as can be; parts ≤ blocks."""
    below = list(accumulate(multiply_adds(chain, problem), initial=0))

    def between(start: int, stop: int) -> float:
        return below[stop] - below[start]

    return balanced(len(chain), parts, between)


def multiply_adds(chain: BlockChain, problem: Problem) -> list[int]:
    """Of each block in a forward pass of one sample, as torch.utils.flop_counter counts them: convolutions, matrix products and
    attention."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports a compiler

    like, found = problem.train_split.first(), list[int]()
    x = torch.zeros(2, *problem.input_shape, dtype=like.dtype, device=next(chain.parameters()).device)
    restore = switch_mode(chain, False)
    try:
        with torch.no_grad():
            x = chain.input(x)
            for block in chain.blocks:
                with FlopCounterMode(display=False) as counter:
                    x = block(x)
                found.append(counter.get_total_flops() // (2 * len(x)))
    finally:
        restore()
    return found


def by_memory(
    parts: int,
    plan: Callable[[int, int], SegmentPlan],
    problem: Problem,
    chain: BlockChain,
    run: RunHandle,
    feed_parts: int = 1,
    of_batch: bool = False,
    recorded: Recorded = (),
) -> list[Span]:
    """Partitions of which the largest step peak, as plans and runs count it, is as small as can be; parts ≤ blocks.

    plan: of the segment with these blocks. feed_parts: as `Training` has it. of_batch: count what a batch makes on its way
    alone, activations and gradients: what partitions that learn at once on one device differ in, whose weights and optimizers
    lie there all the while. recorded: layers, from 1, at which a partition is to end, and that are recorded (§6.2.2), so that
    those above are fed from there; fewer than parts.
    """

    def least(problem: Problem, chain: BlockChain) -> list[Span]:
        peaks = Peaks(plan, problem, chain, run, feed_parts, of_batch, recorded)
        return balanced(len(chain), parts, peaks.count, peaks.bound)

    return on_fakes(least, problem, chain)


class Peaks:
    """Peaks of training steps of any consecutive blocks, counted one by one, and bounds below them from a single walk."""

    def __init__(
        self,
        plan: Callable[[int, int], SegmentPlan],
        problem: Problem,
        chain: BlockChain,
        run: RunHandle,
        feed_parts: int = 1,
        of_batch: bool = False,
        recorded: Recorded = (),
    ) -> None:
        self._plan, self._chain, self._of_batch = plan, chain, of_batch
        self._recorded = range(1, len(chain)) if recorded == "all" else recorded
        self._within = () if recorded == "all" else recorded
        self._engine = Engine(Training([plan(0, len(chain))], 0), problem, chain, run)
        self._prefixes = list(self._climbing(problem, run, feed_parts))
        self._walk()
        self.bound = cache(self._bound)

    def count(self, start: int, stop: int) -> float:
        """Bytes at the peak of a step of blocks [start, stop), their feednet included; or what a batch makes of them."""
        if self._cannot_be(start, stop):
            return FAR
        learner = self._engine.making.learner_of(self._plan(start, stop))
        learner.rule.yields = stop in self._recorded
        rehearsal = Rehearsal(learner, self._prefixes[start])
        if self._of_batch:
            step = rehearsal.step()
            return float(step.memory.peak - step.weights - step.optimizer)
        return float(rehearsal.memory().peak)

    @property
    def held(self) -> list[int]:
        """Of each block the bytes that it keeps for the backward pass."""
        return [after - before for before, after in pairwise(self._alive)]

    def _climbing(self, problem: Problem, run: RunHandle, parts: int) -> Iterator[Prefix]:
        batch = run.ranks.share(next(problem.train(0)))
        prefix = Prefix(batch, self._chain.input, fake=problem.is_outline, autocast=run.hardware.autocast, parts=parts)
        for i, block in enumerate(self._chain.blocks):
            prefix = prefix.above() if i in self._recorded else prefix
            yield prefix.as_it_is()
            prefix.climb(block)

    def _cannot_be(self, start: int, stop: int) -> bool:
        """Whether a layer at which partitions are to end lies within."""
        return any(start < layer < stop for layer in self._within)

    def _walk(self) -> None:
        """Of each block: what it holds for the backward pass, its weights, and what its optimizer keeps of them."""
        learner, first = self._prefixes[0].copy(self._engine.making.learner(0)), self._prefixes[0]
        rule, optimizer = learner.rule, learner.optimizer
        self._alive = [0]
        self._weights, self._learned, self._state = (list[dict[int, int]]() for _ in range(3))
        with first.mode:
            live, x = first.count(), first.fed()
            rule.train()
            with live, rule.hardware.autocast():
                for x in rule.activations(x):  # noqa: B007, B020
                    self._alive.append(live.live)
            x.float().sum().backward()
            optimizer.step()
        for block in rule.blocks:
            self._weights.append({id(t): t.nbytes for t in (*block.parameters(), *block.buffers())})
            self._learned.append({id(p): p.nbytes for p in block.parameters() if p.grad is not None})
            self._state.append({id(t): t.nbytes for p in block.parameters() for t in _kept_of(optimizer, p)})

    def _bound(self, start: int, stop: int) -> float:
        """At some moment this is alive: before the backward pass all that it needs, before the update all gradients."""
        if self._cannot_be(start, stop):
            return FAR
        weights, learned, state = (
            sum({key: size for part in parts[start:stop] for key, size in part.items()}.values())
            for parts in (self._weights, self._learned, self._state)
        )
        of_batch = max(self._alive[stop] - self._alive[start], learned)
        return of_batch if self._of_batch else self._prefixes[start].weight_bytes + weights + state + of_batch


def balanced(blocks: int, parts: int, weigh: Weight, bound: Weight | None = None) -> list[Span]:
    """Consecutive spans of which the heaviest is as light as can be, and of such the ones with the least sum of squares.

    Exact: spans are weighed until the best that is possible by bounds is known to be that good.

    Args:
        weigh: of blocks [start, stop), called as seldom as bounds allow.
        bound: what it is not below; itself by default.
    """
    known: dict[Span, float] = {}
    spans = [(a, b) for a in range(blocks) for b in range(a + 1, blocks + 1)]
    least = [(bound or weigh)(*span) for span in spans]
    # Whole numbers as they are, whose squares may be too large for others
    weights = np.full((blocks + 1, blocks + 1), FAR, dtype=object if all(type(w) is int for w in least) else float)
    weights[tuple(zip(*spans, strict=True))] = least

    def settled(most: float | None) -> list[Span]:
        while True:
            found = _best(parts, weights, most)
            if not (unknown := [span for span in found if span not in known]):
                return found
            for span in unknown:
                weights[span] = known[span] = weigh(*span)

    return settled(max(known[span] for span in settled(None)))


def _best(parts: int, weights: np.ndarray[Any, Any], most: float | None) -> list[Span]:
    """By dynamic programming: of least largest weight, or, of weights up to ``most``, with the least sum of squares.

    Where weights do not tell, the numbers of blocks do.

    Args:
        weights: (B + 1, B + 1), of blocks [row, column); `FAR` where that is none.
    """
    count = len(weights)
    places = np.arange(count)
    squares = (places[None] - places[:, None]) ** 2
    step = weights if most is None else np.where(weights > most, FAR, weights)
    step = step if most is None else step * step
    sofar, even = np.full(count, FAR, dtype=weights.dtype), np.zeros(count)  # of the best way to each place
    sofar[0], order, came = 0, places, list[np.ndarray[Any, Any]]()
    for part in range(1, parts + 1):
        before = sofar[order, None]
        ways = np.maximum(before, step[order]) if most is None else before + step[order]
        there, sofar = ways < FAR, ways.min(axis=0)
        evens = np.where(there & (ways == sofar), even[order, None] + squares[order], FAR)
        came.append(order[evens.argmin(axis=0)])
        even = evens.min(axis=0)
        order = np.lexsort((places, there.argmax(axis=0)))  # as they were reached: of equal ways the first is taken
        sofar[places > count - 1 - parts + part] = FAR  # the other parts are to have a block each
    found, stop = list[Span](), count - 1
    for way in reversed(came):
        found.append((int(way[stop]), stop))
        stop = int(way[stop])
    return found[::-1]


def _kept_of(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> list[Tensor]:
    return [t for t in optimizer.state[weight].values() if isinstance(t, Tensor)] if weight in optimizer.state else []
