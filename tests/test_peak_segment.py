"""Which segment the finished network ends with, and when a segment stops."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse, SoftmaxCe
from effdl.records.run import Run
from effdl.training.loop import evaluate
from effdl.training.optim import Sgd


def xor(count: int, seed: int) -> Samples:
    """Two classes that no linear map separates."""
    x = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Samples(x, (x.prod(1) > 0).long())


def halves(count: int, seed: int) -> Samples:
    """Two classes that every linear layer separates."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    y = (x[:, 0] > 0).long()
    x[:, 0] += 10 * (2 * y - 1)
    return Samples(x, y)


def linear_wide_dead() -> BlockChain:
    """Three blocks: one cannot tell XOR apart, one can, and one puts out zeros for ever, its ReLUs being dead."""
    torch.manual_seed(0)
    dead = nn.Linear(64, 4)
    nn.init.constant_(dead.bias, -1e4)
    blocks = [nn.Linear(2, 8), nn.Sequential(nn.Linear(8, 64), nn.ReLU()), nn.Sequential(dead, nn.ReLU())]
    return BlockChain(blocks, nn.Linear(4, 2))


def fit(method: Segmentwise, train: Samples, val: Samples, model: BlockChain, lr: float = 0.1) -> tuple[nn.Module, Run, list]:
    run = Run.in_memory(Sgd(lr=lr))
    problem = Problem(train, val, SoftmaxCe(), outputs=2, batch_size=20)
    network = method.fit(problem, model, run)
    scores = [[line["val/acc"] for line in run.lines if line["segment"] == i and "val/acc" in line] for i in range(len(model))]
    return network, run, scores


def final(scores: Sequence[Sequence[float]]) -> list[float]:
    return [of_segment[-1] for of_segment in scores]


def test_the_network_ends_at_the_segment_that_validates_best() -> None:
    network, run, scores = fit(Segmentwise(epochs=15), xor(200, 1), xor(100, 2), linear_wide_dead())
    low, high, dead = final(scores)
    assert high > 0.85 > 0.7 > max(low, dead)
    assert run.notes["segment/chosen"] == 1
    assert len(network) == 2
    assert evaluate(network, xor(100, 2).batches(20), SoftmaxCe())["acc"] == high


def test_choose_last_ends_at_the_last_segment() -> None:
    network, run, scores = fit(Segmentwise(epochs=8, choose="last"), xor(200, 1), xor(100, 2), linear_wide_dead())
    assert final(scores)[2] < final(scores)[1]
    assert run.notes["segment/chosen"] == 2
    assert len(network) == 3


def test_without_a_validation_set_the_network_ends_at_the_last_segment() -> None:
    train = xor(100, 1)
    network, run, scores = fit(Segmentwise(epochs=2, patience=1), train, train.take(torch.arange(0)), linear_wide_dead())
    assert scores == [[], [], []]
    assert run.notes["segment/chosen"] == 2
    assert len(network) == 3
    assert len(run.lines) == 3 * 2


def test_equal_validation_goes_to_the_earlier_segment() -> None:
    model = BlockChain([nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)], nn.Linear(4, 2))
    network, run, scores = fit(Segmentwise(epochs=6), halves(100, 1), halves(50, 2), model)
    assert final(scores) == [1.0, 1.0, 1.0]
    assert run.notes["segment/chosen"] == 0
    assert len(network) == 1


def dead_first() -> BlockChain:
    torch.manual_seed(0)
    dead = nn.Linear(2, 4)
    nn.init.constant_(dead.bias, -1e4)
    return BlockChain([nn.Sequential(dead, nn.ReLU()), nn.Linear(4, 4)], nn.Linear(4, 2))


@pytest.mark.parametrize("patience", [1, 3, None])
def test_a_segment_stops_after_patience_epochs_without_a_better_score(patience: int | None) -> None:
    train = halves(100, 1)
    train = train.take(torch.cat([train.y.nonzero().flatten(), (train.y == 0).nonzero().flatten()[:10]]))
    _, _, scores = fit(Segmentwise(epochs=7, patience=patience), train, halves(50, 2), dead_first(), lr=0.01)
    assert {score for of_segment in scores for score in of_segment} == {scores[0][0]}
    assert [len(of_segment) for of_segment in scores] == [1 + patience if patience else 7] * 2


def test_patience_lets_a_segment_that_improves_go_on() -> None:
    x = torch.linspace(-1, 1, 40)[:, None]
    data = Samples(x, 3 * x + 1)
    problem = Problem(data, data, LinearMse(), outputs=1, batch_size=40)
    torch.manual_seed(0)
    run = Run.in_memory(Sgd(lr=0.02, momentum=0))
    Backprop(epochs=12, patience=1).fit(problem, BlockChain([nn.Linear(1, 4)], nn.Linear(4, 1)), run)
    errors = [line["val/mse"] for line in run.lines]
    assert len(errors) == 12
    assert errors == sorted(errors, reverse=True)
