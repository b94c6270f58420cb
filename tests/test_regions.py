"""Regions of inputs: the board whose halves they are, and what probes say of each, against hands and autograd in float64."""

import math
from typing import Any

import pytest
import tiny
import torch
from looks import look, of_points
from torch import Tensor, nn

from effdl import SigmoidBce
from effdl.archs.chain import BlockChain
from effdl.config import build, compose
from effdl.datasets.dataset import split
from effdl.datasets.problem import Problem
from effdl.datasets.split import Regions, Samples
from effdl.datasets.toy import Checkerboard, TwoFrequencyBoard
from effdl.errors import ConfigError
from effdl.probes.by_region import ByRegion
from effdl.probes.gradient_rms import GradientRms
from effdl.probes.k_redundancy import KRedundancy
from effdl.probes.probe import measured
from effdl.probes.sample import share
from effdl.probes.weight_sketch import WeightSketch, count_sketch


def test_the_squares_of_each_half_are_coloured_by_turns() -> None:
    points = torch.tensor([[-0.4, -0.4], [-0.2, -0.4], [-0.01, 0.3], [0.0, -0.1], [0.1, 0.1], [0.49, -0.49]])
    found = TwoFrequencyBoard(squares_left=4, squares_right=2).coloured(points)
    assert found.y.tolist() == [0, 1, 0, 1, 0, 1] and found.regions is not None
    assert found.regions.names == ("left", "right") and found.regions.of.tolist() == [0, 0, 0, 1, 1, 1]


def test_with_as_many_squares_left_and_right_it_is_the_ordinary_board() -> None:
    train, _ = TwoFrequencyBoard(squares_left=8, squares_right=8).load()
    assert torch.equal(train.y, Checkerboard(squares=8).coloured(train.x).y)


