"""One epoch of a segment: what it refuses, when it notices that it diverges, and what it calls its loss."""

from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Batch
from effdl.errors import ConfigError, Diverged
from effdl.objectives.losses import SoftmaxCe
from effdl.training import bottom_up
from effdl.training.bottom_up import drain_epoch
from effdl.training.optim import Sgd
from effdl.training.segment import DecisionLoss, LocalLoss, SegmentState, checkpointed

SGD = Sgd(lr=0.01)


def test_decision_block_that_begins_in_place_is_refused() -> None:
    blocks = tiny.chain().blocks[:1]
    decision = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(tiny.CLASSES))
    batch = next(tiny.problem().train(0))
    batch = replace(batch, x=batch.x.float())
    decision(blocks(batch.x))
    state = SegmentState(blocks, DecisionLoss(decision, SoftmaxCe()), SGD.build(blocks.parameters()), seed=lambda e, s: s)
    with pytest.raises(ConfigError, match="decision block must not begin with an in-place operation"):
        state.step(batch)


class Sick(LocalLoss):
    """Losses of 1, 1, nan, nan ... by step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, outputs: Tensor, batch: Batch) -> Tensor:
        self.steps += 1
        return outputs.flatten(1).sum(1) * 0 + (1.0 if self.steps < 3 else float("nan"))

    def predictor(self, chain: BlockChain) -> nn.Module:
        return chain


def sick_state(epochs_batches: int) -> tuple[SegmentState, list[Batch]]:
    blocks = tiny.chain().blocks[:1]
    batches = [replace(b, x=b.x.float()) for b in tiny.problem(train=8 * epochs_batches).train(0)]
    return SegmentState(blocks, Sick(), SGD.build(blocks.parameters()), seed=lambda e, s: s), batches


@pytest.mark.parametrize("shown", [True, False])
def test_a_loss_that_is_not_finite_ends_the_epoch_after_so_many_steps_whatever_is_shown(
    shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bottom_up, "LOOK_EVERY", 5)
    state, batches = sick_state(10)
    with pytest.raises(Diverged, match="here, step 3"):
        drain_epoch(state, batches, "here", lambda step: shown)
    assert state.local_loss.steps == 5, "the epoch went on though the loss was not a number"


def test_training_loss_is_the_mean_over_the_samples_seen() -> None:
    state, batches = sick_state(10)
    short = [replace(b, **{k: getattr(b, k)[:n] for k in ("x", "y", "index")}) for b, n in zip(batches, (8, 3), strict=False)]
    loss, samples = drain_epoch(state, short, "here", lambda step: False)
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
