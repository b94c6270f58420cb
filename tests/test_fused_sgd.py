"""FusedSgd takes sgd's steps, though it writes no gradient of a linear layer's weights."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl import Backprop, Batch, BlockChain, Problem, Run, Samples, Segmentwise, Sgd, SoftmaxCe
from effdl.archs.mlp import Mlp
from effdl.methods.dfa import Dfa
from effdl.methods.fa import Fa
from effdl.methods.usf import Usf
from effdl.testing import check_method
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.fused_sgd import FusedSgd
from effdl.training.hardware import Hardware
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.optim import MultiStep

CASES = {
    "plain": {"momentum": 0.0},
    "plain, with decay": {"momentum": 0.0, "weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "momentum, with decay": {"momentum": 0.9, "weight_decay": 0.1},
    "a schedule": {"momentum": 0.5, "weight_decay": 0.01, "schedule": MultiStep()},
}


def trained(optimizer: Any, method: Any, model: BlockChain, on: Problem | None = None) -> dict[str, Tensor]:
    return dict(method.fit(on or tiny.problem(), model.double(), Run.in_memory(optimizer)).state_dict())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [Backprop(epochs=4), Dfa(epochs=4), Fa(epochs=4), Backprop(epochs=4, checkpoint="block")])
def test_its_steps_are_sgds(case: str, method: Any) -> None:
    how: dict[str, Any] = {"lr": 0.05, **CASES[case]}
    found = [trained(optimizer(**how), method, tiny.perceptron()) for optimizer in (Sgd, FusedSgd)]
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)
    assert not tiny.same(found[0], dict(tiny.perceptron().double().state_dict()))


@pytest.mark.parametrize("method", [Backprop(epochs=2), Segmentwise(epochs=2), Dfa(epochs=2)])
def test_where_layers_are_convolutions_and_normalisations_too(method: Any) -> None:
    found = [trained(optimizer(lr=0.02), method, tiny.chain()) for optimizer in (Sgd, FusedSgd)]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


class Twice(nn.Module):
    """One layer called twice, on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh()).tanh()


