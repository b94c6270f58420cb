"""What each segment of a training will cost: counted bytes, and seconds measured on one batch."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain as chained

import torch
from torch import Tensor, nn

from effdl.costs.offloaded import offloaded
from effdl.costs.rehearsal import PIECE_BUDGET_S, Prefix, Rehearsal, fastest
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.training.engine import Engine
from effdl.training.feednet import is_copied
from effdl.training.handle import SampleFilter, SegmentCost
from effdl.training.learner import Learner
from effdl.training.sources import prepared


def segment_costs(engine: Engine) -> list[SegmentCost]:
    """What each segment costs, by a few steps on copies; on fake tensors, in no time, where only a problem's outline is known.

    Weights of feednets lie beside those of their blocks.
    """
    plans, problem, chain, run = engine.training.segments, engine.problem, engine.chain, engine.run
    learners: Iterable[Learner] = map(engine.learner, range(len(plans)))
    if not problem.is_outline:
        learners = run.watch(learners, len(plans), "trying what each layer will take")
    costs, waiting, samples = list[SegmentCost](), _waiting(run.filter, problem), problem.num_train + problem.num_val
    learners = iter(learners)
    learners = chained([first := next(learners)], learners)
    reading_s, batch, prepares = *_first_batch(engine, first), first.rule.prepares  # as all others' do
    del first
    kept_bytes, stored_s, copied, feednets, own = 0, 0.0, 0, 0, list[int]()
    _take(idle := _weights(chain), chain.input)
    prefix = Prefix(batch, chain.input, fake=problem.is_outline, autocast=run.hardware.autocast)
    for plan, learner in zip(plans, learners, strict=True):
        rehearsal, feed_s = Rehearsal(learner, prefix), reading_s + prefix.seconds
        _take(idle, *chain[plan.start : plan.stop])
        fits = samples * prefix.sample_bytes + kept_bytes <= engine.training.keep_bytes
        kept = fits and not problem.varies and not prepares
        kept_bytes, copied = (samples * prefix.sample_bytes, 0) if kept else (kept_bytes, copied)
        costs.append(
            SegmentCost(
                epochs=plan.epochs,
                batches=problem.steps,
                steps=engine.steps,
                fed_steps=problem.steps if waiting else engine.steps,
                val_steps=-(-problem.num_val // problem.batch_size),
                feed_s=feed_s,
                stored_s=min(stored_s, feed_s),
                step_s=0.0 if problem.is_outline else rehearsal.seconds(),
                kept=kept,
                memory=rehearsal.memory(),
                idle_bytes=copied + sum(idle.values()) - (_bytes(chain.head) if _learns(learner, chain.head) else 0),
                kept_bytes=kept_bytes,
                filter_bytes=waiting * max(prefix.sample_bytes, batch.x[0].nbytes),
                feature_bytes=prefix.sample_bytes,
                below_bytes=prefix.weight_bytes,
                spared_bytes=feednets - copied,
                turns=engine.training.turns(len(costs)),
            )
        )
        own.append(_bytes(learner.rule) - _bytes(learner.rule.blocks))
        stored_s = feed_s if kept and engine.training.climbs else stored_s
        if plan is not plans[-1]:
            prefix.climb(*chain[plan.start : plan.stop], feeding=not kept)
        engine.offloaded.rest()
        copied, feednets = (count + _copied(chain[plan.start : plan.stop]) for count in (copied, feednets))
    return _with_what_waits(costs, own, engine)


def _first_batch(engine: Engine, learner: Learner) -> tuple[float, Batch]:
    """The seconds that reading a batch takes, and this rank's part of one as the learner's rule wants it."""
    problem = engine.problem
    whole = next(problem.train(0))
    reading_s, batch = _reading_seconds(problem, whole.x), engine.run.ranks.share(whole)
    if learner.rule.prepares:
        batch = next(prepared([batch], learner.rule.prepare, problem.seed, 0))
    return reading_s, batch


def _with_what_waits(costs: list[SegmentCost], own: list[int], engine: Engine) -> list[SegmentCost]:
    """Beside each segment lie the learners whose turn comes again, and a copy of the best network where blocks change later.

    own: bytes of each rule without its blocks.
    """
    training = engine.training
    learners = [size + cost.memory.by_kind["optimizer"] for size, cost in zip(own, costs, strict=True)]
    if not training.returns:
        learners = [0] * len(costs)
    costs = [replace(cost, state_bytes=learner) for cost, learner in zip(costs, learners, strict=True)]
    if engine.offload.moves:
        return offloaded(costs, engine)
    best = _bytes(engine.chain.blocks) + max(own) if training.returns or not training.climbs else 0
    return [
        replace(cost, idle_bytes=cost.idle_bytes + sum(learners) - learner + best)
        for cost, learner in zip(costs, learners, strict=True)
    ]


def _reading_seconds(problem: Problem, x: Tensor) -> float:
    """Of one batch like this with its augmentation, which may have been done once already."""
    reading_s = problem.train_split.reading_seconds(problem.batch_size)
    if problem.augment is None or problem.is_outline:
        return reading_s
    change, generator = problem.augment, torch.Generator()
    return reading_s + fastest(lambda: change(x, generator), x.device, PIECE_BUDGET_S)


def _copied(blocks: Iterable[nn.Module]) -> int:
    """Bytes of those blocks that a feednet holds a copy of."""
    return sum(_bytes(block) for block in blocks if is_copied(block))


def _bytes(module: nn.Module) -> int:
    return sum(_weights(module).values())


def _weights(module: nn.Module) -> dict[int, int]:
    """Bytes of each weight and buffer."""
    return {id(t): t.nbytes for t in (*module.parameters(), *module.buffers())}


def _take(weights: dict[int, int], *modules: nn.Module) -> None:
    """Leave out those of these modules."""
    for key in (key for module in modules for key in _weights(module)):
        weights.pop(key, None)


def _waiting(filter: SampleFilter | None, problem: Problem) -> int:
    """Samples of a chunk that a filter has chosen and that wait for their step; none where it chooses before they are read."""
    if filter is None or (filter.sees == "index" and problem.augment is None):
        return 0
    return round(filter.expected_share * min(filter.chunk, problem.num_train)) + problem.batch_size


def _learns(learner: Learner, head: nn.Module) -> bool:
    """Whether a segment learns with the chain's own head."""
    return any(module is head for module in learner.rule.modules())
