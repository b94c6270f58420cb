"""Platonic projections against the thesis's listings, scikit-learn, and plain least squares, in float64."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from projected import EXACT, K, M, N, chain, drawn, fitted, method, ones, problem, residual
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from effdl import config, load_network
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.least_squares.solvers import Lstsq, Pinv, Ridge, Solve
from effdl.methods.platonic import Platonic, Projection
from effdl.methods.projections import centred_components, evenly_along, independent_components
from effdl.objectives.losses import LinearMse
from effdl.records.carry import carry_out
from effdl.records.plan import cost
from effdl.rng import seed_for
from effdl.training.hardware import Hardware


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_random_projections_are_figure_7_3_line_by_line() -> None:
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    y = (2 * math.pi * x).sin()
    data = Problem(Samples(x, y), Samples(x[:1], y[:1]), LinearMse(), outputs=1, batch_size=8)
    network, run = fitted(method(solver=Pinv()), data, chain(1, 6, 6, activation="celu", outputs=1))

    afun, b = nn.CELU(), torch.ones(200, 1, dtype=torch.float64)
    z_0 = torch.cat([b, x], dim=1)
    w_1 = torch.linalg.pinv(z_0) @ (torch.cat([z_0, y], dim=1) @ drawn(0, 3, 6))
    z_1 = torch.cat([b, afun(z_0 @ w_1)], dim=1)
    w_2 = torch.linalg.pinv(z_1) @ (torch.cat([z_1, y], dim=1) @ drawn(1, 8, 6))
    z_2 = torch.cat([b, afun(z_1 @ w_2)], dim=1)
    yhat = z_2 @ (torch.linalg.pinv(z_2) @ y)

    torch.testing.assert_close(network(x), yhat, rtol=1e-7, atol=1e-9)
    assert run.notes["train/mse"] == pytest.approx((yhat - y).square().mean().item(), rel=1e-7)
    assert [line["train/lsd"] for line in run.lines] == pytest.approx([residual(z_1, y), residual(z_2, y)], rel=1e-6)


@pytest.mark.parametrize("solver", [EXACT, Lstsq(), Solve(l2=0.0), Ridge(l2=0.0)], ids=["pinv", "lstsq", "solve", "ridge"])
def test_two_layers_solved_by_hand_on_three_points(solver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """x = −1, 0, 1, y = 0, 0, 1 and T = [x + y, y − x]. [1 x] has orthogonal columns, so that W = [mean of T; Σ xT / 2]; ReLU
    leaves [0 5/6], [1/3 1/3] and [11/6 0], which with the ones are three equations for three weights."""
    x, y = (torch.tensor(values, dtype=torch.float64)[:, None] for values in ([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]))
    p = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)  # of the ones, x and y
    monkeypatch.setattr("effdl.methods.platonic.normal", lambda *_: p)
    data = Problem(Samples(x, y), Samples(x[:1], y[:1]), LinearMse(), outputs=1, batch_size=1)
    network, run = fitted(method(solver=solver), data, chain(1, 2, activation="relu", outputs=1))
    layer, head = network.blocks[0][0], network.head
    expected = ([1 / 3, 1 / 3], [[1.5], [-0.5]], [-10 / 23], [[18 / 23, 12 / 23]])
    for found, by_hand in zip((layer.bias, layer.weight, head.bias, head.weight), expected, strict=True):
        torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert run.notes["train/mse"] < 1e-18


def test_two_layers_solved_by_hand_with_alpha_and_beta_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """x = 1, 2, y = 3, 5: T = ½(x + 2y) = 7/2, 6, W = xᵀT/5 = 31/10, outputs x·13/5, of squared errors (0.4², 0.2²)."""
    x, y = (torch.tensor(values, dtype=torch.float64)[:, None] for values in ([1.0, 2.0], [3.0, 5.0]))
    monkeypatch.setattr("effdl.methods.platonic.normal", lambda *_: torch.ones(2, 1, dtype=torch.float64))
    data = Problem(Samples(x, y), Samples(x[:1], y[:1]), LinearMse(), outputs=1, batch_size=1)
    network, run = fitted(method(alpha=0.5, beta=2.0, bias=False), data, chain(1, 1, activation="relu", outputs=1))
    assert network.blocks[0][0].weight.item() == pytest.approx(3.1) and network.head.weight.item() == pytest.approx(26 / 31)
    assert run.notes["train/mse"] == pytest.approx(0.1)


def test_limit_with_the_identity_for_activation_a_network_is_plain_least_squares() -> None:
    """Targets [Z|Y]P of full rank lose nothing, and nothing is gained without a nonlinearity."""
    data = problem()
    network, _ = fitted(method(beta=2.0, solver=Pinv()), data, chain(N, N + K + 2, N + K + 1, activation="identity"))
    x, y = ones(data.train_tensors().x), data.train_tensors().y
    expected = x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    torch.testing.assert_close(network(data.train_tensors().x), expected, rtol=1e-8, atol=1e-9)


def test_claim_weights_are_the_projections_first_rows_plus_least_squares_through_the_others() -> None:
    """W = P_Z + Z⁺Y P_Y, eq. 7.2, with β and α as §7.5.2 has them."""
    data = problem()
    network, _ = fitted(method(alpha=0.5, beta=3.0), data, chain(N, 4))
    p = drawn(0, 1 + N + K, 4)
    x, y = ones(data.train_tensors().x), data.train_tensors().y
    expected = 0.5 * (p[: 1 + N] + 3.0 * torch.linalg.lstsq(x, y).solution @ p[1 + N :])
    layer = network.blocks[0][0]
    torch.testing.assert_close(torch.cat([layer.bias[:, None], layer.weight], 1).T, expected, rtol=1e-9, atol=1e-11)


def test_sorted_pcas_units_are_samples_without_bias() -> None:
    data = problem()
    network, _ = fitted(method(projection="sorted_pca"), data, chain(N, 8))
    layer, x = network.blocks[0][0], data.train_tensors().x
    first = centred_components(lambda: [x], 1)[:, 0]
    assert torch.equal(layer.weight, x[evenly_along(x @ first, 8)]) and not layer.bias.any()


def by_platonic_pca(z: Tensor, y: Tensor, weights: Tensor, width: int, beta: float, pca: str, importance: str) -> Tensor:
    """Pre-activations with NumPy and scikit-learn: P of [Z|βd⊙Y], T = [Z|βY]P or with d, ZZ⁺T, Z with a column of ones."""
    augmented = torch.cat([z, beta * weights * y], 1).numpy()
    components = PCA(width).fit(StandardScaler().fit_transform(augmented) if pca == "correlation" else augmented).components_
    components *= np.sign(components.sum(1, keepdims=True))
    targets = (augmented if importance == "targets" else torch.cat([z, beta * y], 1).numpy()) @ components.T
    design = ones(z).numpy()
    return torch.from_numpy(design @ np.linalg.lstsq(design, targets, rcond=None)[0])


@pytest.mark.parametrize("solver", [EXACT, Lstsq(), Ridge(l2=0.0)], ids=["pinv", "lstsq", "ridge"])
@pytest.mark.parametrize(
    ("projection", "ema", "pca", "importance"),
    [
        ("platonic_pca", 0.2, "covariance", "projection"),
        ("platonic_pca", 0.2, "correlation", "targets"),
        ("weighted_platonic_pca", 0.2, "covariance", "projection"),
        ("weighted_platonic_pca", 0.2, "correlation", "projection"),
        ("weighted_platonic_pca", 0.2, "covariance", "targets"),
        ("weighted_platonic_pca", None, "covariance", "targets"),
        ("weighted_platonic_pca", 0.2, "correlation", "targets"),
    ],
)
def test_platonic_pca_weighs_samples_by_their_errors_if_it_is_asked_to(
    projection: Any, ema: float | None, pca: Any, importance: Any, solver: Any
) -> None:
    data = problem()
    z, y = data.train_tensors().x, data.train_tensors().y
    weights = torch.ones(M, 1, dtype=torch.float64)
    how = {"projection": projection, "ema": ema, "pca": pca, "importance": importance, "solver": solver}
    network, _ = fitted(method(beta=20.0, **how), data, chain(N, 6, 5, 4))
    for i, width in enumerate((6, 5, 4)):
        if i and ema is not None and projection == "weighted_platonic_pca":
            design = ones(z).numpy()
            predicted = design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
            errors = torch.from_numpy(np.square(y.numpy() - predicted).sum(1, keepdims=True))
            weights = ema * weights + (1 - ema) * errors
        z = by_platonic_pca(z, y, weights, width, 20.0, pca, importance).tanh()
        torch.testing.assert_close(network.blocks[: i + 1](data.train_tensors().x), z, rtol=1e-6, atol=1e-8)


def test_deterministic_is_sorted_pca_below_weighted_platonic_pca() -> None:
    data = problem()
    whole, _ = fitted(method(projection="deterministic", beta=5.0), data, chain(N, 8, 6))
    first, _ = fitted(method(projection="sorted_pca"), data, chain(N, 8))
    assert torch.equal(whole.blocks[0][0].weight, first.blocks[0][0].weight)
    z, y = first.blocks(data.train_tensors().x), data.train_tensors().y
    design = ones(z).numpy()
    errors = np.square(y.numpy() - design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]).sum(1, keepdims=True)
    expected = by_platonic_pca(z, y, 0.2 + 0.8 * torch.from_numpy(errors), 6, 5.0, "covariance", "projection").tanh()
    torch.testing.assert_close(whole.blocks(data.train_tensors().x), expected, rtol=1e-6, atol=1e-8)


def test_ablation_targets_of_labels_alone_leave_out_the_features_part_of_the_same_draw() -> None:
    data = problem()
    network, _ = fitted(method(alpha=0.5, beta=3.0, targets="labels"), data, chain(N, 4))
    x, y = ones(data.train_tensors().x), data.train_tensors().y
    expected = np.linalg.lstsq(x.numpy(), 1.5 * (y @ drawn(0, 1 + N + K, 4)[1 + N :]).numpy(), rcond=None)[0]
    layer = network.blocks[0][0]
    np.testing.assert_allclose(torch.cat([layer.bias[:, None], layer.weight], 1).T.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_ablation_components_as_weights_are_their_part_in_the_features_without_bias() -> None:
    data = problem()
    network, _ = fitted(method(projection="components", beta=3.0), data, chain(N, 6))
    x, y = data.train_tensors().x, data.train_tensors().y
    components = PCA(6).fit(torch.cat([x, 3.0 * y], 1).numpy()).components_
    components *= np.sign(components.sum(1, keepdims=True))
    layer = network.blocks[0][0]
    np.testing.assert_allclose(layer.weight.numpy(), components[:, :N], rtol=1e-8, atol=1e-10)
    assert not layer.bias.any()


@pytest.mark.parametrize("beta", [10.0, 1e8])
def test_single_precision_takes_the_same_components_of_covariances_as_double(beta: float) -> None:
    """As weights they show as they are: the part in the features of [Z | βY]'s, by an SVD in float64, at a β of table 7.3."""
    x, y = problem().train_tensors().x.float(), problem().train_tensors().y.float()
    data = Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=K, batch_size=8)
    network, _ = fitted(method(projection="components", beta=beta, precision="float32"), data, chain(N, N + K).float())
    augmented = np.concatenate([x.double().numpy(), (beta * y).double().numpy()], 1)
    components = np.linalg.svd(augmented - augmented.mean(0))[2]
    components *= np.sign(components.sum(1, keepdims=True))
    found = network.blocks[0][0].weight.double().numpy()
    np.testing.assert_allclose(found[K:], components[K:, :N], rtol=0, atol=1e-5)


