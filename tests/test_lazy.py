"""Lazy methods: networks of which the top alone learns, or what is linear in its weights, against closed forms in float64."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl import config, load_network
from effdl.archs.chain import BlockChain
from effdl.archs.mlp import Mlp
from effdl.config import build_choice
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.lazy import Lazy
from effdl.methods.ntk import Gate, Ntk
from effdl.methods.shallow import Shallow
from effdl.objectives.losses import LinearMse, SoftmaxCe
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.training.hardware import Hardware
from effdl.training.loop import reseed
from effdl.training.optim import Adagrad, Sgd

CHOICES = ("shallow", "relu_features", "linear_features", "gaussian_features", "ntk", "ntk_sigmoid")
HARD = Sgd(lr=0.05, momentum=0.9, weight_decay=0.5)


def lazy(choice: str, **fields: Any) -> Lazy:
    made = build_choice("method", choice)
    assert isinstance(made, Lazy)
    return replace(made, **fields)


# --- what stays


@pytest.mark.parametrize("optimizer", [HARD, Adagrad(weight_decay=0.5)], ids=["sgd", "adagrad"])
@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_frozen_does_not_move_by_a_bit_and_does_not_decay(choice: str, optimizer: Any) -> None:
    """The head moves, of NTK the linear half too, and nothing else."""
    networks = []
    for epochs in (1, 4):
        run = Run.in_memory(optimizer, seed=3)
        networks.append(lazy(choice, epochs=epochs).fit(tiny.problem(), tiny.perceptron(), run).state_dict())
    moved = {name for name in networks[0] if not torch.equal(networks[0][name], networks[1][name])}
    learns = ("head.", "blocks.linear.") if choice.startswith("ntk") else ("head.",)
    assert moved == {name for name in networks[0] if name.startswith(learns)} and moved < set(networks[0])


@pytest.mark.parametrize("build", [tiny.chain, tiny.perceptron], ids=["convolutions", "perceptron"])
def test_shallow_leaves_the_blocks_of_any_chain_as_they_were_drawn(build: Callable[[], BlockChain]) -> None:
    network, drawn = Shallow(epochs=2).fit(tiny.problem(), build(), Run.in_memory(HARD)), build().state_dict()
    found = network.state_dict()
    assert [*found] == [*drawn]  # a network of the same form, which every other method takes
    assert all(torch.equal(found[name], drawn[name]) != name.startswith("head.") for name in drawn)


def test_relu_and_linear_features_are_of_the_layers_as_they_were_initialised() -> None:
    x = tiny.images(9, 3).x
    drawn = tiny.perceptron()
    for choice, activation in (("relu_features", torch.relu), ("linear_features", lambda z: z)):
        network = lazy(choice, epochs=1).fit(tiny.problem(), tiny.perceptron(), Run.in_memory(HARD))
        z = drawn.input(x).flatten(1)
        for layer in (m for m in drawn.blocks.modules() if isinstance(m, nn.Linear)):
            z = activation(layer(z))
        torch.testing.assert_close(network.blocks(network.input(x)), z, rtol=0, atol=0)


def test_gaussian_features_have_the_printed_spread_and_no_biases() -> None:
    """N(0, √(6/(n + width))) for each hidden layer, drawn by the run's seed alone."""
    drawn = []
    for seed, noise in ((0, 0), (0, 5), (1, 0)):
        reseed(0)
        model = Mlp(hidden=(600, 500)).build(tiny.problem().facts)
        torch.rand(noise)
        network = lazy("gaussian_features", epochs=1).fit(tiny.problem(), model, Run.in_memory(HARD, seed=seed))
        drawn.append(network.state_dict())
    first, second = drawn[0]["blocks.linear1.1.0.weight"], drawn[0]["blocks.linear2.0.weight"]
    for weight, fan in ((first, 36 + 600), (second, 600 + 500)):
        assert weight.std().item() == pytest.approx((6 / fan) ** 0.5, rel=0.02)
        assert abs(weight.mean().item()) < 0.05 * weight.std().item()
        kurtosis = (weight / weight.std()).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=0.15)  # a uniform one has 1.8
    assert not drawn[0]["blocks.linear1.1.0.bias"].any()
    assert torch.equal(first, drawn[1]["blocks.linear1.1.0.weight"])
    assert not torch.equal(first, drawn[2]["blocks.linear1.1.0.weight"])


