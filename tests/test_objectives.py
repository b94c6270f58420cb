"""Objectives against canonical gradients, finite differences, plain Python and scikit-learn, in float64."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import accuracy_score, mean_squared_error
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.config import build_choice, choices
from effdl.datasets.split import Samples
from effdl.objectives.losses import LinearMse, SigmoidBce, SoftmaxCe, TanhMse
from effdl.objectives.objective import Objective
from effdl.objectives.simplex import onto_simplex
from effdl.training.loop import evaluate, reduce_loss

OBJECTIVES: dict[str, Objective] = {name: build_choice("objective", name) for name in choices("objective")}
LOW_HIGH = {"softmax_ce": (0, 1), "linear_mse": (0, 1), "sigmoid_bce": (0, 1), "tanh_mse": (-1, 1)}
LOW_HIGH |= {"exp_ga": (0, 6), "pow3_ga": (-2, 10)}
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, dtype=torch.float64, generator=GENERATOR)
CLASSES = torch.tensor([0, 3, 1, 1, 2, 0])
REALS = torch.rand(6, 4, dtype=torch.float64, generator=GENERATOR)


def coded(name: str) -> Tensor:
    """Class targets as the objective codes them, spelled out."""
    low, high = LOW_HIGH[name]
    return torch.tensor([[high if k == c else low for k in range(4)] for c in CLASSES.tolist()], dtype=torch.float64)


def gradient(objective: Objective, y: Tensor) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective.loss(logits, y).sum(), logits)
    return found


def units(name: str, logits: Tensor) -> Tensor:
    """The output units from their definitions."""
    exponential = logits.exp()
    return {
        "softmax_ce": exponential / exponential.sum(1, keepdim=True),
        "linear_mse": logits,
        "sigmoid_bce": exponential / (1 + exponential),
        "tanh_mse": (exponential - 1 / exponential) / (exponential + 1 / exponential),
        "exp_ga": 0.1 * exponential,
        "pow3_ga": 0.001 * logits**3 + 0.4,
    }[name]


def canonical(name: str, t: Tensor) -> Tensor:
    """dE/da: y − t where loss and units match (§4.2, §4.3), (y − t)(1 − y²) for tanh with the squared error (§3.1)."""
    y = units(name, LOGITS)
    return (y - t) * (1 - y**2) if name == "tanh_mse" else y - t


def test_every_objective_is_covered() -> None:
    assert sorted(OBJECTIVES) == sorted(LOW_HIGH)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_the_canonical_one(name: str) -> None:
    torch.testing.assert_close(gradient(OBJECTIVES[name], CLASSES), canonical(name, coded(name)), rtol=1e-12, atol=1e-14)
    if "vectors" in OBJECTIVES[name].takes:
        torch.testing.assert_close(gradient(OBJECTIVES[name], REALS), canonical(name, REALS), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_equals_finite_differences(name: str) -> None:
    targets = [CLASSES, REALS] if "vectors" in OBJECTIVES[name].takes else [CLASSES]
    for y in targets:
        assert torch.autograd.gradcheck(lambda a, y=y: OBJECTIVES[name].loss(a, y), LOGITS.clone().requires_grad_())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_output_units_are_what_their_names_say(name: str) -> None:
    torch.testing.assert_close(OBJECTIVES[name].units(LOGITS), units(name, LOGITS), rtol=1e-12, atol=1e-14)


def loss_by_hand(name: str, logits: list[float], t: list[float]) -> float:
    y = units(name, torch.tensor([logits], dtype=torch.float64))[0].tolist()
    if name == "softmax_ce":
        return -sum(tk * math.log(yk) for tk, yk in zip(t, y, strict=True))
    if name == "exp_ga":
        return sum(abs(yk) - tk * math.log(yk) for tk, yk in zip(t, y, strict=True))
    if name == "pow3_ga":
        return sum(0.001 * a**4 / 4 + 0.4 * a - tk * a for tk, a in zip(t, logits, strict=True))
    if name == "sigmoid_bce":
        return -sum(tk * math.log(yk) + (1 - tk) * math.log(1 - yk) for tk, yk in zip(t, y, strict=True))
    return 0.5 * sum((yk - tk) ** 2 for tk, yk in zip(t, y, strict=True))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_per_sample_and_equal_those_worked_out_one_by_one(name: str) -> None:
    losses = OBJECTIVES[name].loss(LOGITS, CLASSES)
    by_hand = [loss_by_hand(name, a, t) for a, t in zip(LOGITS.tolist(), coded(name).tolist(), strict=True)]
    assert losses.shape == (6,)
    np.testing.assert_allclose(losses.numpy(), by_hand, rtol=1e-12)
    if "vectors" in OBJECTIVES[name].takes:
        by_hand = [loss_by_hand(name, a, t) for a, t in zip(LOGITS.tolist(), REALS.tolist(), strict=True)]
        np.testing.assert_allclose(OBJECTIVES[name].loss(LOGITS, REALS).numpy(), by_hand, rtol=1e-12)


@pytest.mark.parametrize("name", ["softmax_ce", "sigmoid_bce"])
def test_large_outputs_give_finite_losses(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0]])
    losses = OBJECTIVES[name].loss(logits, torch.tensor([1]))
    assert losses.isfinite().all() and losses.item() > 1e4


def test_target_ranges_are_what_the_output_units_reach() -> None:
    large = torch.tensor([[-1e3, 1e3]], dtype=torch.float64)
    reached = {name: tuple(o.units(large)[0].tolist()) for name, o in OBJECTIVES.items() if "vectors" in o.takes}
    ranges = {name: OBJECTIVES[name].target_range for name in reached}
    assert ranges.pop("exp_ga") == (0, math.inf) and reached.pop("exp_ga") == (0, pytest.approx(sys.float_info.max))
    assert ranges.pop("pow3_ga") is None and reached.pop("pow3_ga") == (pytest.approx(-1e6), pytest.approx(1e6))
    assert {name: limits or (-1e3, 1e3) for name, limits in ranges.items()} == reached


def test_bounded_sigmoids_are_those_of_tanh_units_and_never_certain() -> None:
    """Against plain Python; ch7.spirals_bp_ce is printed close to the floor ln(1 + 1/e)."""
    bounded, a = SigmoidBce(bounded=True), [0.3, -2.0, 1.5, -0.1]
    by_hand = [1 / (1 + math.exp(-math.tanh(one))) for one in a]
    outputs, y = torch.tensor([a], dtype=torch.float64).T, torch.tensor([1, 0, 0, 1])
    np.testing.assert_allclose(bounded.units(outputs)[:, 0].numpy(), by_hand, rtol=1e-12)
    losses = [-math.log(p if of_second else 1 - p) for p, of_second in zip(by_hand, y.tolist(), strict=True)]
    np.testing.assert_allclose(bounded.loss(outputs, y).numpy(), losses, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda z: bounded.loss(z, y), outputs.clone().requires_grad_())
    sure = torch.tensor([[50.0], [-50.0]], dtype=torch.float64)
    np.testing.assert_allclose(bounded.loss(sure, torch.tensor([1, 0])).numpy(), math.log(1 + math.exp(-1)), rtol=1e-12)


def test_targets_can_be_chosen() -> None:
    loss = LinearMse(targets=(0, 16)).loss(LOGITS, CLASSES)  # §4.3 uses {0, 16}
    t = 16 * coded("linear_mse")
    torch.testing.assert_close(loss, 0.5 * ((LOGITS - t) ** 2).sum(1), rtol=1e-12, atol=0)
    narrow = TanhMse(targets=(-0.9, 0.9)).loss(LOGITS, CLASSES)
    t = 0.2 + 0.7 * coded("sigmoid_bce")
    expected = -(t * units("sigmoid_bce", LOGITS).log() + (1 - t) * (1 - units("sigmoid_bce", LOGITS)).log()).sum(1)
    torch.testing.assert_close(SigmoidBce(targets=(0.2, 0.9)).loss(LOGITS, CLASSES), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(narrow, 0.5 * ((LOGITS.tanh() - 0.9 * coded("tanh_mse")) ** 2).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_evaluate_gives_scikit_learns_accuracy_and_the_mean_loss(name: str) -> None:
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(50) % 4
    model = BlockChain([nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5))], nn.Linear(5, 4)).double().train()
    modes = [m.training for m in model.modules()]
    found = evaluate(model, Samples(x, y).batches(8), OBJECTIVES[name])  # batches of 8, the last of 2
    assert [m.training for m in model.modules()] == modes
    with torch.no_grad():
        outputs = model.eval()(x)
    assert set(found) == {"loss", "acc", *(["mse"] if name not in ("softmax_ce", "sigmoid_bce") else [])}
    assert found["acc"] == pytest.approx(accuracy_score(y.numpy(), outputs.numpy().argmax(1)), abs=1e-12)
    t = [[LOW_HIGH[name][k == c] for k in range(4)] for c in y.tolist()]
    by_hand = [loss_by_hand(name, a, tk) for a, tk in zip(outputs.tolist(), t, strict=True)]
    assert found["loss"] == pytest.approx(np.mean(by_hand), rel=1e-10)
    if "mse" in found:
        assert found["mse"] == pytest.approx(mean_squared_error(t, units(name, outputs).numpy()), rel=1e-12)


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if "vectors" in o.takes])
def test_evaluate_gives_scikit_learns_mean_squared_error_of_the_units(name: str) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.rand(50, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = evaluate(nn.Identity(), Samples(x, y).batches(8), OBJECTIVES[name])
    assert set(found) == {"loss", "mse"}
    assert found["mse"] == pytest.approx(mean_squared_error(y.numpy(), units(name, x).numpy()), rel=1e-12)


def test_evaluate_of_nothing_is_nothing() -> None:
    assert evaluate(nn.Identity(), iter(()), SoftmaxCe()) == {}


def test_the_reduction_is_the_mean_weighted_where_there_are_weights() -> None:
    losses, weights = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 3.0])
    assert reduce_loss(losses, None).item() == pytest.approx(np.mean([1, 2, 4]))
    assert reduce_loss(losses, weights).item() == pytest.approx(np.average([1, 2, 4], weights=[1, 0, 3]))


def test_only_softmax_refuses_real_targets() -> None:
    assert {name for name, o in OBJECTIVES.items() if "vectors" not in o.takes} == {"softmax_ce"}
    assert all("classes" in o.takes for o in OBJECTIVES.values())
    assert isinstance(OBJECTIVES["sigmoid_bce"], SigmoidBce)


@pytest.mark.parametrize("name", ["linear_mse", "sigmoid_bce", "tanh_mse"])
def test_one_output_tells_two_classes_by_its_sign(name: str) -> None:
    a, y = torch.tensor([[0.3], [-2.0], [1.5], [-0.1]], dtype=torch.float64), torch.tensor([1, 0, 0, 1])
    t = 2 * y[:, None].double() - 1
    expected = {
        "linear_mse": (a - t).square()[:, 0] / 2,
        "sigmoid_bce": (1 + (-t * a).exp()).log()[:, 0],
        "tanh_mse": (a.tanh() - t).square()[:, 0] / 2,
    }[name]
    torch.testing.assert_close(OBJECTIVES[name].loss(a, y), expected, rtol=1e-12, atol=1e-12)
    assert LinearMse().decide(a).tolist() == [1, 0, 1, 0]
    found = evaluate(nn.Identity(), Samples(a, y).batches(3), OBJECTIVES[name])
    assert found["acc"] == 0.5 and found["loss"] == pytest.approx(expected.mean().item(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_probabilities_are_the_closest_that_a_numerical_search_finds(classes: int) -> None:
    outputs = np.random.default_rng(0).normal(0.3, 0.8, size=(12, classes))
    for row, found in zip(outputs, onto_simplex(torch.from_numpy(outputs)).numpy(), strict=True):
        sums_to_1 = {"type": "eq", "fun": lambda p: p.sum() - 1}
        start = np.full(classes, 1 / classes)
        searched = minimize(
            lambda p, row=row: np.square(p - row).sum(),
            start,
            bounds=[(0, 1)] * classes,
            constraints=sums_to_1,
            method="SLSQP",
            tol=1e-14,
        )
        np.testing.assert_allclose(found, searched.x, atol=1e-6)


def test_outputs_that_are_probabilities_stay_and_far_ones_are_certain() -> None:
    valid = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(onto_simplex(valid), valid, rtol=0, atol=1e-15)
    far = torch.tensor([[-5.0, -9.0, -7.0], [1e9, 2e9, 0.0], [4.0, 4.0, -1.0]], dtype=torch.float64)
    assert onto_simplex(far).tolist() == [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]
