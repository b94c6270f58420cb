"""The contract that every method keeps, for every YAML × every objective; and each method's limiting cases."""

from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, get_args

import pytest
import tiny
import torch
from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.archs.linear import Linear
from effdl.archs.mlp import Mlp
from effdl.config import build_setting, choices, compose
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.kernel_ridge import Regression
from effdl.methods.method import Method
from effdl.methods.platonic import Projection
from effdl.methods.pseudoinverse_learning import PseudoinverseLearning
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse, SoftmaxCe
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.testing import check_method
from effdl.training.decision import Pool
from effdl.training.hardware import Hardware
from effdl.training.loop import evaluate, reseed
from effdl.training.optim import Adam, Sgd

METHODS, OBJECTIVES = choices("method"), choices("objective")
EPOCHS = 2


@lru_cache
def method_of(choice: str) -> Method:
    """A choice with its own settings, but for few epochs and rounds."""
    built: Method = build_setting(compose([f"method={choice}"]).method, "method")
    few = {f.name: EPOCHS for f in fields(built) if f.name == "epochs" or (f.name == "rounds" and built.rounds > 1)}
    return tiny.fitting(replace(built, **few))


def takes_the_perceptron(method: Method) -> bool:
    try:
        method.check(tiny.facts(tiny.problem(LinearMse())), ArchFacts(2, 1, linear=tiny.PERCEPTRON), Hardware())
    except ConfigError:
        return False
    return True


ALL_CLOSED = [choice for choice in METHODS if method_of(choice).fits_least_squares]
BY_EPOCHS = [choice for choice in METHODS if choice not in ALL_CLOSED]
CLOSED = [choice for choice in ALL_CLOSED if takes_the_perceptron(method_of(choice))]  # others: test_peers
# Presets that differ in the epochs alone are one method here.
DISTINCT = [c for i, c in enumerate(BY_EPOCHS) if method_of(c) not in [method_of(earlier) for earlier in BY_EPOCHS[:i]]]


def test_the_folders_have_methods_of_both_kinds_and_objectives() -> None:
    assert "backprop" in BY_EPOCHS and "platonic" in CLOSED and "kernel_ridge" in ALL_CLOSED and "softmax_ce" in OBJECTIVES


@pytest.mark.parametrize("choice", ALL_CLOSED)
def test_every_closed_form_keeps_the_contract(choice: str) -> None:
    check_method(method_of(choice))


OTHERS = [choice for choice in OBJECTIVES if choice != "softmax_ce"]
PAIRS = [  # each method with two objectives, and with the others in the slow tier
    pytest.param(choice, objective, marks=[] if objective in ("softmax_ce", OTHERS[i % len(OTHERS)]) else pytest.mark.slow)
    for i, choice in enumerate(DISTINCT)
    for objective in OBJECTIVES
]


@pytest.mark.parametrize(("choice", "objective_choice"), PAIRS)
def test_every_method_by_epochs_keeps_it_with_every_objective(choice: str, objective_choice: str) -> None:
    objective = build_setting(compose([f"objective={objective_choice}"]).objective, "objective")
    steps = Sgd(lr=0.002 if objective_choice.endswith("_ga") else 0.02)  # amplified gradients take smaller ones
    check_method(method_of(choice), on=tiny.problem(objective), optimizer=steps)


@pytest.mark.parametrize("choice", CLOSED)
def test_every_closed_form_learns_the_tiny_problem(choice: str) -> None:
    method, problem, model = method_of(choice), tiny.problem(LinearMse(), train=400), tiny.perceptron()
    assert "optimizer" not in method.takes and "augment" not in method.takes
    run, before = Run(0, objective=problem.objective), tiny.copied(model)
    network = method.fit(problem, model, run)
    assert evaluate(network, tiny.images(90, 5).batches(30), problem.objective)["acc"] > 0.9
    assert [line["segment"] for line in run.lines] == [0, 1] and run.notes["train/acc"] > 0.9
    after = network.state_dict()
    kept = ("input.", "blocks.") if choice == "output_layer" else ("input.",)
    assert all(torch.equal(before[key], after[key]) == key.startswith(kept) for key in after)


