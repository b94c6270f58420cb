"""Feedback rules: their weight changes by hand, what they are in the limit, and that feedback never learns."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl import Batch, BlockChain, Problem, Run, Samples, Sgd, SigmoidBce, SoftmaxCe
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.dfa import Dfa
from effdl.methods.fa import Fa
from effdl.methods.usf import Usf
from effdl.rng import seed_for
from effdl.testing import check_method
from effdl.training.direct_feedback import DirectFeedback
from effdl.training.feedback import Law, drawn, sign_symmetric
from effdl.training.feedback_rule import FeedbackRule
from effdl.training.layer_feedback import FixedFeedback, SignFeedback
from effdl.training.loop import reseed

# --- by hand: a 3-2-2-1 net of tanh under a sigmoid, two samples

W1 = np.array([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.7]])
W2 = np.array([[0.6, -0.5], [0.2, 0.9]])
W3 = np.array([[0.8, -0.3]])
X = np.array([[1.0, -2.0, 0.5], [0.3, 0.7, -1.2]])
T = np.array([[1.0], [0.0]])
B1, B2 = np.array([[0.25, -0.75]]), np.array([[-0.4, 0.9]])
C2, C3 = np.array([[0.5, 0.1], [-0.6, 0.35]]), np.array([[-0.45, 0.15]])
LR = 0.1


def net() -> tuple[nn.Sequential, nn.Module]:
    layers = [nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)]
    for layer, weight in zip(layers, (W1, W2, W3), strict=True):
        layer.weight.data = torch.tensor(weight)
    return nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers[:2])), layers[2]


def by_hand(rule: str) -> list[np.ndarray[Any, Any]]:
    """-lr times the gradients that each rule has of W1, W2 and W3."""
    h1 = np.tanh(X @ W1.T)
    h2 = np.tanh(h1 @ W2.T)
    e = (1 / (1 + np.exp(-h2 @ W3.T)) - T) / 2  # of the mean over two samples
    if rule == "dfa":
        d2, d1 = e @ B2 * (1 - h2**2), e @ B1 * (1 - h1**2)
    else:
        signs = {"usf, one": 1.0, "usf, norm": None}
        c3, c2 = C3, C2
        if rule in signs:
            c3, c2 = (np.sign(w) * (signs[rule] or math.sqrt((w**2).sum() / w.size)) for w in (W3, W2))
        d2 = e @ c3 * (1 - h2**2)
        d1 = d2 @ c2 * (1 - h1**2)
    return [-LR * d1.T @ X, -LR * d2.T @ h1, -LR * e.T @ h2]


def made(rule: str) -> FeedbackRule:
    blocks, head = net()
    if rule == "dfa":
        return DirectFeedback(blocks, head, SigmoidBce(), [torch.tensor(B1), torch.tensor(B2)])
    if rule == "fa":
        return FixedFeedback(blocks, head, SigmoidBce(), [torch.tensor(C2), torch.tensor(C3)])
    return SignFeedback(blocks, head, SigmoidBce(), "one" if rule == "usf, one" else "norm")


@pytest.mark.parametrize("rule", ["dfa", "fa", "usf, one", "usf, norm"])
def test_weight_changes_are_those_worked_out_by_hand(rule: str) -> None:
    for change, expected in zip(changed(rule), by_hand(rule), strict=True):
        np.testing.assert_allclose(change, expected, rtol=1e-12, atol=1e-16)


def changed(rule: str) -> list[Any]:
    """What a step adds to each layer's weights."""
    learning = made(rule)
    before = [p.detach().clone() for p in learning.parameters()]
    learning.learn(Batch(torch.tensor(X), torch.tensor(T), torch.arange(2)), 0)
    torch.optim.SGD(learning.parameters(), lr=LR).step()
    return [(p - b).detach().numpy() for p, b in zip(learning.parameters(), before, strict=True)]


