"""Features below a segment, kept or not, whatever learns in between; and the sources that take their place."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.objectives.losses import SoftmaxCe
from effdl.rng import seed_for
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.features import Stack, Through
from effdl.training.learner import Learner
from effdl.training.optim import Sgd
from effdl.training.recording import Recording
from effdl.training.sources import Fed, Replay, Sieve


class Widening(nn.Module):
    """Adds what it has learned and puts out so many columns; a copy to be called again and again rounds in its own way."""

    def __init__(self, columns: int, learned: float, rounds: float = 0.0) -> None:
        super().__init__()
        self.columns, self.learned, self.rounds = columns, learned, rounds

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :1] + self.learned).expand(-1, self.columns) + self.rounds

    def copied(self) -> "Widening":
        return Widening(self.columns, self.learned, 1e-3)


@dataclass
class Rows:
    x: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def first(self) -> Tensor:
        return self.x[:1]


def passed(modules: Any, x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def through(raw: Rows, limit: int, called: Callable[[Any], nn.Module]) -> Through[Rows]:
    def kept(rows: Rows, features: Callable[[Tensor], Tensor]) -> tuple[Rows, int]:
        out = features(rows.x)
        return Rows(out), out.nbytes

    return Through([raw], limit, passed, kept, called)


@pytest.mark.parametrize("rounding", [False, True], ids=["exact", "copies that round"])
@pytest.mark.parametrize("seed", range(5))
def test_no_feature_is_stale_and_a_run_that_goes_on_has_the_same_bits_in_any_order_of_turns(rounding: bool, seed: int) -> None:
    draw, kept = random.Random(seed), 0
    for _ in range(200):
        modules = [Widening(draw.randint(1, 4), draw.random()) for _ in range(draw.randint(3, 5))]
        ages, limit = [0] * len(modules), draw.choice([-1, 0, 50, 80, 110, 140, 200, 10_000])
        raw = Rows(torch.rand(3, 1, dtype=torch.float64))
        called = Widening.copied if rounding else lambda module: Widening(module.columns, module.learned)
        ours = through(raw, limit, called)
        for _ in range(draw.randint(1, 8)):
            height = draw.randint(1, len(modules) - 1)
            stack = Stack(tuple(modules[:height]), tuple(ages[:height]))
            ours.look(stack)
            kept += ours.keep()
            features = ours.features(ours.splits[0].x)
            torch.testing.assert_close(features, passed(modules[:height], raw.x), rtol=0, atol=0.01 if rounding else 0)
            assert ours.kept_bytes <= max(limit, 0)
            again = through(raw, limit, called)
            again.replay(ours.tried, stack)
            again.look(stack)
            again.keep()
            assert torch.equal(again.features(again.splits[0].x), features)
            modules[height].learned = draw.random() + 1  # the segment above has learned
            ages[height] += 1
    assert kept > 100


def learners(model: Any) -> list[Learner]:
    made = []
    for i, width in enumerate(tiny.WIDTHS[1:3]):
        torch.manual_seed(i)
        rule = DecisionRule(
            model[i : i + 1],
            Pool().build((width, tiny.SIDE, tiny.SIDE), tiny.CLASSES),
            SoftmaxCe(),
            input_dropout=0.3 if i else 0.0,
        )
        optimizer = Sgd(lr=0.05).build(rule.parameters())
        made.append(Learner(rule, optimizer, seed=lambda epoch, step, i=i: seed_for(0, "step", i, epoch, step)))  # type: ignore[misc]
    return made


def drained(batches: Any) -> list[Batch]:
    return [batch.take(torch.arange(len(batch))) for batch in batches]


def test_a_chain_of_learners_and_the_replay_of_what_the_lower_put_out_are_the_same_bit_for_bit() -> None:
    problem, ended = tiny.problem(), []
    for recorded in (False, True):
        model = tiny.chain().eval()
        below, above = learners(model)
        fed, val = Fed(problem, 0), Fed(problem, 0, only_val=True)
        fed.look(Stack((model.input,), (0,)))
        val.look(Stack((model.input, model.blocks[0]), (0, 0)))
        recording = Recording("below", "device", torch.device("cpu"), Path)
        if recorded:
            for epoch in range(3):
                drained(recording.passing(below.train_epoch(fed.train(epoch))))
        replay = Replay(recording, val)
        losses = [
            drained(above.train_epoch(replay.train(epoch) if recorded else below.train_epoch(fed.train(epoch))))
            for epoch in range(3)
        ]
        assert (below.epoch, above.epoch) == (3, 3)
        ended.append([tiny.copied(below.rule), tiny.copied(above.rule), [[b.loss for b in part] for part in losses]])
        assert torch.cat([batch.x for batch in replay.val()]).shape == (problem.num_val, tiny.WIDTHS[1], tiny.SIDE, tiny.SIDE)
    assert tiny.same(*ended)


class EveryOther:
    chunk, expected_share = 16, 0.5

    def __init__(self, sees: str) -> None:
        self.sees = sees

    def apply(self, batches: Any, batch_size: int, seed: int) -> Any:
        return (batch.take(torch.arange(0, len(batch), 2)) for batch in batches)


def test_a_replay_begins_again_after_its_last_epoch_and_takes_a_sieve_that_sees_features() -> None:
    problem = tiny.problem()
    recording, fed = Recording("below", "device", torch.device("cpu"), Path), Fed(problem, 0, only_val=True)
    epochs = [drained(recording.passing(problem.train(epoch))) for epoch in range(2)]
    replay = Replay(recording, fed, first=7)
    for sees, size in (("features", 4), ("index", 8)):  # which chose before the recording
        sieve = Sieve(EveryOther(sees), 0)  # type: ignore[arg-type]
        assert [len(batch) for batch in replay.train(7, sieve)] == [size] * len(epochs[0])
    for epoch, expected in ((7, epochs[0]), (8, epochs[1]), (9, epochs[0])):
        assert all(tiny.same(a.x, b.x) for a, b in zip(replay.train(epoch), expected, strict=True))
