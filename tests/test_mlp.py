"""How the layers of a perceptron are drawn: what passes a hundred of them, and that the default draws what it drew."""

import math

import pytest
import tiny
import torch
from torch import nn

from effdl.archs.mlp import Mlp
from effdl.errors import ConfigError
from effdl.methods.elm import Elm
from effdl.training.hardware import Hardware

DEPTH, WIDTH = 100, 300


def passed(activation: str, init: str) -> tuple[float, float]:
    """Mean squares of what is between the first layer and the second, and after the hundredth."""
    torch.manual_seed(0)
    model = Mlp(hidden=(WIDTH,), repeat=DEPTH, activation=activation, init=init).build(tiny.problem().facts)
    with torch.no_grad():
        first = model.blocks[0](torch.randn(64, 1, tiny.SIDE, tiny.SIDE))
        return first.square().mean().item(), model.blocks[1:](first).square().mean().item()


@pytest.mark.parametrize(("activation", "init"), [("relu", "he"), ("identity", "xavier")])
def test_limit_he_keeps_the_scale_of_relus_and_xavier_that_of_linear_units(activation: str, init: str) -> None:
    first, last = passed(activation, init)
    assert 0.1 < last / first < 10


def test_limit_as_torch_draws_them_a_layer_keeps_a_sixth_of_a_relus_mean_square() -> None:
    """Weights of variance 1/(3 fan_in), of which a ReLU passes half, so that biases are soon all that is left."""
    torch.manual_seed(0)
    layer = Mlp(hidden=(2000,), repeat=2).build(tiny.problem().facts).blocks[1]
    x = torch.randn(200, 2000)
    with torch.no_grad():
        layer[0].bias.zero_()
        assert layer(x).square().mean().item() == pytest.approx(1 / 6, rel=0.05)


def test_by_default_it_is_drawn_by_torchs_own_layers_in_a_row() -> None:
    torch.manual_seed(0)
    model = Mlp(hidden=(5, 4)).build(tiny.problem().facts)
    torch.manual_seed(0)
    layers = [nn.Linear(36, 5), nn.Linear(5, 4), nn.Linear(4, tiny.CLASSES)]
    ours = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for a, b in zip(ours, layers, strict=True):
        assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def test_limit_with_batch_normalisation_each_layers_relus_pass_half_the_mean_square_of_standard_normals() -> None:
    torch.manual_seed(0)
    model, means = Mlp(hidden=(WIDTH,), repeat=20, batch_norm=True).build(tiny.problem().facts), []
    x = torch.randn(400, 1, tiny.SIDE, tiny.SIDE)
    with torch.no_grad():
        for block in model.blocks:
            x = block(x)
            means.append(x.square().mean().item())
    assert means == pytest.approx([0.5] * 20, rel=0.1)


def test_closed_forms_which_are_of_linear_layers_alone_refuse_batch_normalisation() -> None:
    problem = tiny.problem()
    Elm().check(problem.facts, Mlp().facts(problem.facts), Hardware())
    with pytest.raises(ConfigError, match=r"^arch"):
        Elm().check(problem.facts, Mlp(batch_norm=True).facts(problem.facts), Hardware())


def test_without_biases_closed_forms_which_write_them_refuse_it_and_say_so() -> None:
    problem = tiny.problem()
    with pytest.raises(ConfigError, match=r"^arch.bias: Elm writes a column of ones into the biases; leave them in$"):
        Elm().check(problem.facts, Mlp(bias=False).facts(problem.facts), Hardware())


def test_a_perceptron_without_biases_has_weights_alone_within_a_root_of_their_fan_in() -> None:
    torch.manual_seed(0)
    model = Mlp(hidden=(512,), bias=False).build(tiny.problem().facts)
    assert [name for name, _ in model.named_parameters()] == ["blocks.linear1.1.0.weight", "head.weight"]
    for weight in model.parameters():
        assert 0.9 / math.sqrt(weight.shape[1]) < weight.abs().max() <= 1 / math.sqrt(weight.shape[1])
    for init in ("he", "xavier"):
        assert all(p.dim() == 2 for p in Mlp(hidden=(5,), bias=False, init=init).build(tiny.problem().facts).parameters())