def test_ablation_samples_may_be_sorted_along_the_component_of_features_and_labels() -> None:
    data = problem()
    x, y = data.train_tensors().x.numpy(), 4 * data.train_tensors().y.numpy()
    of_both = replace_targets(data, torch.from_numpy(y))
    network, _ = fitted(method(projection="sorted_platonic_pca"), of_both, chain(N, 6))
    component = PCA(1).fit(np.concatenate([x, y], 1)).components_[0]
    component *= np.sign(component.sum())
    order = np.argsort(x @ component[:N])
    np.testing.assert_array_equal(network.blocks[0][0].weight.numpy(), x[order[::10]])
    plain, _ = fitted(method(projection="sorted_pca"), of_both, chain(N, 6))
    assert not torch.equal(plain.blocks[0][0].weight, network.blocks[0][0].weight)


def replace_targets(data: Problem, y: Tensor) -> Problem:
    x = data.train_tensors().x
    return Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=K, batch_size=8)


def test_ablation_uniform_samples_are_drawn_without_choosing_and_may_be_tried() -> None:
    data = problem()
    network, _ = fitted(method(projection="uniform_samples"), data, chain(N, 8))
    weights, x = network.blocks[0][0].weight.tolist(), data.train_tensors().x.tolist()
    assert all(w in x for w in weights) and len({tuple(w) for w in weights}) == 8
    by_tries = [
        fitted(method(projection="uniform_samples", tries=t), data, chain(N, 8))[1].lines[0]["train/lsd"] for t in (1, 9)
    ]
    assert by_tries[1] < by_tries[0]


