"""Kernels of infinitely wide ReLU networks against integrals and against wide networks; and ridge regression on them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effdl import config, load_network
from effdl.datasets.dataset import split
from effdl.datasets.digits import Digits
from effdl.errors import ConfigError
from effdl.methods.infinite_width import relu_moments, wide_kernels
from effdl.methods.kernel_ridge import NtkRidge
from effdl.records.carry import carry_out
from effdl.testing import check_method

X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CASES = [(1, 2.0, 0.0), (1, 1.0, 0.3), (2, 2.0, 0.0), (3, 1.5, 0.2)]  # depth, variances of weights and of biases


@pytest.mark.parametrize(
    ("a", "b", "c"), [(1.0, 1.0, 0.3), (2.0, 0.5, -0.6), (1.0, 4.0, 1.9), (1.0, 1.0, 1.0), (2.0, 3.0, 0.0)]
)
def test_moments_of_relus_are_the_integrals_over_a_gaussian_pair(a: float, b: float, c: float) -> None:
    """By 4 million draws, to four standard errors."""
    generator = np.random.default_rng(0)
    u, v = generator.normal(size=(2, 4_000_000))
    second = c / np.sqrt(a) * u + np.sqrt(max(b - c * c / a, 0)) * v
    first = np.sqrt(a) * u
    found = relu_moments(*(torch.tensor(value, dtype=torch.float64) for value in (a, b, c)))
    for ours, drawn in zip(found, (first.clip(0) * second.clip(0), (first > 0) * (second > 0)), strict=True):
        assert abs(ours.item() - drawn.mean()) < 4 * drawn.std() / 2000 + 1e-7


def wide(depth: int, weights: float, biases: float, width: int, seed: int) -> nn.Sequential:
    """A network with Gaussian weights of variance σ_w²/fan_in and biases of variance σ_b²."""
    generator, widths = torch.Generator().manual_seed(seed), [X.shape[1], *[width] * depth, 1]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.normal_(0, (weights / fan_in) ** 0.5, generator=generator)
            layer.bias.normal_(0, biases**0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def empirical(network: nn.Sequential, weights: float, biases: float) -> tuple[Tensor, Tensor]:
    """The kernels of one network: σ_w² h·h'/width + σ_b² of its last hidden layer, and ∂f/∂ω·∂f/∂ω', ω of variance 1."""
    h = network[:-1](X).detach()
    nngp = weights * h @ h.T / h.shape[1] + biases
    layers = [m for m in network if isinstance(m, nn.Linear)]
    tangent = torch.zeros(len(X), len(X), dtype=torch.float64)
    rows = [torch.autograd.grad(out, list(network.parameters())) for out in map(network, X)]
    for i, layer in enumerate(layers):
        of_weights = torch.stack([row[2 * i].flatten() for row in rows])
        of_biases = torch.stack([row[2 * i + 1] for row in rows])
        tangent += weights / layer.in_features * of_weights @ of_weights.T + biases * of_biases @ of_biases.T
    return nngp, tangent


@pytest.mark.parametrize(("depth", "weights", "biases"), CASES)
def test_limit_wide_networks_have_these_kernels_and_wider_ones_more_nearly(depth: int, weights: float, biases: float) -> None:
    kernels = wide_kernels(X, X, depth, weights, biases)
    apart = []
    for width, draws in ((32, 16), (512, 16)):
        found = [empirical(wide(depth, weights, biases, width, seed), weights, biases) for seed in range(draws)]
        means = [torch.stack(of).mean(0) for of in zip(*found, strict=True)]
        single = [torch.stack(of).std(0).norm() for of in zip(*found, strict=True)]
        apart.append([s.item() / k.norm().item() for s, k in zip(single, kernels, strict=True)])
        for mean, kernel, one in zip(means, kernels, single, strict=True):
            assert (mean - kernel).norm() / kernel.norm() < (0.2 if width == 32 else 0.07)
            assert width == 32 or (mean - kernel).norm() < 2.5 * one / draws**0.5  # what chance leaves of so many draws
    for narrow, large in zip(*apart, strict=True):
        assert large < 0.45 * narrow  # by the root of the width's 16, where networks differ by chance alone


def test_a_kernel_of_samples_with_themselves_is_symmetric_and_positive() -> None:
    for kernel in wide_kernels(X, X, 3, 2.0, 0.1):
        torch.testing.assert_close(kernel, kernel.T)
        assert torch.linalg.eigvalsh(kernel)[0] > 0


def test_a_sample_of_zeros_has_a_kernel_of_zeros_without_biases_and_is_no_nan() -> None:
    with_zero = torch.cat([X, torch.zeros(1, 5, dtype=torch.float64)])
    for kernel in wide_kernels(with_zero, with_zero, 2, 2.0, 0.0):
        assert kernel.isfinite().all() and not kernel[-1].any()


def test_limit_without_hidden_layers_both_are_the_linear_kernel() -> None:
    for kernel in wide_kernels(X, X[:2], 0, 2.0, 0.3):
        torch.testing.assert_close(kernel, 2 * X @ X[:2].T / 5 + 0.3)


def test_limit_variance_two_keeps_the_diagonal() -> None:
    """He's initialisation: q_l = q_0 in each layer, and Θ = (depth + 1) q_0 on the diagonal."""
    nngp, tangent = wide_kernels(X, X, 4, 2.0, 0.0)
    q = 2 * X.square().mean(1)
    torch.testing.assert_close(nngp.diagonal(), q, rtol=1e-7, atol=0)
    torch.testing.assert_close(tangent.diagonal(), 5 * q, rtol=1e-6, atol=0)


