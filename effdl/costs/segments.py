"""What each segment of a training will cost: counted bytes, and seconds measured on one batch."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain as chained
from typing import NamedTuple

import torch
from torch import Tensor, nn

from effdl.costs.offloaded import offloaded
from effdl.costs.rehearsal import PIECE_BUDGET_S, Prefix, Rehearsal, fastest
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.objectives.objective import at_least_float32
from effdl.training.engine import Engine
from effdl.training.feednet import is_copied
from effdl.training.handle import SampleFilter, SegmentCost
from effdl.training.learner import Learner
from effdl.training.segments import Training
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
    kept_bytes, stored_s, copied, feednets, own = 0, 0.0, 0, 0, list[Own]()
    _take(idle := _weights(chain), chain.input)
    prefix = Prefix(batch, chain.input, fake=problem.is_outline, autocast=run.hardware.autocast)
    for plan, learner in zip(plans, learners, strict=True):
        rehearsal, feed_s = Rehearsal(learner, prefix), reading_s + prefix.seconds
        _take(idle, *chain[plan.start : plan.stop])
        team = engine.training.team(len(costs))
        is_lowest, is_highest = len(costs) == team[0], len(costs) == team[-1]
        fits = is_lowest and samples * prefix.sample_bytes + kept_bytes <= engine.training.keep_bytes
        kept = fits and not problem.varies and not prepares
        kept_bytes, copied = (samples * prefix.sample_bytes, 0) if kept else (kept_bytes, copied)
        costs.append(
            SegmentCost(
                epochs=plan.epochs,
                batches=problem.steps,
                steps=engine.steps,
                fed_steps=0 if not is_lowest else problem.steps if waiting else engine.steps,
                val_steps=-(-problem.num_val // problem.batch_size),
                feed_s=feed_s,
                stored_s=min(stored_s, feed_s) if is_lowest else feed_s,
                step_s=0.0 if problem.is_outline else rehearsal.seconds(),
                kept=kept,
                memory=rehearsal.memory() if is_lowest else rehearsal.step()[0].plus(activation=_losses(prefix)),
                idle_bytes=copied + sum(idle.values()) - (_bytes(chain.head) if _learns(learner, chain.head) else 0),
                kept_bytes=kept_bytes,
                filter_bytes=waiting * max(prefix.sample_bytes, batch.x[0].nbytes),
                feature_bytes=prefix.sample_bytes,
                below_bytes=prefix.weight_bytes,
                spared_bytes=feednets - copied,
                turns=engine.training.turns(len(costs)),
            )
        )
        own.append(Own(_bytes(learner.rule.blocks), _bytes(learner.rule), rehearsal.step()[1]))
        stored_s = feed_s if kept and engine.training.climbs else stored_s
        if plan is not plans[-1]:
            prefix.climb(*chain[plan.start : plan.stop], feeding=not kept and is_highest)
        engine.offloaded.rest()
        if is_highest:
            below = chain[plans[team[0]].start : plan.stop]
            copied, feednets = (count + _copied(below) for count in (copied, feednets))
    return _with_what_waits(_with_the_team(costs, own, engine.training), own, engine)


def _first_batch(engine: Engine, learner: Learner) -> tuple[float, Batch]:
    """The seconds that reading a batch takes, and this rank's part of one as the learner's rule wants it."""
    problem = engine.problem
    whole = next(problem.train(0))
    reading_s, batch = _reading_seconds(problem, whole.x), engine.run.ranks.share(whole)
    if learner.rule.prepares:
        batch = next(prepared([batch], learner.rule.prepare, problem.seed, 0))
    return reading_s, batch


class Own(NamedTuple):
    """Bytes of a segment's own: of its blocks, of all weights of its rule, these among them, and of its optimizer's state."""

    blocks: int
    rule: int
    optimizer: int


def _losses(prefix: Prefix) -> int:
    """Bytes of the losses that come with a batch from the segment below."""
    return len(prefix.x) * at_least_float32(prefix.x[:0]).element_size()


def _with_the_team(costs: list[SegmentCost], own: list[Own], training: Training) -> list[SegmentCost]:
    """The step of a segment that learns at once with others has their weights and optimizers beside it.

    What feeds it is what feeds the lowest of them.
    """
    joined = list(costs)
    for team in {training.team(segment) for segment in range(len(costs))}:
        others = [segment for segment in team if len(team) > 1]
        for segment in others:
            cost, below = costs[segment], costs[team[0]].below_bytes if segment > team[0] else 0
            rules = sum(own[other].rule for other in others if other != segment)
            states = sum(own[other].optimizer for other in others if other != segment)
            above = sum(own[other].blocks for other in others if other > segment)  # which lay idle beside it
            joined[segment] = replace(
                cost,
                memory=cost.memory.plus(parameter=rules, optimizer=states, feednet=below),
                idle_bytes=cost.idle_bytes - above,
                below_bytes=costs[team[0]].below_bytes,
            )
    return joined


def _with_what_waits(costs: list[SegmentCost], own: list[Own], engine: Engine) -> list[SegmentCost]:
    """Beside each segment lie the learners whose turn comes again, and a copy of the best network where blocks change later."""
    training = engine.training
    learners = [of.rule - of.blocks + of.optimizer if training.returns else 0 for of in own]
    costs = [replace(cost, state_bytes=learner) for cost, learner in zip(costs, learners, strict=True)]
    if engine.offload.moves:
        return offloaded(costs, engine)
    heads = max(of.rule - of.blocks for of in own)
    best = _bytes(engine.chain.blocks) + heads if training.returns or not training.climbs else 0
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
