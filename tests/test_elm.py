"""Extreme learning machines against scikit-learn's least squares on features that NumPy makes."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

from effdl.archs.chain import BlockChain
from effdl.archs.mlp import Mlp
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError, FitFailed
from effdl.least_squares import solvers
from effdl.least_squares.solvers import Pinv
from effdl.methods.elm import Elm
from effdl.objectives.losses import LinearMse
from effdl.records.run import Run

M, N, K = 90, 5, 3


def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(M, N, generator=generator, dtype=torch.float64)
    y = torch.randn(M, K, generator=generator, dtype=torch.float64) + x[:, :K] ** 2
    return Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=K, batch_size=8)


def chain(*hidden: int, activation: Any = "tanh") -> BlockChain:
    return Mlp(hidden=hidden, activation=activation).build(Facts((N,), "vectors", K, M, 0, 0, 8))


def method(**fields: Any) -> Elm:
    return Elm(**{"precision": "float64", "solver": solvers.Ridge(l2=0.4), **fields})


def fitted(rule: Elm, network: BlockChain, seed: int = 0) -> BlockChain:
    made = rule.fit(problem(), network, Run.in_memory(seed=seed))
    assert isinstance(made, BlockChain)
    return made.requires_grad_(False)


def features(network: BlockChain, x: Tensor) -> np.ndarray:
    """Hidden outputs with a column of ones, by NumPy from the stored weights."""
    z = x.numpy()
    weights = [value.numpy() for value in network.blocks.state_dict().values()]
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        z = np.tanh(z @ w.T + b)
    return np.hstack([np.ones((len(z), 1)), z])


def test_limit_the_output_layer_is_ridge_regression_on_the_drawn_features() -> None:
    network, data = fitted(method(), chain(30, 20)), problem().train_tensors()
    z = features(network, data.x)
    theirs = Ridge(alpha=0.4, fit_intercept=False, solver="svd").fit(z, data.y.numpy())
    np.testing.assert_allclose(network(data.x), theirs.predict(z), rtol=1e-9, atol=1e-9)


def test_limit_with_the_identity_for_activation_it_is_linear_regression() -> None:
    network, data = fitted(method(solver=Pinv()), chain(9, 8, activation="identity")), problem().train_tensors()
    theirs = LinearRegression().fit(data.x.numpy(), data.y.numpy())
    np.testing.assert_allclose(network(data.x), theirs.predict(data.x.numpy()), rtol=1e-8, atol=1e-9)


def test_weights_and_biases_are_normal_and_each_layers_and_seeds_own() -> None:
    states = [fitted(method(), chain(400, 400), seed).blocks.state_dict() for seed in (0, 0, 1)]
    layers = [list(state.values()) for state in states]
    for values in (layers[0][1], layers[0][2][:100].flatten(), layers[0][3]):
        assert abs(values.mean()) < 4 / len(values) ** 0.5 and abs(values.std() - 1) < 3 / len(values) ** 0.5
        assert abs((values.abs() < 0.6745).double().mean() - 0.5) < 2 / len(values) ** 0.5  # half lies within the quartiles
    assert all(torch.equal(a, b) for a, b in zip(layers[0], layers[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(layers[0], layers[2], strict=True))
    assert not torch.equal(layers[0][1], layers[0][3])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(20,), (30, 120)])
def test_sums_of_parts_are_what_all_at_once_is(hidden: tuple[int, ...], bias: bool) -> None:
    rule, data = method(bias=bias, chunk=16), problem().train_tensors()
    whole = fitted(rule, chain(*hidden))
    network = rule.drawn(chain(*hidden), Run.in_memory())
    drawn, found = network.blocks.state_dict(), whole.blocks.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in drawn.items())
    parts = [rule.sums(network, data.x[rows], data.y[rows]) for rows in (slice(0, 7), slice(7, 60), slice(60, M))]
    rule.solve(network, parts[2] + parts[0] + parts[1])
    torch.testing.assert_close(network(data.x), whole(data.x), rtol=1e-9, atol=1e-9)


def test_sums_are_for_ridge_and_finite() -> None:
    data = problem().train_tensors()
    network = method().drawn(chain(20, activation="relu"), Run.in_memory())
    with pytest.raises(ConfigError, match=r"^method/solver: sums over samples are solved by ridge alone$"):
        method(solver=Pinv()).solve(network, method().sums(network, data.x, data.y))
    with pytest.raises(FitFailed, match=r"^ridge failed on sums of which some are not finite"):
        method().solve(network, method().sums(network, data.x * 1e200, data.y))