# --- limits


def regression(seed: int = 0) -> tuple[Problem, BlockChain, Tensor, Tensor]:
    """A few real targets, a perceptron with a layer of six, and the data."""
    reseed(seed)
    x, y = torch.randn(40, 4, dtype=torch.float64), torch.randn(40, 2, dtype=torch.float64)
    chain = BlockChain([nn.Sequential(nn.Linear(4, 6), nn.ReLU())], nn.Linear(6, 2)).double()
    return Problem(Samples(x, y), Samples(x, y), LinearMse(), outputs=2, batch_size=40), chain, x, y


@pytest.mark.parametrize("choice", ["shallow", "relu_features", "linear_features", "gaussian_features"])
def test_limit_under_the_squared_error_it_converges_to_least_squares_on_the_features(choice: str) -> None:
    problem, chain, x, y = regression()
    run = Run.in_memory(Sgd(lr=0.5, momentum=0.95))
    network = lazy(choice, epochs=400).fit(problem, chain, run)
    with torch.no_grad():
        z = network.blocks(x)
        w = network.blocks[0][0].weight
        expected = {"linear_features": x @ w.T + network.blocks[0][0].bias}.get(choice, F.relu(network.blocks[0][0](x)))
        torch.testing.assert_close(z, expected)
        design = np.concatenate([z.numpy(), np.ones((40, 1))], 1)
        solution, *_ = np.linalg.lstsq(design, y.numpy(), rcond=None)
        np.testing.assert_allclose(network(x).numpy(), design @ solution, rtol=1e-4, atol=1e-4)


def relu_net(hidden: tuple[int, ...]) -> BlockChain:
    reseed(1)
    widths = (5, *hidden)
    blocks = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(widths, hidden, strict=False)]
    return BlockChain(blocks, nn.Linear(hidden[-1], 3)).double()


def jacobian(network: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    parameters = dict(network.named_parameters())

    def outputs(*some: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, some, strict=True)), (x,))

    return list(torch.autograd.functional.jacobian(outputs, tuple(parameters[name].detach() for name in names)))