def test_ablation_sorted_pca_above_the_first_layer_takes_its_features() -> None:
    data = problem()
    network, _ = fitted(method(projection="sorted_pca"), data, chain(N, 8, 6))
    z = network.blocks[:1](data.train_tensors().x)
    first = centred_components(lambda: [z], 1)[:, 0]
    torch.testing.assert_close(network.blocks[1][0].weight, z[evenly_along(z @ first, 6)], rtol=1e-12, atol=1e-12)


def test_independent_components_project_features_and_labels() -> None:
    """W = Z⁺[Z | βY]P with NumPy; P itself is held in test_projections."""
    x, y = (part**3 for part in (problem().train_tensors().x, problem().train_tensors().y))  # not Gaussian
    data = Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=K, batch_size=8)
    network, _ = fitted(method(projection="ica", beta=3.0), data, chain(N, 6))
    augmented = torch.cat([x, 3.0 * y], 1)
    p = independent_components(lambda: [augmented], 6, seed_for(0, "projection", 0, 0))
    expected = np.linalg.lstsq(ones(x).numpy(), (augmented @ p).numpy(), rcond=None)[0]
    layer = network.blocks[0][0]
    found = torch.cat([layer.bias[:, None], layer.weight], 1).T
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-8, atol=1e-9)


BY_ROWS = ["random", "platonic_pca", "weighted_platonic_pca", "ica", "sorted_pca", "sorted_platonic_pca", "uniform_samples"]
BY_ROWS += ["components", "deterministic"]


