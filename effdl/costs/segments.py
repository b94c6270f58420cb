"""What each segment of a training will cost: counted bytes, and seconds measured on one batch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain as chained
from itertools import pairwise

import torch
from torch import Tensor, nn

from effdl.costs.feeding import Feeding, turns
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
    limit, kept_bytes, feednets, own = -1 if problem.varies or prepares else engine.training.keep_bytes, 0, 0, list[int]()
    _take(idle := _weights(chain), chain.input)
    prefix = Prefix(batch, chain.input, fake=problem.is_outline, autocast=run.hardware.autocast)
    for plan, learner in zip(plans, learners, strict=True):
        rehearsal, feed_s = Rehearsal(learner, prefix), reading_s + prefix.seconds
        _take(idle, *chain[plan.start : plan.stop])
        kept = samples * prefix.sample_bytes + kept_bytes <= limit
        kept_bytes = samples * prefix.sample_bytes if kept else kept_bytes
        costs.append(
            SegmentCost(
                start=plan.start,
                stop=plan.stop,
                epochs=plan.epochs,
                turns=engine.training.turns(len(costs)),
                batches=problem.steps,
                steps=engine.steps,
                fed_steps=problem.steps if waiting else engine.steps,
                val_steps=-(-problem.num_val // problem.batch_size),
                feed_s=feed_s,
                step_s=0.0 if problem.is_outline else rehearsal.seconds(),
                memory=rehearsal.memory(),
                idle_bytes=sum(idle.values()) - (_bytes(chain.head) if _learns(learner, chain.head) else 0),
                filter_bytes=waiting * max(prefix.sample_bytes, batch.x[0].nbytes),
                feature_bytes=prefix.sample_bytes,
                below_bytes=prefix.weight_bytes,
                feednet_bytes=feednets,
            )
        )
        own.append(_bytes(learner.rule) - _bytes(learner.rule.blocks))
        if plan is not plans[-1]:
            climbed = chain[plan.start : plans[len(costs)].start]
            prefix.climb(*climbed, feeding=not kept)
            feednets += _copied(climbed)
    return _fed(_with_what_waits(costs, own, engine), (problem.num_train, problem.num_val), limit)


def _fed(costs: list[SegmentCost], samples: Sequence[int], limit: int) -> list[SegmentCost]:
    """With what feeding takes in all of their turns, and what is held for it in the turn that holds most."""
    feeding, found = Feeding(costs, samples, limit), list(costs)
    held = [-1] * len(costs)
    for segment, epochs in turns(costs):
        made_s, fed_s = feeding.begin(segment)
        feeding.learned(segment, epochs)
        cost, kept, copied = found[segment], feeding.through.kept_bytes, feeding.copied_bytes
        cost = replace(cost, made_s=cost.made_s + made_s, fed_s=cost.fed_s + fed_s * epochs / cost.epochs)
        if kept + copied > held[segment]:
            held[segment], idle = kept + copied, costs[segment].idle_bytes + copied
            cost = replace(cost, kept_bytes=kept, idle_bytes=idle, spared_bytes=cost.feednet_bytes - copied)
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


def _with_what_waits(costs: list[SegmentCost], own: list[int], engine: Engine) -> list[SegmentCost]:
    """Beside each segment lie the learners whose turn comes again, and a copy of the best network as far as it changes later.

    own: bytes of each rule without its blocks.
    """
    training, blocks = engine.training, [_bytes(block) for block in engine.chain.blocks]
    learners, copies = [0] * len(costs), [0] * len(costs)
    if training.returns or not training.climbs:
        copies = [sum(blocks) + max(own)] * len(costs)
    elif training.overlaps:
        for i, (below, cost) in enumerate(pairwise(costs), 1):
            copies[i] = max(copies[i - 1], sum(blocks[cost.start : below.stop]) + own[i - 1])
    if training.returns:
        learners = [size + cost.memory.by_kind["optimizer"] for size, cost in zip(own, costs, strict=True)]
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