def test_the_rules_differ_from_one_another_and_agree_on_the_output_layer() -> None:
    changes = [changed(rule) for rule in ("dfa", "fa", "usf, one", "usf, norm")]
    for i, one in enumerate(changes):
        for other in changes[:i]:
            assert not np.allclose(one[0], other[0]) and np.array_equal(one[2], other[2])


# --- limits


def gradients(rule: FeedbackRule, x: Tensor, y: Tensor) -> list[Tensor]:
    rule.learn(Batch(x, y, torch.arange(len(y))), 0)
    found = [p.grad for p in rule.parameters() if p.grad is not None]
    rule.zero_grad()
    return found


def backprop_gradients(rule: FeedbackRule, x: Tensor, y: Tensor) -> list[Tensor]:
    loss = rule.objective.loss(rule.head(rule.blocks(x)), y).mean()
    return list(torch.autograd.grad(loss, list(rule.parameters())))


def perceptron(activation: type[nn.Module] = nn.Tanh, bias: bool = True) -> tuple[nn.Sequential, nn.Module]:
    reseed(0)
    sizes = ((5, 7), (7, 6))
    return nn.Sequential(*(nn.Sequential(nn.Linear(*s, bias=bias), activation()) for s in sizes)).double(), nn.Linear(
        6, 3
    ).double()


def convolutions() -> tuple[nn.Sequential, nn.Module]:
    reseed(0)
    blocks = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(6, 5, 2, dilation=2, padding="same"), nn.Tanh(), nn.AvgPool2d(2)),
    )
    return blocks.double(), nn.Sequential(nn.Flatten(), nn.Linear(5, 3)).double()


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 2, 5, 5, dtype=torch.float64, generator=generator), torch.arange(9) % 3


def points() -> tuple[Tensor, Tensor]:
    return torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3


def test_limit_feedback_alignment_through_the_weights_themselves_is_backpropagation() -> None:
    for network, data in ((perceptron, points), (convolutions, images)):
        rule = FixedFeedback(*network(), SoftmaxCe(), None)  # type: ignore[operator]
        torch.testing.assert_close(gradients(rule, *data()), backprop_gradients(rule, *data()), rtol=1e-10, atol=1e-14)


def test_limit_feedback_given_as_a_copy_of_the_weights_is_backpropagation_too() -> None:
    blocks, head = convolutions()
    copies = [layer.weight.detach().clone() for layer in (blocks[1][0], blocks[2][0], head[1])]  # type: ignore[index]
    rule = FixedFeedback(blocks, head, SoftmaxCe(), copies)
    torch.testing.assert_close(gradients(rule, *images()), backprop_gradients(rule, *images()), rtol=1e-10, atol=1e-14)


def test_limit_direct_feedback_by_the_product_of_linear_layers_is_backpropagation() -> None:
    rule = DirectFeedback(*perceptron(nn.Identity), SoftmaxCe(), None)
    torch.testing.assert_close(gradients(rule, *points()), backprop_gradients(rule, *points()), rtol=1e-10, atol=1e-14)


def test_limit_direct_feedback_by_the_heads_weights_under_one_hidden_layer_is_backpropagation() -> None:
    blocks, _ = perceptron()
    rule = DirectFeedback(blocks[:1], nn.Linear(7, 3).double(), SoftmaxCe(), None)
    torch.testing.assert_close(gradients(rule, *points()), backprop_gradients(rule, *points()), rtol=1e-10, atol=1e-14)


def test_limit_signs_of_weights_that_are_all_of_one_size_are_the_weights() -> None:
    blocks, head = perceptron()
    for layer in (blocks[1][0], head):  # type: ignore[index]
        layer.weight.data = 0.3 * layer.weight.data.sign()
    rule = SignFeedback(blocks, head, SoftmaxCe(), "norm")
    torch.testing.assert_close(gradients(rule, *points()), backprop_gradients(rule, *points()), rtol=1e-10, atol=1e-14)


