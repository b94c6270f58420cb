"""Every optimizer against its printed rule (Demirbilek §1.4), written out with NumPy in float64; and what they share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from effdl.config import build_choice, choices
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.loop import evaluate
from effdl.training.optim import Adadelta, Adagrad, Adam, Adamw, Optimizer, Rmsprop, Sgd
from effdl.training.rmsprop import RmspropInRoot

CHOICES = [name for name in choices("optimizer") if name != "none"]
ALGORITHMS = ["sgd", "adagrad", "adadelta", "rmsprop", "rmsprop_torch", "adam", "adamw"]  # others differ in numbers alone
STEPS, LR = 10, 0.03
Rule = Iterator[np.ndarray]  # θ after each step
Gradient = Callable[[np.ndarray], np.ndarray]

GENERATOR = np.random.default_rng(0)
A, B, START = GENERATOR.normal(size=(7, 4)), GENERATOR.normal(size=7), GENERATOR.normal(size=4)
SIZES = {"as they come": 1.0, "as small as the root of ε": 1e-4}


def gradient_of(size: float) -> Gradient:
    """∇J(θ) of ½ s‖Aθ − b‖², which differs at each θ."""
    return lambda theta: size * A.T @ (A @ theta - B)


def sgd(theta: np.ndarray, gradient: Gradient) -> Rule:
    while True:
        theta = theta - LR * gradient(theta)
        yield theta


def momentum(theta: np.ndarray, gradient: Gradient) -> Rule:
    v = np.zeros_like(theta)
    while True:
        v = 0.9 * v + LR * gradient(theta)
        theta = theta - v
        yield theta


def nesterov(theta: np.ndarray, gradient: Gradient) -> Rule:
    """v = γv + η∇J(θ − γv), θ = θ − v; torch holds the point θ − γv, at which the next gradient is taken."""
    v = np.zeros_like(theta)
    while True:
        v = 0.9 * v + LR * gradient(theta - 0.9 * v)
        theta = theta - v
        yield theta - 0.9 * v


def adagrad(theta: np.ndarray, gradient: Gradient) -> Rule:
    total = np.zeros_like(theta)
    while True:
        g = gradient(theta)
        total = total + g**2
        theta = theta - LR / np.sqrt(total + 1e-8) * g
        yield theta


def adadelta(theta: np.ndarray, gradient: Gradient, rho: float = 0.9) -> Rule:
    """The running mean is of steps before they are scaled by η, as torch has it, to which the text refers."""
    of_g, of_steps = np.zeros_like(theta), np.zeros_like(theta)
    while True:
        g = gradient(theta)
        of_g = rho * of_g + (1 - rho) * g**2
        step = np.sqrt(of_steps + 1e-8) / np.sqrt(of_g + 1e-8) * g
        of_steps = rho * of_steps + (1 - rho) * step**2
        theta = theta - LR * step
        yield theta


def rmsprop(theta: np.ndarray, gradient: Gradient, rho: float = 0.9) -> Rule:
    mean = np.zeros_like(theta)
    while True:
        g = gradient(theta)
        mean = rho * mean + (1 - rho) * g**2
        theta = theta - LR / np.sqrt(mean + 1e-8) * g
        yield theta


def adam(theta: np.ndarray, gradient: Gradient, beta1: float = 0.9, decay: float = 0.0) -> Rule:
    """decay: decoupled, as AdamW has it."""
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g, t = gradient(theta), t + 1
        m, v = beta1 * m + (1 - beta1) * g, 0.999 * v + 0.001 * g**2
        moved = LR / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) * (m / (1 - beta1**t))
        theta = theta - LR * decay * theta - moved
        yield theta


PRINTED: dict[str, tuple[Optimizer, Callable[..., Rule]]] = {
    "sgd": (Sgd(lr=LR, momentum=0), sgd),
    "momentum": (Sgd(lr=LR), momentum),
    "nesterov": (Sgd(lr=LR, nesterov=True), nesterov),
    "adagrad": (Adagrad(lr=LR), adagrad),
    "adadelta": (Adadelta(lr=LR), adadelta),
    "rmsprop": (Rmsprop(lr=LR), rmsprop),
    "adam": (Adam(lr=LR), adam),
}


def steps_of(optimizer: Optimizer, gradient: Gradient, **scales: float) -> np.ndarray:
    """θ after each of ten steps, (10, 4)."""
    theta = nn.Parameter(torch.tensor(START))
    built, found = optimizer.build([theta], **scales), []
    for _ in range(STEPS):
        theta.grad = torch.from_numpy(gradient(theta.detach().numpy()))
        built.step()
        found.append(theta.detach().numpy().copy())
    return np.stack(found)


def by_hand(rule: Callable[..., Rule], gradient: Gradient, **constants: float) -> np.ndarray:
    return np.stack(list(islice(rule(START, gradient, **constants), STEPS)))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PRINTED)
def test_ten_steps_are_those_of_the_printed_rule(name: str, size: float) -> None:
    optimizer, rule = PRINTED[name]
    found, expected = steps_of(optimizer, gradient_of(size)), by_hand(rule, gradient_of(size))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert np.abs(found[-1] - START).max() > 1e-6


@pytest.mark.parametrize("name", PRINTED)
def test_weight_decay_is_a_part_of_the_gradient(name: str) -> None:
    optimizer, rule = PRINTED[name]
    plain = gradient_of(1.0)
    found = steps_of(replace(optimizer, weight_decay=0.3), plain)
    np.testing.assert_allclose(found, by_hand(rule, lambda theta: plain(theta) + 0.3 * theta), rtol=1e-12, atol=1e-15)


def test_adamws_weight_decay_is_not() -> None:
    found = steps_of(Adamw(lr=LR, weight_decay=0.3), gradient_of(1.0))
    np.testing.assert_allclose(found, by_hand(adam, gradient_of(1.0), decay=0.3), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "rule", "constants"),
    [("adadelta", adadelta, {"rho": 1e-3}), ("rmsprop", rmsprop, {"rho": 1e-3}), ("adam", adam, {"beta1": 1e-3})],
)
def test_the_authors_slip_has_the_weight_decay_for_the_decay_constant_and_no_weight_decay(
    name: str, rule: Callable[..., Rule], constants: dict[str, float]
) -> None:
    slip = build_choice("optimizer", f"{name}_slip")
    found, gradient = steps_of(replace(slip, lr=LR), gradient_of(1.0)), gradient_of(1.0)
    np.testing.assert_allclose(found, by_hand(rule, gradient, **constants), rtol=1e-12, atol=1e-15)
    moved = found - START
    assert not np.allclose(moved, by_hand(rule, gradient) - START, rtol=0.1) and slip.weight_decay == 0


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("adagrad", torch.optim.Adagrad), ("adadelta", torch.optim.Adadelta), ("rmsprop", torch.optim.RMSprop)],
)
def test_torchs_own_constants_have_a_choice_each(name: str, theirs: Any) -> None:
    ours = build_choice("optimizer", f"{name}_torch")
    theta = nn.Parameter(torch.tensor(START))
    built, plain = ours.build([theta]), theirs([theta])
    assert type(built) is theirs and {**built.defaults, "foreach": None} == plain.defaults


def test_where_the_constant_is_added_counts_for_small_gradients_alone() -> None:
    for size, apart in ((1.0, False), (1e-4, True)):
        for printed, theirs in ((Rmsprop(lr=LR), {"eps_in_root": False}), (Adagrad(lr=LR), {"eps_in_root": False})):
            found = steps_of(printed, gradient_of(size)), steps_of(replace(printed, **theirs), gradient_of(size))  # type: ignore[arg-type]
            assert (np.abs(found[0] - found[1]).max() > 1e-3) == apart
            assert (np.abs(found[0] - found[1]).max() < 1e-6) != apart


def test_all_weights_at_once_are_updated_as_one_by_one() -> None:
    """As on a GPU; bit for bit on a CPU."""
    found = []
    for foreach in (False, True):
        weights = [nn.Parameter(torch.linspace(-1, 1, size)) for size in (3, 5)]
        idle = nn.Parameter(torch.ones(2))
        built = RmspropInRoot([*weights, idle], lr=LR, alpha=0.9, eps=1e-8, weight_decay=0.1, foreach=foreach)
        for step in range(STEPS):
            for weight in weights:
                weight.grad = weight.detach().cos() * (step + 1)
            built.step()
        found.append([*weights, idle])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) and torch.equal(found[0][2], torch.ones(2))


# --- what all have in common


@pytest.mark.parametrize("choice", CHOICES)
def test_base_values_are_scaled_by_the_segment(choice: str) -> None:
    base = replace(build_choice("optimizer", choice), lr=LR, weight_decay=0.2)
    scaled = steps_of(base, gradient_of(1.0), lr_scale=0.5, weight_decay_scale=3.0)
    plain = steps_of(replace(base, lr=0.5 * LR, weight_decay=3 * 0.2), gradient_of(1.0))
    np.testing.assert_allclose(scaled, plain, rtol=1e-13)
    assert np.abs(scaled - steps_of(base, gradient_of(1.0))).max() > 1e-6


@pytest.mark.parametrize("choice", CHOICES)
def test_what_does_not_learn_is_left_alone(choice: str) -> None:
    """By weight decay too, and it takes no state."""
    frozen, learns = nn.Parameter(torch.ones(3), requires_grad=False), nn.Parameter(torch.ones(2))
    built = replace(build_choice("optimizer", choice), weight_decay=0.5).build([frozen, learns])
    learns.grad = torch.ones(2)
    built.step()
    assert torch.equal(frozen, torch.ones(3)) and (learns < 1).all()
    assert frozen not in built.state and [p for group in built.param_groups for p in group["params"]] == [learns]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_weight_without_a_gradient_stays(choice: str) -> None:
    idle, learns = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    built = replace(build_choice("optimizer", choice), weight_decay=0.5).build([idle, learns])
    learns.grad = torch.ones(2)
    built.step()
    assert torch.equal(idle, torch.ones(3))


@pytest.mark.parametrize("choice", ALGORITHMS)
def test_every_optimizer_is_taken_up_where_it_was_cut_off(choice: str) -> None:
    """In the middle of a segment's epochs, and, in rounds, waiting on disk for its next turn."""
    setting = replace(build_choice("optimizer", choice), weight_decay=1e-3)
    check_method(Backprop(epochs=2), optimizer=setting)
    check_method(Segmentwise(epochs=1, rounds=2, segment_size=2, offload="disk"), optimizer=setting)


@pytest.mark.parametrize("choice", ALGORITHMS)
def test_every_optimizer_learns(choice: str) -> None:
    on, setting = tiny.problem(train=60, batch_size=10), build_choice("optimizer", choice)
    rates = {"adagrad": 0.05, "adadelta": 3.0, "rmsprop": 3e-3, "adam": 3e-3, "adamw": 3e-3, "sgd": 0.05}
    setting = replace(setting, lr=rates[choice.partition("_")[0]])
    network = Backprop(epochs=15).fit(on, tiny.perceptron(), Run.in_memory(setting))
    assert evaluate(network, tiny.images(90, 5).batches(30), on.objective)["acc"] > 0.9