@pytest.mark.parametrize("projection", BY_ROWS)
def test_limit_features_made_anew_in_chunks_give_what_kept_ones_give(projection: Any) -> None:
    assert sorted(BY_ROWS) == sorted(get_args(Projection))
    data, widths = problem(), (N, 7, 6)
    if projection == "ica":  # whose iteration makes much of rounding where nothing is independent
        x, y = data.train_tensors().x ** 3, data.train_tensors().y ** 3
        data, widths = Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=K, batch_size=8), (N, 7)
    kept, anew = (
        fitted(method(projection=projection, solver=Ridge(l2=0.1), **how), data, chain(*widths))
        for how in ({}, {"chunk": 7, "keep_features_mib": 0.0})
    )
    torch.testing.assert_close(dict(anew[0].state_dict()), dict(kept[0].state_dict()), rtol=1e-10, atol=1e-10)
    assert [line["train/lsd"] for line in anew[1].lines] == pytest.approx(
        [line["train/lsd"] for line in kept[1].lines], rel=1e-10
    )


@pytest.mark.parametrize("solver", [Lstsq(), Solve(l2=0.0), Ridge(l2=0.0)], ids=["lstsq", "solve", "ridge"])
def test_on_a_well_conditioned_problem_all_solvers_agree(solver: Any) -> None:
    data = problem()
    expected, found = (fitted(method(solver=one), data, chain(N, 7, 6))[0] for one in (EXACT, solver))
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=1e-6, atol=1e-7)


def test_without_bias_no_layer_has_one() -> None:
    network, _ = fitted(method(bias=False), problem(), chain(N, 6, 5))
    assert not any(value.any() for name, value in network.state_dict().items() if name.endswith("bias"))
    x, y = problem().train_tensors().x, problem().train_tensors().y
    z = network.blocks(x)
    torch.testing.assert_close(network(x), z @ torch.linalg.lstsq(z, y).solution, rtol=1e-8, atol=1e-9)


