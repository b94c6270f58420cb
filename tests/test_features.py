"""Features below a segment, kept or not, whatever learns in between; and the sources that take their place."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.errors import FitFailed
from effdl.objectives.losses import SoftmaxCe
from effdl.rng import seed_for
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.features import Stack, Through
from effdl.training.learner import Learner
from effdl.training.optim import Sgd
from effdl.training.sources import Chained, Fed, Replay, Sieve


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
        fed = Fed(problem, 0)
        fed.look(Stack((model.input,), (0,)))
        source: Any = Chained(below, fed)
        if recorded:
            epochs = [drained(source.train(epoch)) for epoch in range(3)]
            source = Replay(epochs, problem.batch_size, drained(source.val()))
        losses = [drained(above.train_epoch(source.train(epoch))) for epoch in range(3)]
        val = torch.cat([batch.x for batch in source.val()])
        assert not val.requires_grad and (below.epoch, above.epoch) == (3, 3)
        ended.append([tiny.copied(below.rule), tiny.copied(above.rule), [[b.loss for b in part] for part in losses], val])
    assert tiny.same(*ended)
    assert val.shape == (problem.num_val, tiny.WIDTHS[1], tiny.SIDE, tiny.SIDE)


class EveryOther:
    sees, chunk, expected_share = "index", 16, 0.5

    def apply(self, batches: Any, batch_size: int, seed: int) -> Any:
        return (batch.take(torch.arange(0, len(batch), 2)) for batch in batches)


def test_a_replay_ends_where_nothing_was_recorded_and_takes_a_sieve() -> None:
    batches = drained(tiny.problem().train(0))
    replay = Replay([batches], 8)
    assert [len(batch) for batch in replay.train(0, Sieve(EveryOther(), 0))] == [4] * len(batches)  # type: ignore[arg-type]
    with pytest.raises(FitFailed, match=r"^epoch 2 was asked for, of which nothing is recorded: there are 1$"):
        replay.train(1)
