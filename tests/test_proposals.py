"""What chapter 7 proposes beyond its method (§7.10): improving, pruning, noise, low rank, alignment, hand-over to backprop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from projected import K, N, chain, drawn, fitted, method, ones, problem, residual
from torch import Tensor

from effdl import config
from effdl.config import build, compose
from effdl.errors import ConfigError
from effdl.least_squares.normal_equations import summed
from effdl.methods.shaping import aligned, low_rank, most_telling
from effdl.records.carry import build_network, carry_out, open_problem
from effdl.records.networks import load_network
from effdl.rng import seed_for

NET = ["dataset=digits", "dataset.val_size=0", "arch=mlp", "arch.hidden=[40, 20]"]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(network: Any, layer: int = 0) -> Tensor:
    """(1 + n, width) of a hidden layer, the bias first."""
    linear = network.blocks[layer][0]
    return torch.cat([linear.bias[None], linear.weight.T]).detach()


# --- Functions.


def test_low_rank_leaves_out_what_the_smallest_singular_values_carry() -> None:
    w = normal(7, 5)
    singular = np.linalg.svd(w.numpy(), compute_uv=False)
    for rank in range(1, 6):
        cut = low_rank(w, rank)
        assert np.linalg.matrix_rank(cut.numpy()) == rank
        assert (cut - w).norm().item() == pytest.approx(float(np.sqrt((singular[rank:] ** 2).sum())), abs=1e-12)


@pytest.mark.parametrize("active", [0.1, 0.5, 0.75, 0.8, 0.9])
@pytest.mark.parametrize("width", [3, 300])
def test_aligned_units_are_positive_on_the_share_of_the_samples(active: float, width: int) -> None:
    z, w = ones(normal(200, 4)), normal(5, width)
    shifted = aligned(w, lambda: z.split(64), active)
    assert torch.equal(shifted[1:], w[1:])
    assert ((z @ shifted > 1e-12).sum(0) == round(200 * active)).all()


def rises(z: Tensor, y: Tensor) -> list[float]:
    """How much the squared error of a linear fit on z rises when a column of z is left out, by fitting anew."""
    return [residual(z[:, [k for k in range(z.shape[1]) if k != i]], y) - residual(z, y) for i in range(z.shape[1])]


@pytest.mark.parametrize("biased", [True, False])
def test_most_telling_units_are_those_without_which_a_fit_anew_loses_most(biased: bool) -> None:
    z = normal(50, 6)
    z[:, 3] = z[:, 0] + 1e-4 * z[:, 3]  # each can stand in for the other, whatever their weights
    y = normal(50, 9)[:, 6:] + z @ torch.linspace(0.1, 2, 18, dtype=torch.float64).view(6, 3)
    features = ones(z) if biased else z
    literal = rises(features, y)[int(biased) :]
    kept = most_telling(summed([(features, y)], features.shape[1], 3), biased, 4).tolist()
    assert kept == sorted(sorted(range(6), key=lambda i: -literal[i])[:4]) and set(kept) == {1, 2, 4, 5}


# --- Networks.


def test_improving_never_makes_a_layer_worse_and_mixes_further_draws_in() -> None:
    distances = []
    for improve in (0, 1, 3, 8):
        network, _ = fitted(method(projection="random", improve=improve), problem(), chain(N, 4))
        data = problem().train_tensors()
        with torch.no_grad():
            distances.append(residual(ones(network.blocks[0](data.x)), data.y))
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.98 * distances[0]


@pytest.mark.parametrize(("seed", "wins"), [(2, True), (1, False)])
def test_an_improvement_is_the_draws_mixture_with_another_if_that_is_better(seed: int, wins: bool) -> None:
    data = problem(generator_seed=seed)
    network, _ = fitted(method(projection="random", improve=1, step=0.5), data, chain(N, 4))
    x, y = data.train_tensors().x, data.train_tensors().y
    z, generator = ones(x), torch.Generator().manual_seed(seed_for(0, "improvement", 0, 0))
    other = torch.randn(1 + N + K, 4, generator=generator, dtype=torch.float64)
    first, second = (torch.linalg.pinv(z) @ (torch.cat([z, y], 1) @ p) for p in (drawn(0, 1 + N + K, 4), other))
    mixed = first + 0.5 * first.norm() / second.norm() * second
    assert (residual(ones((z @ mixed).tanh()), y) < residual(ones((z @ first).tanh()), y)) == wins
    torch.testing.assert_close(weights(network), mixed if wins else first)


def test_pruned_units_are_the_most_telling_of_those_found() -> None:
    network, _ = fitted(method(projection="platonic_pca", surplus=2.0), problem(), chain(N, 4))
    wide, _ = fitted(method(projection="platonic_pca"), problem(), chain(N, 8))
    data = problem().train_tensors()
    with torch.no_grad():
        literal = rises(ones(wide.blocks[0](data.x)), data.y)[1:]
    kept = sorted(sorted(range(8), key=lambda i: -literal[i])[:4])
    torch.testing.assert_close(weights(network), weights(wide)[:, kept])


def test_noise_on_p_moves_the_weights_by_what_eq_7_2_says() -> None:
    plain, _ = fitted(method(projection="platonic_pca"), problem(), chain(N, 4))
    noisy, _ = fitted(method(projection="platonic_pca", noise=1e-3), problem(), chain(N, 4))
    data = problem().train_tensors()
    z, y = ones(data.x), data.y
    generator = torch.Generator().manual_seed(seed_for(0, "noise", 0))
    noise = 1e-3 * torch.randn(N + K, 4, generator=generator, dtype=torch.float64)
    p_z, p_y = torch.cat([torch.zeros(1, 4), noise[:N]]), noise[N:]
    torch.testing.assert_close(weights(noisy) - weights(plain), p_z + torch.linalg.pinv(z) @ y @ p_y, atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize(
    ("fields", "changed"),
    [({"rank": 2}, True), ({"active": 0.3}, True), ({"noise": 0.1}, True), ({"rank": 4}, False), ({"surplus": 1.0}, False)],
)
def test_each_proposal_changes_what_it_says_and_nothing_else(fields: dict[str, Any], changed: bool) -> None:
    plain, _ = fitted(method(projection="platonic_pca"), problem(), chain(N, 4))
    network, _ = fitted(method(projection="platonic_pca", **fields), problem(), chain(N, 4))
    same = torch.allclose(weights(plain), weights(network), atol=1e-12)
    assert same != changed
    if "rank" in fields:
        assert np.linalg.matrix_rank(weights(network).numpy(), tol=1e-10) == fields["rank"]
        torch.testing.assert_close(low_rank(weights(plain), fields["rank"]), weights(network))
    if "active" in fields:
        assert torch.equal(weights(plain)[1:], weights(network)[1:])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method.active=0.5", "method.bias=false"], "method.active: shifts biases"),
        (["method.active=1"], "method.active: Input should be less than 1"),
        (["method.surplus=0.5"], "method.surplus: Input should be greater than or equal to 1"),
        (["method.improve=2", "method.projection=deterministic"], "method.improve: among weighted samples"),
        (["method.noise=0.1"], "method.noise: random has no P that is found"),
        (["method.surplus=50", "method.keep_features_mib=1"], "samples of 2,001 features"),
        (["method=output_layer", "method.bias=false"], "method.bias: hidden layers keep their biases"),
        (["method.projection=platonic_pca", "method.surplus=2"], "80 units (method.surplus of 40) in layer 1"),
    ],
)
def test_wrong_proposal_is_one_line(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(compose([*NET, "method=platonic", *overrides]))
    assert says in str(error.value) and "\n" not in str(error.value)


# --- Closed form and backprop hand networks to each other.


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The saved network of a closed form, and its training error."""
    return ended(["method=platonic", "method.projection=random", "method.alpha=0.03"], tmp_path_factory.mktemp("closed"))