DIGITS = ("method=platonic", "arch=mlp", "arch.hidden=[60,40]")
PROJECTIONS = {
    "random": ("method.beta=10",),
    "sorted_pca": (),
    "platonic_pca": ("method.beta=100",),
    "weighted_platonic_pca": ("method.beta=100",),
    "ica": ("method.beta=1",),
    "uniform_samples": (),
    "deterministic": ("method.beta=100",),
}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_fitted_network_is_saved_and_loaded_and_says_its_numbers(
    projection: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_fitted: list[nn.Module] = []
    fit = Platonic.fit
    monkeypatch.setattr(Platonic, "fit", lambda *args: as_fitted.append(fit(*args)) or as_fitted[-1])
    overrides = [*DIGITS, *PROJECTIONS[projection], f"method.projection={projection}", f"method.precision={precision}"]
    spec = config.build(config.compose([*overrides, "method/solver=ridge", "dataset.val_size=0"]))
    done = carry_out(spec, tmp_path)
    assert done["status"] == "finished", done
    network, metrics = load_network(done["path"]), done["summary"]
    train, test = spec.dataset.load()
    for name, samples in (("test", test), ("train", train)):
        outputs = network(samples.x)
        assert torch.equal(outputs, as_fitted[0](samples.x))
        accuracy = (outputs.argmax(1) == samples.y).double().mean().item()
        assert outputs.dtype == getattr(torch, precision) and metrics[f"{name}/acc"] == pytest.approx(
            accuracy, abs=1e-9 if precision == "float64" else 2e-3
        )
        coded = nn.functional.one_hot(samples.y, 10)
        assert metrics[f"{name}/mse"] == pytest.approx((outputs - coded).square().mean().item(), rel=1e-3)
    assert metrics["test/acc"] > (0.5 if projection == "ica" else 0.85)
    lines = [json.loads(line) for line in (Path(done["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert [line["segment"] for line in lines] == [0, 1] and lines[-1]["train/lsd"] == pytest.approx(10 * metrics["train/mse"])
    assert metrics["train/lowest_lsd"] == min(line["train/lsd"] for line in lines)
    assert 0 < metrics["time/fit_cpu_s"] < metrics["time/cpu_s"]


WRONG = {
    "units beyond sorted PCA": (
        ("method.projection=sorted_pca", "arch.hidden=[1300]"),
        r"arch\.hidden: 1,300 units in layer 1",
    ),
    "units beyond Platonic PCA": (
        ("method.projection=deterministic", "arch.hidden=[20,31]"),
        r"arch\.hidden: 31 units in layer 2, where weighted Platonic PCA of 20 features and 10 targets gives at most 30$",
    ),
    "tries of what is found": (("method.projection=sorted_pca", "method.tries=2"), r"method\.tries: only random"),
    "labels for what has no targets": (
        ("method.projection=sorted_pca", "method.targets=labels"),
        r"method\.targets: sorted_pca has none",
    ),
    "too much for a solver that needs it whole": (
        ("method.keep_features_mib=0.2",),
        r"method\.keep_features_mib: two layers of 1,200 samples of 65 features take 1 MiB, and Pinv needs a layer's at once; "
        r"raise it, or take method/solver=ridge",
    ),
    "sums that no machine here holds": (
        (
            "method/solver=ridge",
            "arch.hidden=[300000]",
            "dataset=checkerboard",
            "dataset.samples=400000",
            "objective=linear_mse",
        ),
        r"arch\.hidden: square matrices of 300,001 features and 400,000 samples take 1,341\.1 GiB in Ridge, of 24\.0 GiB on "
        r"this machine; narrow the layers$",
    ),
    "a system that no machine here holds": (
        ("method/solver=solve", "arch.hidden=[200000]", "method.keep_features_mib=1e7"),
        r"arch\.hidden: square matrices of 200,001 features and 1,200 samples take 298\.0 GiB in Solve, of 24\.0 GiB",
    ),
    "another network": (("arch=cnn4",), r"arch: Platonic fits linear layers alone, take arch=mlp"),
    "another objective": (("objective=softmax_ce",), r"objective: Platonic fits by least squares, so it takes linear_mse"),
    "an optimizer": (("optimizer=sgd",), r"optimizer: Platonic uses none"),
    "an augmentation": (("augment=standard",), r"augment: Platonic takes training images as they are"),
    "a probe": (("probe=stable_rank",), r"probe: Platonic has no epochs after which to measure"),
    "a filter": (("filter=random_subset",), r"filter: Platonic trains on all samples"),
    "bf16": (("hardware.precision=bf16",), r"hardware: Platonic takes precision=float32"),
    "a solver's option of another": (("method.solver.l2=1",), r"method\.solver\.l2: unknown key; there are tol"),
    "a solver for what has none": (("method=dll", "method/solver=pinv"), r"method/solver: the chosen method has no solver; "),
}


@pytest.mark.parametrize(("overrides", "says"), WRONG.values(), ids=WRONG)
def test_wrong_combination_is_one_line(overrides: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hardware, "memory", lambda self: 24 * 2**30)
    base = [one for one in DIGITS if one.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    if "arch=cnn4" in overrides:
        base = ["method=platonic"]
    if "method=dll" in overrides:
        base = []
    with pytest.raises(ConfigError, match=rf"^{says}"):
        config.build(config.compose([*base, *overrides]))


def test_plan_does_not_fit_to_say_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platonic, "fit", None)
    assert cost(config.build(config.compose(DIGITS)), timed=True) is None


def test_on_a_gpu_with_bf16_it_takes_float32_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("is_available", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, asked, lambda *_, **__: True)
    assert config.build(config.compose([])).hardware.precision == "bf16"
    made = config.build(config.compose(DIGITS)).hardware
    assert (made.device, made.precision) == ("cuda", "float32")


def test_singular_system_ends_the_run_as_failed_and_is_an_answer(tmp_path: Path) -> None:
    spec = config.build(config.compose([*DIGITS, "method/solver=solve", "method.solver.l2=0"]))
    done = carry_out(spec, tmp_path)  # digits have pixels that are always 0
    assert done["status"] == "failed" and "solve failed on" in done["reason"] and "method/solver=ridge" in done["reason"]
    assert carry_out(replace(spec), tmp_path) == done
