"""Probes of weights, gradients and outputs: answers known by hand and by NumPy."""

import numpy as np
import pytest
import tiny
import torch
from looks import look, of_points
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.probes.gradient_rms import GradientRms
from effdl.probes.output_deltas import OutputDeltas
from effdl.probes.probe import measured
from effdl.probes.right_answers import RightAnswers
from effdl.probes.softmax_normaliser import SoftmaxNormaliser
from effdl.probes.weight_entropy import WeightEntropy, weight_entropy
from effdl.probes.weights import Weights
from effdl.training.look import Look


def test_entropy_of_weights_that_say_it_themselves() -> None:
    assert weight_entropy(torch.arange(16.0), 4) == pytest.approx(4)
    assert weight_entropy(torch.arange(16.0), 1) == pytest.approx(1)
    assert weight_entropy(torch.tensor([0.0, 0.0, 0.0, 1.0]), 8) == pytest.approx(2 - 0.75 * np.log2(3))
    assert weight_entropy(torch.ones(5), 4) == 0 and np.isnan(weight_entropy(torch.tensor([0.0, np.nan]), 4))
    w = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    counts = np.histogram(w.double().numpy(), 2**6)[0] / 1000
    assert weight_entropy(w, 6) == pytest.approx(-(counts[counts > 0] * np.log2(counts[counts > 0])).sum(), rel=1e-3)
    found = measured(WeightEntropy(bits=(3,)), look(tiny.perceptron(), tiny.problem()), 0)
    assert list(found) == ["3/linear1", "3/linear2", "3/output"] and all(0 < value <= 3 for value in found.values())


def test_a_bias_is_that_of_the_matrix_and_not_of_what_normalises() -> None:
    block = nn.Sequential(nn.Linear(36, 3), nn.BatchNorm1d(3))
    block[1].bias.data += 7
    model = BlockChain([nn.Sequential(nn.Flatten(), block)], nn.Linear(3, 3, bias=False), tiny.chain().input)
    found = measured(Weights(), look(model, tiny.problem()), 0)
    (name,) = model.names
    assert [*found] == [f"{name}/0", f"{name}/1", f"{name}/2", f"{name}/bias", "head/0", "head/1", "head/2"]
    assert found[f"{name}/bias"] == block[0].bias.tolist()


def test_gradients_are_those_worked_out_by_hand() -> None:
    problem, model = tiny.problem(), tiny.perceptron()
    found = measured(GradientRms(), look(model, problem), 0)
    data = problem.train_tensors()
    with torch.no_grad():
        z1 = model.blocks[0](model.input(data.x)).double()
        z2 = model.blocks[1](z1.float()).double()
        head = model.head.weight.double()
        delta = (model.head.double()(z2).softmax(1) - torch.eye(3, dtype=torch.float64)[data.y]).double()
        back = delta @ head
    model.head.float()

    def rms(t: Tensor) -> float:
        return float(t.square().mean().sqrt())

    assert found["deltas/output"] == pytest.approx(rms(delta), rel=1e-5)
    assert found["deltas/linear2"] == pytest.approx(rms(back), rel=1e-5)
    assert found["weights/output"] == pytest.approx(rms(delta.T @ z2 / len(z2)), rel=1e-5)
    assert found["weights/linear2"] == pytest.approx(rms((back * (z2 > 0)).T @ z1 / len(z2)), rel=1e-5)
    assert set(found) == {f"{kind}/{name}" for kind in ("weights", "deltas") for name in ("linear1", "linear2", "output")}
    assert all(p.grad is None for p in model.parameters())


def of_outputs(outputs: list[list[float]], y: list[int]) -> Look:
    """A network that puts out its inputs."""
    return of_points(torch.tensor(outputs, dtype=torch.float32), torch.tensor(y), 1.0)


def test_deltas_of_softmax_are_outputs_less_targets() -> None:
    found = measured(OutputDeltas(bins=4), of_outputs([[0.0, 0.0], [0.0, np.log(3.0)], [0.0, 0.0]], [0, 1, 1]), 0)
    # y - t: (-1/2, 1/2), (1/4, -1/4), (1/2, -1/2)
    assert (found["min"], found["max"]) == (-0.5, 0.5) and found["mean"] == pytest.approx(0)
    assert found["rms"] == pytest.approx(np.sqrt((4 / 4 + 2 / 16) / 6))
    assert found["count"] == [2, 1, 0, 3] and found["low"] == [-0.5, -0.25, 0, 0.25] and found["high"][-1] == 0.5


def test_the_normaliser_is_the_sum_of_exponentials_and_null_beyond_float64() -> None:
    found = measured(SoftmaxNormaliser(), of_outputs([[0.0, np.log(2.0)], [0.0, 0.0]], [0, 1]), 0)
    assert (found["mean"], found["min"], found["max"]) == pytest.approx((2.5, 2, 3))
    assert found["log"] == pytest.approx(np.log(6) / 2)
    large = measured(SoftmaxNormaliser(), of_outputs([[0.0, 800.0], [0.0, 0.0]], [0, 1]), 0)
    assert np.isinf(large["max"]) and large["log"] == pytest.approx((800 + np.log(2)) / 2) and large["min"] == 2


def test_right_answers_are_told_sample_by_sample() -> None:
    found = measured(RightAnswers(), of_outputs([[0.0, 1.0], [3.0, 1.0], [0.0, 2.0], [1.0, 0.0]], [0, 0, 1, 1]), 0)
    assert found == {"right": [0, 1, 1, 0], "acc": 0.5}
