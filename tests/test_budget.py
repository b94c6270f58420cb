"""Decision blocks for a memory budget: within it by real steps, the largest that fit, or a refusal that names who misses it."""

import itertools
import random
import re
from typing import Any

import pytest
import test_memory
import tiny
import torch
from torch import nn

from effdl import config
from effdl.archs.chain import BlockChain
from effdl.costs.budget import LEVELS, TOLERANCE, Choice, families
from effdl.costs.memory import LiveStorages
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem, cut
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.decision import DownConv
from effdl.training.engine import Engine
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, Optimizer, Sgd

SEED = 20261129
SMALL = ("cnn4", "shufflenet_v2_x0_5", "mobilenet_v2", "resnet18", "vgg13_bn")
LARGE = ("efficientnet_b0", "efficientnet_v2_s", "mobilevit_v2", "vgg13", "efficientnet_b1")


def drawn() -> list[tuple[str, float, int, int]]:
    """Ten of (arch, budget, batch size, training samples): of the last batches some are ragged, one has a sample more."""
    generator = random.Random(SEED)
    cases = []
    for i, name in enumerate((*SMALL, *LARGE)):
        budget, size = generator.uniform(0.3, 0.6), generator.choice([6, 8, 12, 16])
        cases.append((name, round(budget, 3), size, size + (1 if i % 5 == 0 else generator.randint(2, size - 1))))
    return cases


def problem(samples: int, size: int) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8, generator=generator)
    data = Samples(x, torch.arange(samples) % 10)
    return Problem(data, data.take(torch.arange(2)), SoftmaxCe(), outputs=10, batch_size=size)


def network(name: str, of: Problem) -> BlockChain:
    reseed(0)
    chain: BlockChain = config.build_choice("arch", name).build(of.facts)
    return chain.eval()


def engine(method: Any, of: Problem, chain: BlockChain, optimizer: Optimizer) -> Engine:
    run = Run.in_memory(optimizer)
    training = method.training(of, chain, run)
    return Engine(training, of, chain, run)


def peak(made: Engine, segment: int, batch: Batch) -> int:
    """Of real training steps, the second of two, the batch's way up included: counted from the outside, over all of it."""
    learner, plan = made.learner(segment), made.training.segments[segment]
    made.source.look(made._below(segment))
    frozen = (made.chain.input, *made.chain[: plan.start])

    def fed() -> Any:
        yield made.source._feed(batch)

    for _ in learner.train_epoch(fed()):
        pass
    held = [t for slots in learner.optimizer.state.values() for t in slots.values() if isinstance(t, torch.Tensor)]
    live = LiveStorages()
    live.book([batch.x, batch.y, batch.index, *held], "parameter")
    live.book([t for m in (*frozen, learner.rule) for t in (*m.parameters(), *m.buffers())], "parameter")
    with live:
        for _ in learner.train_epoch(fed()):
            pass
    return live.peak


def shares(name: str, budget: float, size: int, samples: int, optimizer: Optimizer) -> list[float]:
    """Of each segment its real peak over full backprop's, over both sizes of an epoch's batches."""
    of = problem(samples, size)
    chain = network(name, of)
    batches = sorted(of.train(0), key=len)
    ours = engine(Segmentwise(memory_budget=budget, keep_features_mib=0), of, chain, optimizer)
    whole = engine(Backprop(keep_features_mib=0), of, chain, optimizer)
    assert {len(batch) for batch in batches} == {*cut(samples, size)}
    full = max(peak(whole, 0, batch) for batch in batches)
    return [max(peak(ours, i, batch) for batch in batches) / full for i in range(len(ours.training.segments))]


@pytest.mark.parametrize("case", drawn()[:5], ids=str)
def test_real_steps_stay_within_the_budget(case: tuple[str, float, int, int]) -> None:
    _within(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", drawn()[5:], ids=str)
def test_real_steps_of_larger_networks_stay_within_the_budget(case: tuple[str, float, int, int]) -> None:
    _within(case)


def _within(case: tuple[str, float, int, int]) -> None:
    name, budget, size, samples = case
    try:
        found = shares(name, budget, size, samples, Adamw())
    except ConfigError as refused:  # then the least that it names is met, and a little less is not
        budget = told(refused)
        found = shares(name, budget, size, samples, Adamw())
        with pytest.raises(ConfigError, match="least that can be met"):
            shares(name, budget - 0.002, size, samples, Adamw())
    assert max(found) <= budget + TOLERANCE


def told(refused: ConfigError) -> float:
    (least,) = re.findall(r"memory_budget=([\d.]+) is the least that can be met", str(refused))
    return float(least)