@pytest.mark.parametrize("hidden", [(7,), (7, 6, 4)])
def test_limit_gates_of_the_same_weights_make_the_relu_network_and_its_tangents_at_the_start(hidden: tuple[int, ...]) -> None:
    """Of the initial weights ReLU's derivative as gate: the same function, and the same ∂f/∂W, so the same tangent kernel."""
    plain = relu_net(hidden)
    gated = Ntk(gate_weights="initial").chain(relu_net(hidden))
    x = torch.randn(8, 5, dtype=torch.float64)
    torch.testing.assert_close(gated(x), plain(x), rtol=1e-12, atol=1e-14)
    ours = [name for name, _ in gated.named_parameters() if not name.startswith("blocks.gates.")]
    theirs = [name for name, _ in plain.named_parameters()]
    assert len(ours) == len(theirs)
    for a, b in zip(jacobian(gated, ours, x), jacobian(plain, theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_limit_gates_are_those_of_the_start_however_far_the_linear_half_has_moved() -> None:
    """It is linear in the linear half: f(W + V) + f(W − V) = 2 f(W), of one hidden layer under a fixed head."""
    gated = Ntk(gate_weights="initial").chain(relu_net((7,)))
    x = torch.randn(8, 5, dtype=torch.float64)
    before, gates = gated(x), gated.blocks.gates(x)
    weight = next(p for name, p in gated.named_parameters() if name.startswith("blocks.linear.") and p.dim() == 2)
    change, found = 10 * torch.randn_like(weight), []
    with torch.no_grad():
        for sign in (1, -2):
            weight += sign * change
            found.append(gated(x))
    torch.testing.assert_close(found[0] + found[1], 2 * before, rtol=1e-10, atol=1e-10)
    assert torch.equal(gated.blocks.gates(x), gates)


def test_limit_the_authors_gate_is_torchs_gated_linear_unit_of_both_layers() -> None:
    """F.glu takes the linear half and the gates' inputs side by side (§1.3.1: "concatenation")."""
    reseed(0)
    gated = lazy("ntk_sigmoid").chain(relu_net((7,)))
    x = torch.randn(8, 5, dtype=torch.float64)
    plain = relu_net((7,))
    frozen = next(m for m in gated.blocks.gates.modules() if isinstance(m, nn.Linear))
    both = torch.cat([plain.blocks[0][0](x), frozen(x)], 1)
    torch.testing.assert_close(gated(x), plain.head(F.glu(both, 1)), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(frozen.weight, plain.blocks[0][0].weight)
    assert frozen.weight.abs().max() <= 5**-0.5  # drawn as torch draws a layer


def test_limit_training_follows_the_linearised_network() -> None:
    """A step of gradient descent moves the ReLU network and its gated one alike; later steps not, as its gates may flip."""
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)
    problem = Problem(Samples(x, y), Samples(x, y), LinearMse(), outputs=3, batch_size=30)
    plain = relu_net((7,))
    for p in plain.parameters():
        p.grad = None
    LinearMse().loss(plain(x), y).mean().backward()
    network = Ntk(gate_weights="initial", epochs=1).fit(problem, relu_net((7,)), Run.in_memory(Sgd(lr=0.1, momentum=0)))
    ours = dict(network.named_parameters())
    for theirs, name in (("blocks.0.0", "blocks.linear.layers.0"), ("head", "head")):
        for part in ("weight", "bias"):
            start = plain.get_parameter(f"{theirs}.{part}")
            torch.testing.assert_close(ours[f"{name}.{part}"], (start - 0.1 * start.grad).detach(), rtol=1e-12, atol=1e-14)


# --- features are kept, and runs go on


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_frozen_is_worked_out_once_where_the_data_stay(choice: str) -> None:
    notes, answers = [], []
    for keep in (64.0, 0.0):
        run = Run.in_memory(Sgd(lr=0.02), seed=0)
        network = lazy(choice, epochs=3, keep_features_mib=keep).fit(tiny.problem(), tiny.perceptron(), run)
        notes.append(run.notes)
        answers.append(network(tiny.images(9, 3).x))
    assert notes[0]["data/feature_passes"] == 1 and notes[0]["memory/kept_features_bytes"] > 0
    assert notes[1]["memory/kept_features_bytes"] == 0
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)


def test_samples_that_vary_go_through_what_is_frozen_in_each_epoch() -> None:
    def brighter(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.randint(0, 9, (len(x), 1, 1, 1), generator=generator).to(x.dtype)

    on = tiny.problem()
    varied = Problem(on.train_split, on.val_split, on.objective, outputs=on.outputs, batch_size=8, augment=brighter)
    for method in (Shallow(epochs=2), Ntk(epochs=2)):
        run = Run.in_memory(Sgd(lr=0.02))
        network = method.fit(varied, tiny.perceptron(), run).state_dict()
        assert run.notes["memory/kept_features_bytes"] == run.notes["data/feature_passes"] == 0
        same = method.fit(on, tiny.perceptron(), Run.in_memory(Sgd(lr=0.02))).state_dict()
        frozen = [name for name in network if not name.startswith(("head.", "blocks.linear."))]
        moved = [name for name in network if not torch.equal(network[name], same[name])]
        assert frozen and moved and not set(moved) & set(frozen)


SMALL = (
    "dataset=digits",
    "dataset.train_limit=80",
    "dataset.val_size=40",
    "method.epochs=4",
    "optimizer.lr=0.02",
    "hardware=cpu",
)


@pytest.mark.parametrize("choice", ["ntk", "gaussian_features"])
def test_a_run_that_is_killed_goes_on_and_its_network_loads(choice: str, tmp_path: Path, monkeypatch: Any) -> None:
    spec = config.build(config.compose([f"method={choice}", "arch.hidden=[30]", *SMALL]))
    whole = carry_out(spec, tmp_path / "whole")
    again = tiny.resumed(spec, tmp_path / "cut", monkeypatch, 1, 2)
    networks = [load_network(done["path"]) for done in (whole, again)]
    assert tiny.same(*(network.state_dict() for network in networks))
    assert whole["summary"]["test/acc"] == again["summary"]["test/acc"] > 0.2


def test_another_method_takes_the_network_that_shallow_left(tmp_path: Path) -> None:
    spec = config.build(config.compose(["method=shallow", "arch=mlp", "arch.hidden=[30]", *SMALL]))
    done = carry_out(spec, tmp_path)
    weights = f"arch.weights={done['path']}/network.safetensors"
    more = ["method=backprop", "arch=mlp", "arch.hidden=[30]", weights, *SMALL]
    assert carry_out(config.build(config.compose(more)), tmp_path)["status"] == "finished"


# --- what it does not take


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        config.build(config.compose(list(overrides)))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("choice", ["relu_features", "linear_features", "gaussian_features", "ntk", "ntk_sigmoid"])
def test_networks_of_other_than_linear_layers_are_refused_before_data_are_read(choice: str) -> None:
    assert refused(f"method={choice}", "arch=cnn4").startswith("arch: ")
    assert "arch=mlp" in refused(f"method={choice}", "arch=cnn4")


@pytest.mark.parametrize("choice", CHOICES)
def test_a_single_linear_layer_has_no_hidden_layer_to_freeze(choice: str) -> None:
    assert "arch=mlp" in refused(f"method={choice}", "arch=linear")


def fit(method: Lazy, *blocks: nn.Module, head: nn.Module | None = None) -> Any:
    return method.fit(tiny.problem(), BlockChain([nn.Flatten(), *blocks], head or nn.Linear(4, 3)), Run.in_memory(HARD))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a gate for another activation": (
        lambda: fit(Ntk(), nn.Sequential(nn.Linear(36, 4), nn.Tanh())),
        r"^arch: block 1 .* Tanh.*ReLU",
    ),
    "a convolution": (lambda: fit(Ntk(), nn.Conv2d(1, 4, 6)), r"^arch: block 1 "),
    "features of a block with two layers": (
        lambda: fit(Shallow(activation="relu"), nn.Sequential(nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 4))),
        r"^arch: block 1 ",
    ),
    "an activation among others": (
        lambda: fit(Shallow(activation="identity"), nn.Sequential(nn.Linear(36, 4), nn.ReLU(), nn.Tanh())),
        r"^arch: block 1 .*activation",
    ),
    "a head without weights": (lambda: fit(Shallow(), nn.Linear(36, 3), head=nn.Identity()), r"^arch: the head"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_chain_that_it_cannot_serve_is_refused_by_the_block_that_it_is(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        call()


def test_the_objective_is_any() -> None:
    network = Ntk(epochs=2).fit(tiny.problem(SoftmaxCe()), tiny.perceptron(), Run.in_memory(HARD))
    assert network(tiny.images(5, 1).x).shape == (5, 3)


@pytest.mark.parametrize("gate", ["relu", "sigmoid"])
def test_networks_without_biases_have_none_behind_their_gates_either(gate: Gate) -> None:
    problem = tiny.problem()
    chain = Mlp(hidden=(7,), bias=False).build(problem.facts)
    Ntk(gate=gate).check(problem.facts, Mlp(hidden=(7,), bias=False).facts(problem.facts), Hardware())
    gated = Ntk(gate=gate).network(chain, problem.facts, problem.objective, {}).eval()
    assert not [name for name, _ in gated.named_parameters() if name.endswith("bias")]
    torch.testing.assert_close(gated(torch.zeros(2, *problem.input_shape)), torch.zeros(2, problem.outputs))
