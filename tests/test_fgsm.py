"""The fast gradient sign method against a gradient that is written out by hand, in float64."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl import Run, Samples, Sgd, SigmoidBce, SoftmaxCe
from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.config import build, compose
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.dfa import Dfa
from effdl.methods.segmentwise import Segmentwise
from effdl.probes.fgsm import Fgsm, fgsm, gradient
from effdl.probes.probe import measured
from effdl.training.decision_rule import DecisionRule
from effdl.training.look import Learning, Look

W1 = np.array([[0.5, -1.0, 0.25], [1.5, 0.75, -0.5]])
B1 = np.array([0.1, -0.2])
W2 = np.array([[0.8, -1.2]])
B2 = np.array([0.05])
MEAN, STD = np.array([0.5, -0.25, 1.0]), np.array([2.0, 0.5, 1.25])
X = np.array([[1.0, -0.5, 2.0], [0.3, 0.8, -1.0], [-2.0, 0.1, 0.4], [2.5, -1.5, 0.2]])
Y = np.array([1, 0, 1, 0])


def network() -> BlockChain:
    """3-2-1, ReLU, behind an input block that standardises."""
    block, linear, head = InputBlock((3,)).double(), nn.Linear(3, 2).double(), nn.Linear(2, 1).double()
    block.mean, block.std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    for layer, weight, bias in ((linear, W1, B1), (head, W2, B2)):
        layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    return BlockChain({"linear1": nn.Sequential(linear, nn.ReLU())}, head, block)


def slopes_by_hand() -> Any:
    """∂L/∂x = ((ŷ − y) W₂ ⊙ 1[a₁ > 0]) W₁ / std, of L = −y log ŷ − (1 − y) log(1 − ŷ)."""
    a1 = (X - MEAN) / STD @ W1.T + B1
    error = 1 / (1 + np.exp(-(np.maximum(a1, 0) @ W2.T + B2))) - Y[:, None]
    return (error @ W2 * (a1 > 0)) @ W1 / STD


def accuracy_by_hand(x: Any) -> float:
    out = np.maximum((x - MEAN) / STD @ W1.T + B1, 0) @ W2.T + B2
    return float(((out[:, 0] > 0) == Y).mean())


def test_the_gradient_is_the_one_by_hand() -> None:
    found = gradient(network(), SigmoidBce(), torch.from_numpy(X), torch.from_numpy(Y))
    np.testing.assert_allclose(found.numpy(), slopes_by_hand(), rtol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0, 3.0])
def test_accuracy_is_that_on_samples_moved_by_hand(eps: float) -> None:
    samples = Samples(torch.from_numpy(X), torch.from_numpy(Y))
    problem = Problem(samples, samples, SigmoidBce(), outputs=1, batch_size=3)
    model = network()
    rule = DecisionRule(model.blocks, model.head, problem.objective)
    learning = Learning(rule, problem.objective, 1, lambda: next(problem.train(0)), problem, (), model)
    found = measured(Fgsm(eps=(eps,)), Look(model.blocks, learning), 0)
    assert found[f"acc/{eps:g}"] == accuracy_by_hand(X + eps * np.sign(slopes_by_hand()))
    assert found["acc/0"] == accuracy_by_hand(X)
    assert found["unmoved"] == float((slopes_by_hand() == 0).all(1).mean()) == 0.25
    assert found["gradient"] == pytest.approx(np.linalg.norm(slopes_by_hand(), axis=1).mean(), rel=1e-12)
    assert all(p.grad is None for p in model.parameters())


def test_images_stay_between_black_and_white() -> None:
    x, slope = torch.tensor([0.0, 100.0, 250.0]), torch.tensor([-1.0, 0.5, 2.0])
    assert fgsm(x, slope, 25.5, 255.0).tolist() == [0, 125.5, 255]
    assert fgsm(x, slope, 25.5, None).tolist() == [-25.5, 125.5, 275.5]
    assert fgsm(x, torch.zeros(3), 25.5, 255.0).tolist() == x.tolist()


def test_eps_is_a_share_of_the_largest_training_value() -> None:
    """A network that tells classes by whether one pixel is above 100 is fooled as soon as eps · 200 takes it there, and
    where it is so sure (logits of 30 and -27) that in float32 there is no gradient."""

    class OnePixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * (x[:, 0, 0, :1].to(self.scale) - 100) * 0.3

    x = torch.tensor([200, 130, 80, 10], dtype=torch.uint8)[:, None, None, None].expand(4, 1, 1, 2).contiguous()
    samples = Samples(x, torch.tensor([1, 1, 0, 0]))
    problem = Problem(samples, samples, SigmoidBce(), outputs=1, batch_size=2)
    model = BlockChain({"one": OnePixel()}, nn.Identity())
    rule = DecisionRule(model.blocks, model.head, problem.objective)
    learning = Learning(rule, problem.objective, 1, lambda: next(problem.train(0)), problem, (), model)
    found = measured(Fgsm(eps=(0.09, 0.11, 0.16, 0.6)), Look(model.blocks, learning), 0)
    assert [found[f"acc/{eps}"] for eps in ("0", "0.09", "0.11", "0.16", "0.6")] == [1, 1, 0.75, 0.5, 0]
    assert found["unmoved"] == 0 and (gradient(model, SigmoidBce(), x, samples.y) == 0).any()


@pytest.mark.parametrize("method", [Backprop(epochs=2), Dfa(epochs=2), Segmentwise(epochs=1)])
def test_it_is_measured_at_the_ends_of_epochs_and_accuracy_without_it_is_the_validation_accuracy(method: Any) -> None:
    run = Run(0, Sgd(lr=0.05), probes=(Fgsm(eps=(0.3,)),))
    method.fit(tiny.problem(), tiny.chain(dropout=0.0), run)
    found = {(line["segment"], line["epoch"]): line for line in run.lines if "fgsm/acc/0" in line}
    trained = {(line["segment"], line["epoch"]): line for line in run.lines if "val/acc" in line}
    assert found.keys() == trained.keys()
    for place, line in found.items():
        assert line["fgsm/acc/0"] == pytest.approx(trained[place]["val/acc"])
        assert line["fgsm/acc/0.3"] <= line["fgsm/acc/0"] and math.isfinite(line["fgsm/gradient"])


def test_the_gradient_is_the_true_one_under_any_rule() -> None:
    """And not the one by which DFA learns, whose backward pass has other weights."""
    problem, model = tiny.problem(), tiny.perceptron().double()
    run = Run(0, Sgd(lr=0.05), probes=())
    network = Dfa(epochs=1).fit(problem, model, run)
    batch = next(problem.val())
    found = gradient(network, SoftmaxCe(), batch.x, batch.y)
    base, step = batch.x.double(), 1e-6
    for pixel in (7, 20):
        moved = [base.flatten(1).clone() for _ in range(2)]
        moved[0][:, pixel] += step
        moved[1][:, pixel] -= step
        with torch.no_grad():
            up, down = (SoftmaxCe().loss(network(x.view_as(base)), batch.y) for x in moved)
        torch.testing.assert_close(found.flatten(1)[:, pixel], (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("dataset=digits", "dataset.val_size=0"), "^probe=fgsm: there are no validation samples"),
        (("dataset=linear_map",), "^probe=fgsm: measures accuracy, and these targets are vectors"),
        (("dataset=digits", "probe.fgsm.eps=[]"), r"^probe.fgsm.eps is empty"),
        (("dataset=digits", "probe.fgsm.eps=[-0.1]"), r"^probe.fgsm.eps.*greater than or equal to 0"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(compose(["probe=fgsm", "arch=mlp", "arch.hidden=[8]", *overrides]))
