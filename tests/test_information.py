"""Entropies of layers and what they know of classes, where the answer is known by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from looks import look, of_points
from sklearn.metrics import mutual_info_score

from effdl.config import build, compose
from effdl.errors import ConfigError
from effdl.probes.layer_information import LayerInformation
from effdl.probes.probe import measured
from effdl.records.carry import build_network, open_problem
from effdl.representations.information import equal_rows, in_intervals, information


def test_entropies_of_values_are_those_of_hand_and_of_scikit_learn() -> None:
    z, y = np.array([[0, 0], [0, 0], [0, 1], [0, 1], [1, 1], [1, 1], [1, 1], [1, 0]]), np.array([0, 1, 0, 0, 2, 2, 2, 2])
    found = information(z, y)
    assert found.entropy == pytest.approx(0.5 + 0.5 + 3 / 8 * math.log2(8 / 3) + 3 / 8)
    assert found.conditional == pytest.approx(2 / 8)
    rng = np.random.default_rng(0)
    z, y = rng.integers(0, 3, (500, 2)), rng.integers(0, 4, 500)
    y[:200] = z[:200, 0]
    cells = 3 * z[:, 0] + z[:, 1]
    assert information(z, y).mutual == pytest.approx(mutual_info_score(cells, y) / math.log(2))
    assert information(np.arange(8), np.arange(8)).mutual == 3 and information(np.zeros(8), np.arange(8)).mutual == 0


def test_equal_rows_are_those_that_comparing_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8):
        z = torch.randint(0, 3, (400, 2, 3), generator=generator).to(dtype)
        first, which = equal_rows(z)
        wanted = torch.unique(z.flatten(1), dim=0, return_inverse=True)[1]
        assert len(first) == wanted.max() + 1 and ((which[:, None] == which) == (wanted[:, None] == wanted)).all()
        assert torch.equal(z[first[which]], z) and (first[which] <= torch.arange(400)).all()
    assert len(equal_rows(torch.tensor([[0.0], [-0.0]]))[0]) == 1


def test_intervals_are_of_equal_width_over_the_range_of_all() -> None:
    z = torch.tensor([[0.0, 1.0], [2.4, 2.6], [4.0, 3.9]])
    assert in_intervals(z, 4).tolist() == [[0.5, 1.5], [2.5, 2.5], [3.5, 3.5]]
    assert in_intervals(torch.ones(3, 1), 4).tolist() == [[1.0]] * 3


def test_layers_that_multiply_keep_all_and_one_that_folds_loses_what_it_folds() -> None:
    x = torch.arange(8.0)[:, None] - 3.5
    y = (x[:, 0] > 0).long()
    found = measured(LayerInformation(bins=8), of_points(x, y, 2.0, 1.0), 0)
    layers = {key.split("/")[1] for key in found if key.startswith("entropy/")}
    assert len(layers) == 4 and all(found[f"entropy/{layer}"] == 3 and found[f"information/{layer}"] == 1 for layer in layers)
    assert found["classes"] == 1
    seen = of_points(x, y, 2.0, 1.0)
    seen.blocks.get_submodule(list(dict(seen.blocks.named_children()))[-1]).weight.data.zero_()
    found, last = measured(LayerInformation(bins=8), seen, 0), list(dict(seen.blocks.named_children()))[-1]
    assert (found[f"entropy/{last}"], found[f"conditional/{last}"], found[f"information/{last}"]) == (0, 1, 0)


def test_information_is_never_won_on_the_way_up() -> None:
    """The data processing inequality, of any network: eq. 5.6, and H(f(Z)) ≤ H(Z)."""
    for seed in range(5):
        torch.manual_seed(seed)
        model = tiny.perceptron(hidden=(9, 5, 3, 2))
        found = measured(LayerInformation(bins=3, samples=200), look(model, tiny.problem(train=200)), 0)
        names = ["input", *model.names, "output"]
        for kind in ("entropy", "information"):
            values = [found[f"{kind}/{name}"] for name in names]
            assert all(lower >= upper - 1e-12 for lower, upper in pairwise(values))
        assert values[-1] < values[0]


def test_of_real_targets_each_distinct_one_is_a_value() -> None:
    spec = build(
        compose(
            [
                "dataset=sine",
                "dataset.samples=64",
                "dataset.val_size=0",
                "dataset.batch_size=64",
                "arch=mlp",
                "objective=linear_mse",
            ]
        )
    )
    problem = open_problem(spec, *spec.dataset.load())
    model = build_network(spec, problem, torch.device("cpu"))
    found = measured(LayerInformation(bins=2**20), look(model, problem), 0)
    assert found["classes"] == 6 and found["information/input"] == pytest.approx(6, abs=0.1)


def test_a_layer_that_does_not_fit_is_refused() -> None:
    model = tiny.perceptron(hidden=(2000,))
    with pytest.raises(ConfigError, match=r"layer_information\.memory_mib"):
        measured(LayerInformation(memory_mib=1, samples=400), look(model, tiny.problem(train=400)), 0)