@pytest.mark.parametrize("choice", DISTINCT)
def test_every_method_learns_the_tiny_problem(choice: str) -> None:
    problem = tiny.problem(train=60, batch_size=10)
    method = replace(method_of(choice), epochs=12)
    # Where it is surely wrong, an exponential loss of probabilities has hardly a slope: plain descent of it stays there.
    optimizer = Adam(lr=0.02) if choice == "boost_resnet" else Sgd(lr=0.05)
    network = method.fit(problem, tiny.network_for(method), Run.in_memory(optimizer))
    assert evaluate(network, tiny.images(90, 5).batches(30), problem.objective)["acc"] > 0.9


@pytest.mark.parametrize("choice", DISTINCT)
def test_each_epoch_is_measured_on_the_test_split(choice: str) -> None:
    tested = []
    for shift in (0, 1):
        test = tiny.images(15, 3)
        run = Run(0, Sgd(lr=0.02), test=Samples(test.x, (test.y + shift) % tiny.CLASSES), objective=SoftmaxCe())
        method_of(choice).fit(tiny.problem(), tiny.network_for(method_of(choice)), run)
        tested.append([line["test/loss"] for line in run.lines if "test/loss" in line])
        assert len(tested[shift]) == sum("train/loss" in line for line in run.lines) >= EPOCHS
    assert not set(tested[0]) & set(tested[1])


@pytest.mark.parametrize("method", [Backprop(epochs=6), Segmentwise(epochs=6)], ids=["backprop", "segmentwise"])
def test_every_method_takes_real_targets(method: Method) -> None:
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    problem = Problem(Samples(x, x[:, :2]), Samples(x, x[:, :2]), LinearMse(), outputs=2, batch_size=8)
    model = BlockChain([nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh())], nn.Linear(6, 2))
    run = Run.in_memory(Sgd(lr=0.02, momentum=0))
    network = method.fit(problem, model, run)
    chosen = [line["val/mse"] for line in run.lines if line["segment"] == run.notes["segment/chosen"]]
    assert chosen[-1] == evaluate(network, problem.val(), problem.objective)["mse"]
    assert chosen[-1] < chosen[0]


@pytest.mark.parametrize("checkpoint", [None, "block"])
def test_limit_one_segment_under_the_chains_head_is_backprop(checkpoint: Any) -> None:
    networks = []
    for method in (Segmentwise(epochs=3, segment_size=3, decision=Pool(size=2)), Backprop(epochs=3, checkpoint=checkpoint)):
        model = tiny.chain()
        reseed(seed_for(0, "init", 0))
        head = Classifier((tiny.WIDTHS[-1], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=2)
        networks.append(method.fit(tiny.problem(), model.with_head(head).double(), Run.in_memory(Sgd(lr=0.05))).state_dict())
    assert networks[0]["head.layers.0.weight"].dtype == torch.float64
    torch.testing.assert_close(*networks, rtol=1e-12, atol=1e-14)


def test_limit_a_segment_larger_than_the_network_is_one_that_spans_it() -> None:
    networks = [
        Segmentwise(epochs=1, segment_size=size).fit(tiny.problem(), tiny.chain(), Run.in_memory(Sgd())).state_dict()
        for size in (3, 50)
    ]
    assert tiny.same(*networks)


def drawn_decision(segment: int, width: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed_for(0, "init", segment))
    layer = nn.Linear(width, outputs)
    return layer.weight.detach().double(), layer.bias.detach().double()


def test_limit_one_step_of_two_linear_layers_by_hand() -> None:
    """½‖V W x + c − t‖² averaged over the batch; one step of gradient descent with weight decay λ on each layer in turn."""
    lr, decay, factor = 0.1, 0.01, 0.5
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (3, 2))
    model = BlockChain([nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False)], nn.Linear(5, 2)).double()
    weights = [block.weight.detach().clone() for block in model.blocks]
    below = x
    for i, (w, width) in enumerate(zip(weights, (4, 5), strict=True)):
        v, c = drawn_decision(i, width, 2)
        features = below @ w.T
        error = features @ v.T + c - t
        gradients = [v.T @ error.T @ below / 6, error.T @ features / 6, error.sum(0) / 6]
        rate = lr * factor**i
        w, v, c = (p - rate * (g + decay * p) for p, g in zip((w, v, c), gradients, strict=True))
        weights[i], below = w, below @ w.T

    problem = Problem(Samples(x, t), Samples(x, t), LinearMse(), outputs=2, batch_size=6)
    method = Segmentwise(epochs=1, lr_factor=factor, choose="last")
    network = method.fit(problem, model, Run.in_memory(Sgd(lr=lr, momentum=0, weight_decay=decay)))

    expected = {
        "blocks.0.weight": weights[0],
        "blocks.1.weight": weights[1],
        "head.layers.0.weight": v,
        "head.layers.0.bias": c,
    }
    torch.testing.assert_close(dict(network.state_dict()), expected, rtol=1e-12, atol=1e-14)