def test_one_linear_layer_has_nothing_to_feed_back_and_learns_by_backpropagation() -> None:
    reseed(0)
    linear = nn.Sequential(nn.Linear(5, 3)).double()
    for rule in (DirectFeedback(linear, nn.Identity(), SoftmaxCe(), []), FixedFeedback(linear, nn.Identity(), SoftmaxCe(), [])):
        torch.testing.assert_close(gradients(rule, *points()), backprop_gradients(rule, *points()))


def trained(method: Any, model: BlockChain, seed: int = 0, problem: Problem | None = None) -> dict[str, Tensor]:
    run = Run(seed, Sgd(lr=0.05))
    return dict(method.fit(problem or tiny.problem(), model, run).state_dict())


@pytest.mark.parametrize("feedback", ["uniform", "gaussian", "orthogonal"])
def test_limit_of_one_hidden_layer_feedback_alignment_is_direct_feedback_alignment_bit_for_bit(feedback: Any) -> None:
    one, other = (trained(m(epochs=3, feedback=feedback), tiny.perceptron(hidden=(30,))) for m in (Dfa, Fa))
    assert tiny.same(one, other)
    assert not tiny.same(one, trained(Dfa(epochs=3, feedback=feedback), tiny.perceptron(hidden=(30,)), seed=1))


def test_limit_transposed_methods_are_backprop() -> None:
    of_one = [
        trained(m, tiny.perceptron(hidden=(30,)).double()) for m in (Backprop(epochs=2), Dfa(epochs=2, feedback="transpose"))
    ]
    torch.testing.assert_close(*of_one, rtol=1e-12, atol=1e-14)
    assert tiny.same(*(trained(m, tiny.chain()) for m in (Backprop(epochs=2), Fa(epochs=2, feedback="transpose"))))


# --- convolutional blocks


def test_direct_feedback_does_not_depend_on_the_weights_above() -> None:
    """Block 2's weights times 1000 leave the first block's gradient as it was, but for the error that it is given."""
    found = []
    for factor in (1, 1000):
        blocks, head = convolutions()
        matrices = [torch.randn(3, n, dtype=torch.float64) for n in (100, 36, 5)] if factor == 1 else matrices  # noqa: F821
        head[1].weight.data.zero_()  # type: ignore[index] logits, and so the error, are the same
        for p in blocks[1].parameters():
            p.data *= factor
        rule = DirectFeedback(blocks, head, SoftmaxCe(), matrices)
        rule.learn(Batch(*images(), torch.arange(9)), 0)
        found.append([p.grad.clone() for p in blocks[0].parameters() if p.grad is not None])
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in blocks[1].parameters())
    assert len(found[0]) == 4 and tiny.same(found[0], found[1]) and found[0][0].abs().min() > 0


def test_a_convolutional_block_gets_the_error_times_its_matrix_in_its_outputs_shape() -> None:
    blocks, head = convolutions()
    (x, y), matrices = images(), [torch.randn(3, n, dtype=torch.float64) for n in (100, 36, 5)]
    rule = DirectFeedback(blocks, head, SoftmaxCe(), matrices)
    found = gradients(rule, x, y)
    error = (F.softmax(head(blocks(x)), 1) - F.one_hot(y, 3)) / 9
    below, expected = x, list[Tensor]()
    for block, matrix in zip(blocks, matrices, strict=True):
        out = block(below.detach())
        expected += torch.autograd.grad(out, list(block.parameters()), (error.detach() @ matrix).view_as(out))
        below = out
    torch.testing.assert_close(found[: len(expected)], expected)


# --- the matrices


def test_matrices_have_their_law() -> None:
    rows, n = 40, 5000
    root = 1 / math.sqrt(n)
    moments: dict[Law, tuple[float, float]] = {
        "uniform": (0, root / math.sqrt(3)),
        "standard_uniform": (0.5, math.sqrt(1 / 12)),
        "gaussian": (root, root),
        "zero_mean_gaussian": (0, root),
        "standard_gaussian": (0, 1),
    }
    for law, (mean, deviation) in moments.items():
        matrix = drawn(law, rows, n, seed=3)
        assert matrix.shape == (rows, n)
        assert matrix.mean().item() == pytest.approx(mean, abs=4 * deviation / math.sqrt(rows * n)), law
        assert matrix.std().item() == pytest.approx(deviation, rel=0.01), law
    assert drawn("uniform", rows, n, 3).abs().max() <= root and drawn("standard_uniform", rows, n, 3).min() >= 0
    torch.testing.assert_close(drawn("orthogonal", 4, 9, 0) @ drawn("orthogonal", 4, 9, 0).T, torch.eye(4))
    torch.testing.assert_close(drawn("orthogonal", 9, 4, 0).T @ drawn("orthogonal", 9, 4, 0), torch.eye(4))