def ended(overrides: list[str], root: Path) -> tuple[str, float]:
    spec = build(compose([*NET, *overrides]))
    summary = carry_out(spec, root)["summary"]
    path = next((root / "runs").glob("*/network.safetensors"))
    return str(path), summary["train/mse"]


def test_backprop_begins_at_the_closed_forms_outputs_and_ends_lower(closed: tuple[str, float], tmp_path: Path) -> None:
    path, mse = closed
    given = [
        f"arch.weights={path}",
        "objective=linear_mse",
        "method=backprop",
        "method.measure_train=true",
        "optimizer.lr=0.001",
    ]
    spec = build(compose([*NET, *given]))
    train, test = spec.dataset.load()
    data = open_problem(spec, train, test)
    network, saved = build_network(spec, data, train.x.device), load_network(Path(path).parent)
    x = data.train_tensors().x[:50]
    with torch.no_grad():
        torch.testing.assert_close(network(x), saved(x))
    assert ended(given, tmp_path)[1] < mse


def test_an_output_layer_fitted_anew_is_least_squares_on_hidden_layers_that_stay(
    closed: tuple[str, float], tmp_path: Path
) -> None:
    trained, mse = ended(
        ["method=backprop", "method.epochs=1", "objective=linear_mse", "method.measure_train=true"], tmp_path / "a"
    )
    refit, refit_mse = ended(["method=output_layer", f"arch.weights={trained}"], tmp_path / "b")
    assert refit_mse < mse
    before, after = (load_network(Path(path).parent) for path in (trained, refit))
    for name, tensor in before.blocks.named_parameters():
        assert torch.equal(tensor, after.blocks.get_parameter(name)), name
    train, _ = build(compose(NET)).dataset.load()
    with torch.no_grad():
        z = ones(after.blocks(after.input(train.x)).double()).numpy()
    found = np.linalg.lstsq(z, np.eye(10)[train.y.numpy()], rcond=None)[0]
    np.testing.assert_allclose(after.head.weight.detach().numpy(), found[1:].T, atol=2e-3)


def test_weights_of_another_network_are_refused_in_one_line(closed: tuple[str, float]) -> None:
    with pytest.raises(
        ConfigError, match=r"arch.weights: these are of another network than 64-40-30-10: .*linear2.*is \[20, 40\]"
    ):
        config.build(compose([*NET[:-1], "arch.hidden=[40, 30]", "method=output_layer", f"arch.weights={closed[0]}"]))