def test_limit_one_step_of_backprop_on_two_linear_layers_by_hand() -> None:
    """∂/∂W = Vᵀ e xᵀ, ∂/∂V = e (W x)ᵀ, averaged over the batch, e = V W x − t."""
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (3, 2))
    model = BlockChain([nn.Linear(3, 4, bias=False)], nn.Linear(4, 2, bias=False)).double()
    w, v = (p.detach().clone() for p in model.parameters())
    error = x @ w.T @ v.T - t
    expected = {"blocks.0.weight": w - 0.1 * v.T @ error.T @ x / 6, "head.weight": v - 0.1 * error.T @ (x @ w.T) / 6}
    problem = Problem(Samples(x, t), Samples(x, t), LinearMse(), outputs=2, batch_size=6)
    network = Backprop(epochs=1).fit(problem, model, Run.in_memory(Sgd(lr=0.1, momentum=0)))
    torch.testing.assert_close(dict(network.state_dict()), expected, rtol=1e-12, atol=1e-14)


# What another seed draws anew, beside the split.

UNITS = (30, 20)  # fewer than samples, and than features and classes
FOUND = tuple(dict.fromkeys((*get_args(Projection), "random")))
VARIANTS: dict[str, Method] = {
    **{choice: method_of(choice) for choice in METHODS},
    **{f"platonic {projection}": replace(method_of("platonic"), projection=projection) for projection in FOUND},
    "platonic with noise": replace(method_of("platonic"), projection="platonic_pca", noise=0.5),
    "platonic improved": replace(method_of("platonic"), projection="platonic_pca", improve=3),
}


def arch_of(method: Method, train: int) -> Any:
    if isinstance(method, Regression):
        return Linear()
    return Mlp(hidden=(train, train) if isinstance(method, PseudoinverseLearning) else UNITS)


@pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS)
def test_another_seed_gives_another_network_where_a_method_says_that_it_draws_and_only_there(method: Method) -> None:
    outputs = []
    for seed in (0, 1):
        problem = tiny.problem(LinearMse() if method.fits_least_squares else SoftmaxCe(), train=120, seed=seed)
        reseed(seed)
        model = arch_of(method, problem.num_train).build(tiny.facts(problem))
        model.input.fit(tiny.images(40, 1).x)
        run = Run(seed, Sgd(lr=0.05) if "optimizer" in method.takes else None, objective=problem.objective)
        outputs.append(method.fit(problem, model, run)(tiny.images(60, 5).x).detach())
    apart = ((outputs[0] - outputs[1]).norm() / outputs[0].norm()).item()
    assert apart > 0.01 if method.draws else apart < 1e-4, apart
