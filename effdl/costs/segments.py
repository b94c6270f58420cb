"""What each segment of a training will cost: counted bytes, and seconds measured on one batch."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain as chained
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from effdl.costs.feeding import Access, Sources, turns
from effdl.costs.offloaded import offloaded
from effdl.costs.on_disk import on_disk
from effdl.costs.recorded import with_recordings
from effdl.costs.rehearsal import PIECE_BUDGET_S, Prefix, Rehearsal, usual
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
    learners: Iterable[Learner] = map(engine.making.learner, range(len(plans)))
    if not problem.is_outline:
        learners = run.watch(learners, len(plans), "trying what each layer will take")
    costs, waiting, samples = list[SegmentCost](), _waiting(run.filter, problem), problem.num_train + problem.num_val
    learners = iter(learners)
    learners = chained([first := next(learners)], learners)
    reading_s, batch, prepares = *_first_batch(engine, first), first.rule.prepares  # as all others' do
    del first
    limit, kept_bytes, feednets, own = -1 if problem.varies or prepares else engine.training.keep_bytes, 0, 0, list[Own]()
    prefix, never = _below_all(engine, batch, feeding=limit < 0)
    feednets += _copied(never)
    _take(idle := _weights(chain), chain.input, *never)
    for plan, learner in zip(plans, learners, strict=True):
        rehearsal = Rehearsal(learner, prefix)
        _take(idle, *chain[plan.start : plan.stop])
        team = engine.training.team(len(costs))
        is_lowest, is_highest = len(costs) == team[0], len(costs) == team[-1]
        kept = is_lowest and samples * prefix.sample_bytes + kept_bytes <= limit
        kept_bytes = samples * prefix.sample_bytes if kept else kept_bytes
        costs.append(
            replace(
                _cost(engine, len(costs), rehearsal, prefix, waiting),
                feed_s=reading_s + prefix.seconds,
                idle_bytes=sum(idle.values()) - (_bytes(chain.head) if _learns(learner, chain.head) else 0),
                filter_bytes=waiting * max(prefix.sample_bytes, batch.x[0].nbytes),
                feednet_bytes=feednets,
            )
        )
        own.append(Own(_bytes(learner.rule.blocks), _bytes(learner.rule), rehearsal.step().optimizer))
        if plan is not plans[-1]:
            climbed = chain[plan.start : plans[len(costs)].start]
            prefix.climb(*climbed, feeding=not kept and is_highest)
            feednets += _copied(climbed)
        if len(own) - 1 in engine.training.record:
            reading_s, prefix = reading_s + prefix.seconds, prefix.above()
        engine.offloaded.rest()
    splits = problem.num_train, problem.num_val
    lies = on_disk(engine, costs, splits, limit)
    costs = _fed(costs, splits, limit, lies, engine.training.replays, engine.training.keep_bytes)
    if engine.training.record:
        costs = with_recordings(costs, engine)
    return _with_what_waits(_with_the_team(costs, own, engine.training), own, engine)


def _below_all(engine: Engine, batch: Batch, feeding: bool) -> tuple[Prefix, nn.Sequential]:
    """The prefix of the first segment, and the blocks below it, which never learn. feeding: they are called for every batch."""
    fake, parts = engine.problem.is_outline, engine.training.feed_parts
    prefix = Prefix(batch, engine.chain.input, fake=fake, autocast=engine.run.hardware.autocast, parts=parts)
    never = engine.chain[: engine.training.segments[0].start]
    prefix.climb(*never, feeding=feeding)
    return prefix, never


def _cost(engine: Engine, segment: int, rehearsal: Rehearsal, prefix: Prefix, waiting: int) -> SegmentCost:
    """What is known of a segment by itself above a prefix; what lies beside it, and feeding, are not.

    waiting: samples that a filter has chosen and that wait for their step.
    """
    training, problem, plan = engine.training, engine.problem, engine.training.segments[segment]
    is_lowest, step = segment == training.team(segment)[0], rehearsal.step()
    return SegmentCost(
        start=plan.start,
        stop=plan.stop,
        epochs=plan.epochs,
        turns=training.turns(segment),
        batches=problem.steps,
        steps=engine.steps(segment),
        fed_steps=0 if not is_lowest else problem.steps if waiting else engine.steps(segment),
        val_steps=-(-problem.num_val // problem.batch_size),
        feed_s=0.0,
        step_s=0.0 if problem.is_outline else rehearsal.seconds(),
        memory=rehearsal.memory() if is_lowest else step.memory.plus(activation=_losses(prefix)),
        idle_bytes=0,
        filter_bytes=0,
        feature_bytes=prefix.sample_bytes,
        below_bytes=prefix.weight_bytes,
        feednet_bytes=0,
        feeding_bytes=prefix.feeding().peak + step.weights + (step.optimizer if training.returns else 0),
        certain=not training.growth or segment == 0,
    )


def _fed(
    costs: list[SegmentCost],
    samples: Sequence[int],
    limit: int,
    on_disk: Mapping[int, Access] | None = None,
    replays: Collection[int] = (),
    val_limit: int = -1,
) -> list[SegmentCost]:
    """With what feeding takes in all of their turns, and what is held for it in the turn that holds most.

    Of segments that learn at once the lowest is fed, and what is held for it is held beside all. The arguments are those of
    `Sources`.
    """
    sources, found, held = Sources(costs, samples, limit, on_disk, replays, val_limit), list(costs), [-1] * len(costs)
    for team, epochs in turns(costs):
        lowest, feeding = costs[team[0]], sources.of(team[0])
        made_s, fed_s = feeding.begin(team[0])
        kept, copied = feeding.through.kept_bytes, feeding.copied_bytes
        for segment in team:
            sources.learned(segment, epochs)
            cost = found[segment]
            if segment == team[0]:
                cost = replace(cost, made_s=cost.made_s + made_s, fed_s=cost.fed_s + fed_s * epochs / cost.epochs)
                cost = replace(cost, making_bytes=max(cost.making_bytes, feeding.making_bytes))
            if kept + copied > held[segment]:
                held[segment], idle = kept + copied, costs[segment].idle_bytes + copied
                cost = replace(cost, kept_bytes=kept, idle_bytes=idle, spared_bytes=lowest.feednet_bytes - copied)
            found[segment] = cost
    return found


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
                feeding_bytes=cost.feeding_bytes + rules + (states if training.returns else 0),
                below_bytes=costs[team[0]].below_bytes,
            )
    return joined


def _with_what_waits(costs: list[SegmentCost], own: list[Own], engine: Engine) -> list[SegmentCost]:
    """Beside each segment lie the learners whose turn comes again, and a copy of what changes later of the best network."""
    training, blocks = engine.training, [_bytes(block) for block in engine.chain.blocks]
    learners = [of.rule - of.blocks + of.optimizer if training.returns else 0 for of in own]
    costs = [replace(cost, state_bytes=learner) for cost, learner in zip(costs, learners, strict=True)]
    if engine.offload.moves:
        return offloaded(costs, engine)
    heads = [of.rule - of.blocks for of in own]
    copies = [0] * len(costs)
    if training.returns or not training.climbs:
        copies = [sum(blocks) + max(heads)] * len(costs)
    elif training.overlaps:
        for i, (below, cost) in enumerate(pairwise(costs), 1):
            copies[i] = max(copies[i - 1], sum(blocks[cost.start : below.stop]) + heads[i - 1])
    return [
        replace(cost, idle_bytes=cost.idle_bytes + sum(learners) - learner + copy)
        for cost, learner, copy in zip(costs, learners, copies, strict=True)
    ]


def _reading_seconds(problem: Problem, x: Tensor) -> float:
    """Of one batch like this with its augmentation, which may have been done once already."""
    reading_s = problem.train_split.reading_seconds(problem.batch_size)
    if problem.augment is None or problem.is_outline:
        return reading_s
    change, generator = problem.augment, torch.Generator()
    return reading_s + usual(lambda: change(x, generator), x.device, PIECE_BUDGET_S)


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