# --- the method

SAMPLES = 100
COMMON = ("dataset.val_size=0", f"dataset.train_limit={SAMPLES}", "dataset.scaling=unit", "hardware=cpu")


def by_angles(x: np.ndarray, s: np.ndarray, depth: int, weights: float, biases: float) -> tuple[np.ndarray, np.ndarray]:
    """The same recursions, entry by entry, as Arora et al. 2019 print them for one pair."""
    nngp, tangent = np.empty((2, len(x), len(s)))
    for i, a in enumerate(x):
        for j, b in enumerate(s):
            aa, ab, bb = (weights * u @ v / len(a) + biases for u, v in ((a, a), (a, b), (b, b)))
            theta = ab
            for _ in range(depth):
                angle = np.arccos(np.clip(ab / np.sqrt(aa * bb), -1, 1))
                derivative = weights * (np.pi - angle) / (2 * np.pi)
                ab = weights * np.sqrt(aa * bb) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi) + biases
                aa, bb = weights * aa / 2 + biases, weights * bb / 2 + biases
                theta = theta * derivative + ab
            nngp[i, j], tangent[i, j] = ab, theta
    return nngp, tangent


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_the_method_is_ridge_regression_on_the_kernel(kernel: str, tmp_path: Path) -> None:
    overrides = [
        "method=ntk_ridge",
        f"method.kernel_of={kernel}",
        "method.depth=2",
        "method.bias_variance=0.1",
        "method.l2=0.05",
    ]
    done = carry_out(config.build(config.compose([*COMMON, *overrides])), tmp_path)
    network = load_network(done["path"])
    train, _ = split(Digits(val_size=0, train_limit=SAMPLES), Digits().load()[0], 0)
    held_out = Digits().load()[1].x[:20]
    x, y = train.x.double().flatten(1).numpy(), np.eye(10)[train.y.numpy()]
    scale = x.max()
    place = int(kernel == "ntk")
    gram = by_angles(x / scale, x / scale, 2, 2.0, 0.1)[place]
    dual = np.linalg.solve(gram + 0.05 * np.eye(SAMPLES), y)
    across = by_angles(held_out.double().flatten(1).numpy() / scale, x / scale, 2, 2.0, 0.1)[place]
    np.testing.assert_allclose(network(held_out).detach().numpy(), across @ dual, rtol=1e-5, atol=1e-7)
    assert done["summary"]["train/mse"] == pytest.approx(np.square(gram @ dual - y).mean(), rel=1e-4)
    assert done["summary"]["test/acc"] > 0.7


def test_it_keeps_the_contract_of_all_methods() -> None:
    check_method(NtkRidge(depth=2, bias_variance=0.1))


def test_limit_with_next_to_no_penalty_it_interpolates(tmp_path: Path) -> None:
    done = carry_out(config.build(config.compose([*COMMON, "method=ntk_ridge", "method.l2=1e-9"])), tmp_path)
    assert done["summary"]["train/mse"] < 1e-9 and done["summary"]["train/acc"] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset=mnist",), r"^dataset\.train_limit: .*at most 10,000: dataset\.train_limit=10000$"),
        (("arch=mlp",), r"^arch: NtkRidge has no hidden layers, take arch=linear$"),
        (("objective=softmax_ce",), r"objective"),
        (("method.depth=0",), r"^method\.depth"),
        (("method.weight_variance=0",), r"^method\.weight_variance"),
        (("optimizer=sgd",), r"^optimizer: NtkRidge uses none"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_it_does_not_take_is_said_in_a_line(overrides: tuple[str, ...], message: str) -> None:
    def built() -> Any:
        return config.build(config.compose(["method=ntk_ridge", *overrides]))

    with pytest.raises(ConfigError, match=message) as error:
        built()
    assert "\n" not in str(error.value)