@pytest.mark.parametrize("left_share", [0.5, 0.9])
def test_each_half_has_its_share_and_is_as_dense_everywhere(left_share: float) -> None:
    board = TwoFrequencyBoard(samples=4000, left_share=left_share, val_size=500)
    for samples in board.load():
        assert samples.regions is not None
        left = samples.regions.of == 0
        assert int(left.sum()) == round(4000 * left_share) and torch.equal(left, samples.x[:, 0] < 0)
        for half in (samples.x[left], samples.x[~left]):
            assert half[:, 0].abs().mean() == pytest.approx(0.25, abs=0.02) and half[:, 1].mean() == pytest.approx(0, abs=0.04)
        assert 0.45 < samples.y[left].double().mean() < 0.55 and 0.45 < samples.y[~left].double().mean() < 0.55
        assert left[:400].sum() == pytest.approx(400 * left_share, abs=40)  # not one half after the other
    for part in split(board, board.load()[0], seed=1):
        assert part.regions is not None and torch.equal(part.regions.of == 0, part.x[:, 0] < 0)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["dataset=two_frequency_board", "dataset.squares_left=3"], r"dataset\.squares_left: .*multiple of 2.* got 3$"),
        (["dataset=two_frequency_board", "dataset.squares_right=0"], r"dataset\.squares_right: .*got 0$"),
        (["dataset=two_frequency_board", "dataset.left_share=1"], r"dataset\.left_share: .*less than 1.* got 1$"),
        (
            ["dataset=two_frequency_board", "probe=by_region", "probe.by_region.k=[90]", "probe.by_region.samples=90"],
            r"^probe\.by_region\.k: 90 neighbours are not to be had among 90 samples$",
        ),
        (
            ["dataset=sine", "probe=by_region"],
            r"^probe=by_region: is of classes, and these targets are vectors; leave the probe out",
        ),
        (["probe=weight_sketch", "probe.weight_sketch.size=0"], r"probe\.weight_sketch\.size: .*got 0$"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(overrides: list[str], line: str) -> None:
    objective = "linear_mse" if "dataset=sine" in overrides else "sigmoid_bce"
    with pytest.raises(ConfigError, match=line):
        build(compose(["method=backprop", "arch=mlp", f"objective={objective}", *overrides]))


def halves() -> tuple[BlockChain, Problem]:
    """Two layers, and 40 points of which every third lies in the second region."""
    torch.manual_seed(3)
    x, y = torch.randn(40, 2), torch.arange(40) % 2
    regions = Regions(("here", "there"), (torch.arange(40) % 3 == 0).long())
    model = BlockChain(
        [nn.Sequential(nn.Linear(2, 5), nn.Tanh()), nn.Sequential(nn.Linear(5, 4), nn.ReLU())], nn.Linear(4, 1), nn.Identity()
    )
    return model, Problem(Samples(x, y, regions=regions), Samples(x[:0], y[:0]), SigmoidBce(), outputs=1, batch_size=7)


def by_hand(model: BlockChain, x: Tensor, y: Tensor) -> dict[str, float]:
    """By autograd in float64, a sample at a time: accuracy, mean norms of errors, and norms of the mean gradient."""
    exact = BlockChain(list(model.blocks), model.head, nn.Identity()).double()
    layers = {"0": exact.blocks[0], "1": exact.blocks[1], "output": exact.head}
    errors = dict.fromkeys(layers, 0.0)
    sums = {name: torch.zeros(()) for name in layers}
    for one, label in zip(x.double(), y.double(), strict=True):
        zs, z = {}, one
        for name, layer in layers.items():
            zs[name] = z = layer(z)
        loss = nn.functional.softplus(z[0]) - label * z[0]
        weights = {name: next(p for p in layer.parameters() if p.dim() == 2) for name, layer in layers.items()}
        found = torch.autograd.grad(loss, [*zs.values(), *weights.values()])
        for name, error, slope in zip(layers, found[:3], found[3:], strict=True):
            errors[name] += float(error.norm()) / len(x)
            sums[name] = sums[name] + slope / len(x)
    right = float(((exact(x.double())[:, 0] > 0) == (y == 1)).double().mean())
    model.float()
    return {
        "acc": right,
        **{f"deltas/{n}": e for n, e in errors.items()},
        **{f"weights/{n}": float(s.norm()) for n, s in sums.items()},
    }


def test_gradients_and_accuracy_of_each_region_are_autograds_in_float64() -> None:
    model, problem = halves()
    found = measured(ByRegion(k=()), look(model, problem), 0)
    data, regions = problem.train_tensors(), problem.train_split.regions
    assert regions is not None
    for place, region in enumerate(regions.names):
        inside = regions.of == place
        for key, value in by_hand(model, data.x[inside], data.y[inside]).items():
            kind, *layer = key.split("/")
            assert found["/".join((kind, region, *layer))] == pytest.approx(value, rel=1e-5), key
    assert len(found) == 2 * 7 and all(p.grad is None for p in model.parameters())


def test_redundancy_of_each_region_has_neighbours_in_all_of_them() -> None:
    x, y = torch.arange(10.0)[:, None], torch.tensor([0] * 5 + [1] * 5)
    shown = of_points(x, y, 2.0)
    assert shown.learning is not None
    regions = Regions(("low", "high"), (torch.arange(10) >= 6).long())
    samples = Samples(x, y, regions=regions)
    shown.learning.problem.train_split = samples  # type: ignore[union-attr]
    found = measured(ByRegion(k=(1, 3), gradients=False, layers=("0",)), shown, 0)
    # With k = 1 point 5 alone is not redundant: 4 and 6 are as near, and the lower index counts
    whole = measured(KRedundancy(k=(1, 3), layers=("0",)), shown, 0)
    for k in (1, 3):
        low, high = (found[f"k_redundancy/{k}/{region}/0"] for region in regions.names)
        assert 0.6 * low + 0.4 * high == pytest.approx(whole[f"{k}/0"])
    assert (found["k_redundancy/1/low/0"], found["k_redundancy/1/high/0"]) == pytest.approx((5 / 6, 1))
    assert set(found) == {f"k_redundancy/{k}/{r}/0" for k in (1, 3) for r in regions.names} | {"acc/low", "acc/high"}


def test_data_without_regions_are_one_and_an_empty_region_has_no_number() -> None:
    problem, model = tiny.problem(), tiny.perceptron()
    shown = look(model, problem)
    found, rms = measured(ByRegion(k=(5,)), shown, 0), measured(GradientRms(), shown, 0)
    assert found["k_redundancy/5/all/linear1"] == measured(KRedundancy(k=(5,)), shown, 0)["5/linear1"]
    assert found["weights/all/linear2"] == pytest.approx(rms["weights/linear2"] * math.sqrt(model.blocks[1][0].weight.numel()))
    model, problem = halves()
    everywhere = problem.train_split.regions
    assert everywhere is not None
    problem.train_split = Samples(
        *(lambda s: (s.x, s.y))(problem.train_tensors()), regions=Regions(("a", "b"), 0 * everywhere.of)
    )
    found = measured(ByRegion(), look(model, problem), 0)
    assert found["acc/a"] >= 0 and {key for key, value in found.items() if math.isnan(value)} == {
        key for key in found if "/b" in key
    }


def test_it_asks_for_the_pass_that_k_redundancy_asks_for() -> None:
    shown = look(*reversed((tiny.problem(), tiny.perceptron())))
    probes: list[Any] = [ByRegion(samples=30), KRedundancy(samples=30, k=(5,))]
    share(shown, [view for probe in probes for view in probe.asks(shown)])
    assert len(shown.kept) == 1


def test_sketches_keep_small_matrices_and_the_lengths_of_large_ones() -> None:
    small = torch.arange(6.0).view(2, 3)
    assert count_sketch(small, 6).tolist() == [0, 1, 2, 3, 4, 5]
    basis = torch.stack([count_sketch(row, 16) for row in torch.eye(200)])
    assert torch.equal(
        basis.abs().sum(1), torch.ones(200, dtype=torch.float64)
    )  # each weight goes into one sum, as it is or not
    w = torch.randn(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(count_sketch(w.view(10, 20), 16), w.double() @ basis)
    many = torch.randn(300, 5000, generator=torch.Generator().manual_seed(1))
    off = torch.stack([count_sketch(one, 128).norm() / one.norm() for one in many]) - 1
    assert abs(off.mean()) < 0.02 and 0.8 / 16 < off.std() < 1.2 / 16  # 1 / √(2·128) = 1 / 16
    found = measured(WeightSketch(size=4), look(tiny.perceptron(), tiny.problem()), 0)
    assert {key: len(value) for key, value in found.items()} == {"linear1": 4, "linear2": 4, "output": 4}