def test_one_matrix_is_cut_into_those_of_all_layers() -> None:
    wide, narrow = drawn("uniform", 3, 50, 7, of=50), drawn("uniform", 3, 20, 7, of=50)
    torch.testing.assert_close(narrow * math.sqrt(20), wide[:, :20] * math.sqrt(50))
    rules = [tiny_rule(Dfa(one_matrix=one)) for one in (True, False)]
    first, second = (rules[0].get_buffer(f"feedback{i}") for i in (0, 1))
    torch.testing.assert_close(second * math.sqrt(40), first[:, :40] * math.sqrt(60))
    first, second = (rules[1].get_buffer(f"feedback{i}") for i in (0, 1))
    assert not torch.allclose(second * math.sqrt(40), first[:, :40] * math.sqrt(60), atol=0.1)


def tiny_rule(method: Any, seed: int = 0) -> Any:
    model = tiny.perceptron()
    plan = method.training(tiny.problem(), model, Run(seed, Sgd(lr=0.05))).segments[0]
    return plan.rule(model.blocks, model.shapes((1, tiny.SIDE, tiny.SIDE)))


@pytest.mark.parametrize("method", [Dfa(epochs=3), Fa(epochs=3)])
def test_feedback_never_changes_is_no_parameter_and_another_with_another_seed(method: Any, monkeypatch: Any) -> None:
    seen: list[tuple[FeedbackRule, dict[str, Tensor]]] = []
    learn = FeedbackRule.learn

    def watched(self: FeedbackRule, batch: Batch, epoch: int) -> Batch:
        seen.append((self, {name: b.clone() for name, b in self.named_buffers() if name.startswith("feedback")}))
        return learn(self, batch, epoch)

    monkeypatch.setattr(FeedbackRule, "learn", watched)
    method.fit(tiny.problem(), tiny.perceptron(), Run(0, Sgd(lr=0.05, weight_decay=0.1)))
    first = seen[0][1]
    assert len(first) == 2 and all(tiny.same(first, one) for _, one in seen) and len(seen) > 10
    rule = seen[-1][0]
    assert not any("feedback" in name for name, _ in rule.named_parameters())
    assert all(not b.requires_grad and b.grad is None for b in rule.buffers())
    expected = drawn("uniform", tiny.CLASSES, first["feedback0"].shape[1], seed_for(0, "feedback", 0))
    assert torch.equal(first["feedback0"], expected) if isinstance(method, Dfa) else first["feedback0"].shape == (40, 60)
    others = tiny_rule(method, seed=1)
    assert all(not torch.equal(others.get_buffer(name), matrix) for name, matrix in first.items())


def test_signs_are_of_the_weights_at_the_moment_with_their_length() -> None:
    weight = torch.tensor([[3.0, -4.0, 0.0]])
    assert sign_symmetric(weight, "one").tolist() == [[1, -1, 0]]
    torch.testing.assert_close(sign_symmetric(weight, "norm"), torch.tensor([[1.0, -1.0, 0.0]]) * 5 / math.sqrt(2))
    assert sign_symmetric(torch.zeros(2, 2), "norm").tolist() == [[0, 0], [0, 0]]


# --- the contract, and around a step


@pytest.mark.parametrize(
    "method", [Dfa(epochs=2), Fa(epochs=2), Usf(epochs=2), Dfa(epochs=2, checkpoint="block", one_matrix=True)]
)
def test_it_keeps_the_contract_of_all_methods(method: Any) -> None:
    check_method(method, optimizer=Sgd(lr=0.005))


