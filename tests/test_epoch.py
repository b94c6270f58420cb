"""One epoch of a segment: what it refuses, when it notices that it diverges, and what it calls its loss."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError, DataError, Diverged
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training import epoch
from effdl.training.decision_rule import DecisionRule
from effdl.training.epoch import drain_epoch
from effdl.training.learner import Learner
from effdl.training.loop import reduce_loss
from effdl.training.optim import Sgd
from effdl.training.recompute import checkpointed
from effdl.training.rule import Rule

SGD = Sgd(lr=0.01)


def test_decision_block_that_begins_in_place_is_refused() -> None:
    blocks = tiny.chain().blocks[:1]
    decision = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(tiny.CLASSES))
    batch = next(tiny.problem().train(0))
    batch = replace(batch, x=batch.x.float())
    decision(blocks(batch.x))
    learner = Learner(DecisionRule(blocks, decision, SoftmaxCe()), SGD.build(blocks.parameters()), seed=lambda e, s: s)
    with pytest.raises(ConfigError, match="decision block must not begin with an in-place operation"):
        learner.step(batch)


class Sick(Rule):
    """Losses of 1, 1, nan, nan ... by step."""

    def __init__(self, blocks: nn.Sequential) -> None:
        super().__init__(blocks)
        self.steps = 0

    def learn(self, batch: Batch, epoch: int) -> Batch:
        self.steps += 1
        outputs: Tensor = self.forward(batch.x.detach())
        loss = outputs.flatten(1).sum(1) * 0 + (1.0 if self.steps < 3 else float("nan"))
        reduce_loss(loss, batch.sample_weight).backward()
        return batch.passed_on(outputs.detach(), loss.detach())

    def predictor(self, chain: BlockChain) -> nn.Module:
        return chain


def sick_learner(epochs_batches: int) -> tuple[Learner, Sick, list[Batch]]:
    blocks = tiny.chain().blocks[:1]
    batches = [replace(b, x=b.x.float()) for b in tiny.problem(train=8 * epochs_batches).train(0)]
    rule = Sick(blocks)
    return Learner(rule, SGD.build(blocks.parameters()), seed=lambda e, s: s), rule, batches


@pytest.mark.parametrize("shown", [True, False])
def test_a_loss_that_is_not_finite_ends_the_epoch_after_so_many_steps_whatever_is_shown(
    shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "LOOK_EVERY", 5)
    learner, rule, batches = sick_learner(10)
    with pytest.raises(Diverged, match="here, step 3"):
        drain_epoch({"here": learner}, batches, lambda step: shown)
    assert rule.steps == 5, "the epoch went on though the loss was not a number"


def test_training_loss_is_the_mean_over_the_samples_seen() -> None:
    learner, _, batches = sick_learner(10)
    short = [replace(b, **{k: getattr(b, k)[:n] for k in ("x", "y", "index")}) for b, n in zip(batches, (8, 3), strict=False)]
    [(loss, samples)] = drain_epoch({"here": learner}, short, lambda step: False)
    assert loss == pytest.approx(1.0) and samples == 11


def test_recomputation_leaves_instance_statistics_alone() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    nets = []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2, track_running_stats=True))
        (checkpointed(net, x) if recompute else net(x)).square().sum().backward()
        nets.append(net.state_dict())
    assert tiny.same(*nets)


class Short(Samples):
    """Loses its last batches."""

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        return super().gather(indices[:2] if len(indices) > 1 else indices)


def test_batches_that_end_early_are_said() -> None:
    whole = tiny.images(40, 1)
    problem = Problem(Short(whole.x, whole.y), tiny.images(20, 2), SoftmaxCe(), outputs=tiny.CLASSES, batch_size=8)
    said = r"^the samples end after 2 of 5 batches at segment 1 of 3, epoch 1: a split has as many in each epoch$"
    with pytest.raises(DataError, match=said):
        Segmentwise(epochs=1, keep_features_mib=0).fit(problem, tiny.chain(), Run.in_memory(SGD))


def test_a_sample_of_weight_zero_is_as_if_absent_and_two_copies_are_one_of_double_weight() -> None:
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    gradients = []
    for index, weight in (([0, 1, 2, 3], [0.5, 0.0, 1.0, 0.5]), ([0, 2, 2, 3], None)):
        torch.manual_seed(0)
        rule = DecisionRule(nn.Sequential(nn.Linear(3, 4)).double(), nn.Linear(4, 2).double(), SoftmaxCe())
        parameters = list(rule.parameters())
        learner = Learner(rule, SGD.build(parameters), seed=lambda e, s: 0)
        at = torch.tensor(index)
        learner.step(Batch(x[at], y[at], at, sample_weight=None if weight is None else torch.tensor(weight).double()))
        gradients.append([parameter.grad for parameter in parameters])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
