"""Random data: clusters where their formulas put them, and a map that least squares finds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import files, run_here

from effdl import config
from effdl.datasets.dataset import split
from effdl.datasets.random_data import Clusters, LinearMap, centres

FULL = ("arch=mlp", "arch.hidden=[64]", "method=backprop", "hardware.threads=1", "test_every=run")


def test_centres_by_hand() -> None:
    """Of three by three, Δ = 1/8: −3/8, 0 and 3/8 on both axes."""
    assert {*map(tuple, centres(3).tolist())} == {(a, b) for a in (-0.375, 0, 0.375) for b in (-0.375, 0, 0.375)}


@pytest.mark.parametrize(("side", "first", "dimensions"), [(2, 2, 3), (3, 4, 15), (4, 8, 5)])
def test_points_lie_in_discs_on_the_grid_each_of_one_class_half_of_them_of_the_first(
    side: int, first: int, dimensions: int
) -> None:
    data = Clusters(samples=4000, side=side, dimensions=dimensions)
    delta = 1 / (3 * side - 1)
    classes = []
    for samples in data.load():
        assert samples.x.shape == (4000, dimensions) == (len(samples.y), *data.facts().input_shape)
        assert (samples.x[:, 0] == 1).all()
        away = torch.cdist(samples.x[:, 1:3].double(), centres(side).double())
        radius, cluster = away.min(1)
        assert radius.max() <= delta + 1e-6
        # Uniform in radius, so that the mean is half of it; in a disc uniform by area it were two thirds
        assert radius.mean() == pytest.approx(delta / 2, rel=0.05)
        spurious = samples.x[:, 3:]
        if dimensions > 3:
            assert spurious.abs().max() <= 0.5 and spurious.std(0).mean() == pytest.approx(12**-0.5, rel=0.05)
        of = [samples.y[cluster == i].unique() for i in range(side**2)]
        assert all(len(y) == 1 for y in of)
        counts = cluster.bincount(minlength=side**2)
        assert counts.min() > 0.7 * 4000 / side**2
        classes.append([int(y) for y in of])
    assert classes[0] == classes[1] and classes[0].count(0) == first


def test_test_samples_are_others_than_training_ones_and_a_data_seed_draws_all_anew() -> None:
    (train, test), (again, _), (other, _) = (Clusters(data_seed=seed).load() for seed in (0, 0, 1))
    assert (len(train), len(test)) == (256, 4000) and not torch.equal(train.x, test.x[:256])
    assert torch.equal(train.x, again.x) and torch.equal(train.y, again.y) and not torch.equal(train.x, other.x)
    drawn = {tuple(_classes(seed)) for seed in range(8)}
    assert len(drawn) > 4


def _classes(seed: int) -> list[int]:
    train, _ = Clusters(data_seed=seed, samples=2000).load()
    cluster = torch.cdist(train.x[:, 1:3], centres(3)).argmin(1)
    return [int(train.y[cluster == i][0]) for i in range(9)]


def test_validation_samples_are_beside_the_n_that_are_trained_on() -> None:
    data = Clusters(samples=100, val_size=40, batch_size=100)
    train, val = split(data, data.load()[0], seed=0)
    assert (len(train), len(val)) == (100, 40) == (data.facts().train, data.facts().val)


def test_limit_a_linear_map_is_what_least_squares_finds_on_other_samples() -> None:
    (train, test), (other, _) = (LinearMap(samples=500, data_seed=seed).load() for seed in (0, 1))
    t = torch.linalg.lstsq(train.x.double(), train.y.double()).solution
    assert t.shape == (30, 10) and t.abs().max() <= 1 and t.std() == pytest.approx(3**-0.5, rel=0.1)
    torch.testing.assert_close(test.x.double() @ t, test.y.double(), atol=1e-4, rtol=0)
    assert not torch.allclose(train.y, other.y, atol=0.1)
    noisy, _ = LinearMap(samples=5000, noise=0.5).load()
    clean, _ = LinearMap(samples=5000).load()
    assert torch.equal(noisy.x, clean.x) and (noisy.y - clean.y).std() == pytest.approx(0.5, rel=0.05)


def learned(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert run_here(*overrides, *FULL) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]
    return summary


def test_both_are_learned_under_their_own_objectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rate = ("optimizer.lr=0.5", "method.epochs=300")
    easy = learned(capsys, "dataset=clusters", "dataset.dimensions=3", "dataset.side=2", *rate)
    assert easy["test/acc"] > 0.95
    linear = learned(capsys, "dataset=linear_map", "dataset.samples=3000", "arch.activation=identity", "method.epochs=10")
    assert linear["test/mse"] < 1e-3


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("dataset.balanced=true", "dataset.balanced: 3×3 are an odd number of clusters"),
        ("dataset.side=1", "dataset.side: Input should be greater than or equal to 2"),
        ("dataset.dimensions=2", "dataset.dimensions: Input should be greater than or equal to 3"),
        ("dataset.samples=32", "dataset.batch_size: 256 is larger than the 32 training samples"),
        ("objective=softmax_ce", "objective: SoftmaxCe needs 2 outputs"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    overrides: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here("dataset=clusters", *FULL, *overrides.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"effdl: {says}") and told.count("\n") == 1
    assert not files(tmp_path)


def test_an_even_number_of_clusters_may_be_balanced() -> None:
    made = config.build(config.compose(["dataset=clusters", "dataset.balanced=true", "dataset.side=4", *FULL]))
    train, _ = made.dataset.load()
    assert 0.3 < train.y.float().mean() < 0.7