@pytest.mark.parametrize("method", [Dfa, Fa, Usf])
def test_recomputed_blocks_learn_the_same(method: Any) -> None:
    assert tiny.same(*(trained(method(epochs=1, checkpoint=how), tiny.chain()) for how in (None, "block")))


@pytest.mark.parametrize("method", [Dfa, Fa, Usf])
def test_layers_are_called_as_ever_outside_a_step(method: Any) -> None:
    model = tiny.chain()
    trained(method(epochs=1), model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("rule", ["dfa", "fa", "usf, norm"])
def test_sample_weights_weigh_the_error(rule: str) -> None:
    x, t, index = torch.tensor(X), torch.tensor(T), torch.arange(2)
    found = []
    for batch in (Batch(x, t, index, torch.tensor([1.0, 0.0], dtype=torch.float64)), Batch(x[:1], t[:1], index[:1])):
        learning = made(rule)
        learning.learn(batch, 0)
        found.append([p.grad for p in learning.parameters()])
    torch.testing.assert_close(*found)


def test_the_loss_is_a_function_whose_automatic_gradient_is_the_update() -> None:
    """As a stack of networks needs it: torch.func's transforms see the rule's backward pass."""
    rule = made("dfa")
    expected = gradients(rule, torch.tensor(X), torch.tensor(T))

    def loss(weights: dict[str, Tensor]) -> Tensor:
        rows = Batch(torch.tensor(X), torch.tensor(T), torch.arange(2))
        return torch.func.functional_call(_Loss(rule), weights, (rows,))  # type: ignore[no-any-return]

    weights = {f"rule.{name}": p.detach() for name, p in rule.named_parameters()}
    stacked = {name: torch.stack([p, p]) for name, p in weights.items()}
    found = torch.func.vmap(torch.func.grad(loss))(stacked)
    for got, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(got, torch.stack([wanted, wanted]))


class _Loss(nn.Module):
    def __init__(self, rule: FeedbackRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, batch: Batch) -> Tensor:
        return self.rule.descended(batch, 0)[0]


# --- what a rule cannot serve


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.gain


class ByFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight)


def of_vectors(*blocks: nn.Module) -> tuple[Problem, BlockChain]:
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    return Problem(Samples(x, y), Samples(x, y), SoftmaxCe(), outputs=3, batch_size=6), BlockChain(
        list(blocks), nn.Linear(4, 3)
    )


@pytest.mark.parametrize(
    ("method", "block", "says"),
    [
        (Fa(), Own(), "method: gain of a Own, in block 1, is no weight of an nn.Linear or a convolution"),
        (Usf(), Own(), "method: gain of a Own, in block 1, is no weight"),
        (Fa(), ByFunction(), "method: layer 1 is not called as a module"),
        (Dfa(feedback="transpose"), Own(), "method.feedback=transpose: block 1 is not one linear layer"),
        (Dfa(feedback="transpose"), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "method.feedback=transpose: block 1 has a ReLU"),
    ],
)
def test_a_chain_that_a_rule_cannot_serve_is_refused_in_a_line_that_names_the_block(method: Any, block: Any, says: str) -> None:
    problem, model = of_vectors(nn.Linear(4, 4), block)
    with pytest.raises(ConfigError, match=f"^{says}") as told:
        method.fit(problem, model, Run.in_memory(Sgd(lr=0.1)))
    assert "\n" not in str(told.value)
    assert "method=dfa" in str(told.value) or "method=fa" in str(told.value)
    Dfa(epochs=1).fit(problem, model, Run.in_memory(Sgd(lr=0.01)))  # as it advises


def test_convolutions_that_do_not_pad_with_zeros_are_refused() -> None:
    blocks = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ConfigError, match=r"^method: weight of a Conv2d, in block 1, goes with another padding"):
        FixedFeedback(blocks, nn.Identity(), SoftmaxCe(), [])