def test_a_layer_that_is_called_twice_and_on_more_dimensions() -> None:
    reseed(0)
    x, y = torch.randn(12, 3, 4, dtype=torch.float64), torch.arange(12) % 3
    problem = Problem(Samples(x, y), Samples(x, y), SoftmaxCe(), outputs=3, batch_size=4)
    found = []
    for optimizer in (Sgd, FusedSgd):
        reseed(1)
        model = BlockChain([Twice()], nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
        found.append(trained(optimizer(lr=0.1), Backprop(epochs=3), model, problem))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("method", [Backprop(epochs=2), Dfa(epochs=2), Segmentwise(epochs=2)])
def test_a_run_with_it_keeps_the_contract(method: Any) -> None:
    check_method(method, network=tiny.perceptron, optimizer=FusedSgd(lr=0.02))


def test_no_gradient_of_a_linear_layers_weights_is_written() -> None:
    model = tiny.perceptron()
    rule = DecisionRule(model.blocks, model.head, SoftmaxCe())
    optimizer: Any = FusedSgd().build(rule.parameters())
    learner = Learner(rule, optimizer, seed=lambda epoch, step: 0)
    learner.step(Batch(torch.randn(5, 36), torch.arange(5) % 3, torch.arange(5)))
    named = dict(rule.named_parameters())
    assert {name for name, p in named.items() if p.grad is not None} == {name for name in named if name.endswith("bias")}
    assert {id(p) for p in optimizer.waiting} == {id(p) for name, p in named.items() if name.endswith("weight")}
    assert not any("forward" in vars(module) for module in rule.modules())
    before = tiny.copied(rule)
    optimizer.zero_grad()
    optimizer.step()
    assert tiny.same(before, rule.state_dict())  # nothing waits any longer


# --- the step written out


def rule_of(method: Any, model: BlockChain) -> Any:
    on = tiny.problem()
    plan = method.training(on, model, Run.in_memory(Sgd())).segments[0]
    return plan.rule(model.blocks[plan.start : plan.stop], model.shapes(on.input_shape)[plan.start : plan.stop]).double()


def mlp(activation: str = "relu", **more: Any) -> BlockChain:
    reseed(0)
    return Mlp(hidden=(9, 7, 5), activation=activation, **more).build(tiny.problem().facts).double()


RULES = [Backprop(), Segmentwise(), Dfa(), Fa(), Usf(), Usf(magnitude="one"), Fa(feedback="transpose")]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize("method", RULES, ids=lambda one: type(one).__name__)
def test_limit_gradients_of_the_step_written_out_are_autograds(method: Any, activation: str, weighted: bool) -> None:
    rule = rule_of(method, mlp(activation))
    x, y = torch.randn(11, 36, dtype=torch.float64), torch.arange(11) % 3
    batch = Batch(x, y, y, torch.rand(11, dtype=torch.float64) if weighted else None)
    learned = rule.learn(batch, 0)
    expected = {name: p.grad.clone() for name, p in rule.named_parameters()}
    rule.zero_grad()
    waiting: dict[Tensor, Any] = {}
    found = rule.dense().learn(batch, waiting, True)
    for name, p in rule.named_parameters():
        ((left, right),) = waiting.get(p, [(None, None)])
        torch.testing.assert_close(p.grad if left is None else left.T @ right, expected[name], rtol=1e-12, atol=1e-15)
        assert (p.grad is None) == (left is not None) == (p.dim() == 2)
    torch.testing.assert_close((found.x, found.loss), (learned.x, learned.loss))
    assert not found.x.requires_grad and not found.loss.requires_grad


def listened_to() -> BlockChain:
    model = mlp()
    model.blocks.linear2.register_forward_hook(lambda *_: None)
    return model


def frozen() -> BlockChain:
    model = mlp()
    model.blocks.linear2.requires_grad_(False)
    return model


def shared() -> BlockChain:
    model = BlockChain([nn.Flatten(), nn.Linear(36, 6), nn.Linear(6, 6), nn.Linear(6, 6)], nn.Linear(6, 3)).double()
    model.blocks[2].weight = model.blocks[1].weight
    return model


OTHERS = {
    "convolutions": (Backprop(), lambda: tiny.chain().double()),
    "an activation of which the output does not tell the slope": (Dfa(), lambda: mlp("gelu")),
    "normalisation": (Backprop(), lambda: mlp(batch_norm=True)),
    "somebody listens": (Fa(), listened_to),
    "a layer that does not learn": (Backprop(), frozen),
    "a weight in two layers": (Backprop(), shared),
    "what is recomputed": (Backprop(checkpoint="block"), mlp),
    "what ends in two layers": (Segmentwise(decision=Pool(hidden=(6,))), mlp),
    "feedback by the weights above": (Dfa(feedback="transpose"), lambda: mlp("identity")),
}


def test_a_segment_of_tokens_goes_by_autograd() -> None:
    """Each token is a sample to a linear layer, and a decision block takes their mean."""
    rule = DecisionRule(nn.Sequential(nn.Linear(4, 6)), Pool().build((5, 6), 3), SoftmaxCe())
    optimizer: Any = FusedSgd().build(rule.parameters())
    Learner(rule, optimizer, seed=lambda epoch, step: 0).step(Batch(torch.randn(7, 5, 4), torch.arange(7) % 3, torch.arange(7)))
    assert rule.dense() is None and len(optimizer.waiting) == 2


@pytest.mark.parametrize("case", OTHERS)
def test_others_go_by_autograd(case: str) -> None:
    method, build = OTHERS[case]
    assert rule_of(method, build()).dense() is None
    assert rule_of(method, mlp("identity")).dense() is not None or case.startswith(("feedback", "what"))


def test_blocks_in_half_precision_go_by_autograd() -> None:
    rule = rule_of(Backprop(), mlp()).float()
    rule.hardware = Hardware(precision="bf16")
    optimizer: Any = FusedSgd().build(rule.parameters())
    Learner(rule, optimizer, seed=lambda epoch, step: 0).step(Batch(torch.randn(5, 36), torch.arange(5) % 3, torch.arange(5)))
    assert rule.decision.weight.grad is not None
