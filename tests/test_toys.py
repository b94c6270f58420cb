"""Toy problems in the plane: what their formulas say of points, classes and boundaries."""

import math

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from effdl.datasets.dataset import Facts
from effdl.datasets.toy import Checkerboard, CheckerboardOffDiagonals, Separable, Sinusoidal, TwoSpirals

TOYS = {
    "two_spirals": TwoSpirals,
    "checkerboard": Checkerboard,
    "checkerboard_off_diagonals": CheckerboardOffDiagonals,
    "separable": Separable,
    "sinusoidal": Sinusoidal,
}


@pytest.mark.parametrize("name", TOYS)
def test_toy_problems_are_two_classes_on_one_output_drawn_apart_for_training_and_test(name: str) -> None:
    toy = TOYS[name](samples=2000, val_size=100)
    assert toy.facts() == Facts((2,), "classes", 1, 1900, 100, 2000, 128) and toy.facts().classes == 2
    train, test = toy.load()
    assert train.x.shape == test.x.shape == (2000, 2) and train.y.dtype == torch.long
    assert not torch.equal(train.x, test.x) and torch.equal(train.x, toy.load()[0].x)
    for samples in (train, test):
        assert 0.45 < samples.y.double().mean() < 0.55 and set(samples.y.tolist()) == {0, 1}


def test_the_spirals_are_reflections_of_each_other_as_often_wound_as_asked_for() -> None:
    train, _ = TwoSpirals(turns=2.0).load()
    x, y = train.x.double().numpy(), train.y.numpy()
    radius = np.hypot(*x.T)
    t = 2 * math.pi * 2.0 * radius
    arm = np.stack([np.cos(t), np.sin(t)], 1) * radius[:, None]
    np.testing.assert_allclose(x, np.where(y[:, None] == 0, arm, -arm), atol=1e-4)  # t from a float32 radius
    assert 0.99 < radius.max() <= 1 and abs((radius < 0.5).mean() - 0.25) < 0.03  # t is as dense along the arm as it is long
    noisy, _ = TwoSpirals(turns=2.0, noise=0.05).load()
    assert (noisy.x - train.x).std() == pytest.approx(0.05, rel=0.05) and torch.equal(noisy.y, train.y)


def test_neighbouring_squares_of_the_board_differ() -> None:
    train, _ = Checkerboard().load()
    colours = {
        (math.floor(8 * (a + 0.5)), math.floor(8 * (b + 0.5)), label)
        for (a, b), label in zip(train.x.tolist(), train.y.tolist(), strict=True)
    }
    assert len(colours) == 64 and all((i + j) % 2 == label for i, j, label in colours)


def test_off_its_diagonals_the_board_is_as_dense_everywhere_and_coloured_as_before() -> None:
    train, _ = CheckerboardOffDiagonals(samples=20_000, width=0.1).load()
    a, b = train.x.double().numpy().T
    away = np.minimum(abs(a - b), abs(a + b)) / math.sqrt(2)
    assert 0.1 - 1e-6 <= away.min() < 0.101
    square = np.floor(8 * (train.x.double().numpy() + 0.5)).clip(max=7).sum(1)
    assert np.array_equal(square % 2, train.y)
    # What lies more than w from both diagonals are four triangles with legs 1/2 - w√2, twice as high
    assert (away > 0.2).mean() == pytest.approx(((0.5 - 0.2 * math.sqrt(2)) / (0.5 - 0.1 * math.sqrt(2))) ** 2, abs=0.01)


def test_the_separable_set_is_apart_by_its_margin_and_the_sinusoidal_one_is_not_by_any_line() -> None:
    separable, sinusoidal = Separable(margin=0.2).load()[0], Sinusoidal().load()[0]
    found = LinearSVC(C=1e4).fit(separable.x, separable.y)
    normal = found.coef_[0] / np.linalg.norm(found.coef_[0])
    assert normal @ [math.cos(math.pi / 6), 0.5] > 0.999
    projected = separable.x.double().numpy() @ [math.cos(math.pi / 6), 0.5]
    assert projected[separable.y == 1].min() + 1e-6 >= 0.2 and projected[separable.y == 0].max() <= -0.2 + 1e-6
    assert 0.7 < LinearSVC().fit(sinusoidal.x, sinusoidal.y).score(sinusoidal.x, sinusoidal.y) < 0.95
    above = sinusoidal.x[:, 1] > 0.4 * (2 * math.pi * sinusoidal.x[:, 0]).sin()
    assert torch.equal(above.long(), sinusoidal.y)
