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
from effdl.datasets.problem import Problem, Samples
from effdl.errors import ConfigError
from effdl.methods.platonic import Platonic, Projection
from effdl.methods.projections import correlation, covariance, evenly_along, independent_components, principal_components
from effdl.objectives.losses import LinearMse
from effdl.records.carry import carry_out
from effdl.records.plan import cost
from effdl.training.least_squares import Lstsq, Pinv, Ridge, Solve


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


@pytest.mark.parametrize("samples", [30, 31, 32])
@pytest.mark.parametrize("count", [1, 2, 7, 29])
def test_sorted_pca_takes_the_samples_that_the_words_of_section_7_8_2_name(count: int, samples: int) -> None:
    """1. the first component; 2. v = Xc; 3. the indices that sort v; 4. those evenly spaced, as figure 7.14 rounds."""
    x = np.random.default_rng(samples).normal(size=(samples, 4)) * [3, 1, 1, 1]
    component = PCA(1).fit(x).components_[0]
    component *= np.sign(component.sum())
    v = [sum(a * b for a, b in zip(row, component, strict=True)) for row in x]
    ascending = sorted(range(samples), key=v.__getitem__)
    places: list[int] = []
    while len(places) * samples / count < samples - 1:
        places.append(round(len(places) * samples / count))  # halves to even, as torch has it too
    first = principal_components(covariance(lambda: torch.from_numpy(x).split(7)), 1)[:, 0]
    found = evenly_along(torch.from_numpy(x) @ first, count).tolist()
    assert found == [ascending[place] for place in places] and len(found) == count


def test_components_are_scikit_learns_with_a_positive_sum() -> None:
    a = problem().train_tensors().x * torch.tensor([1.0, 5.0, 2.0, 0.1, 3.0], dtype=torch.float64) + 7
    found = principal_components(covariance(lambda: a.split(7)), 4).T.numpy()
    theirs = PCA(4).fit(a.numpy()).components_
    theirs *= np.sign(theirs.sum(1, keepdims=True))
    np.testing.assert_allclose(found, theirs, rtol=1e-8, atol=1e-9)


def test_sorted_pcas_units_are_samples_without_bias() -> None:
    data = problem()
    network, _ = fitted(method(projection="sorted_pca"), data, chain(N, 8))
    layer, x = network.blocks[0][0], data.train_tensors().x
    first = principal_components(covariance(lambda: [x]), 1)[:, 0]
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


def test_correlations_are_numpys_and_a_constant_column_has_none() -> None:
    a = problem().train_tensors().x * torch.tensor([1.0, 5.0, 2.0, 0.1, 0.0], dtype=torch.float64) + 7
    found = correlation(lambda: a.split(7)).numpy()
    np.testing.assert_allclose(found[:4, :4], np.corrcoef(a[:, :4].T.numpy()), rtol=1e-10, atol=1e-12)
    assert np.abs(found[4]).max() < 1e-12


@pytest.mark.parametrize("large", [1e4, 1e8, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlations_do_not_hang_on_the_scale_of_a_column(dtype: torch.dtype, large: float) -> None:
    """As of table 7.2's Y, 1e8 times the size of the pixels beside it. Columns that never vary stay without, of any size."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5000, 4, generator=generator, dtype=torch.float64) + torch.tensor(
        [0.0, 3.0, -1.0, 0.1], dtype=torch.float64
    )
    a[:, 3] += a[:, 0]
    constant = torch.tensor([0.1, 1e3 / 3, large / 7], dtype=torch.float64).expand(5000, 3)
    scaled = torch.cat([a * torch.tensor([1.0, 1e-3, 1.0, large], dtype=torch.float64), constant], 1).to(dtype)
    found = correlation(lambda: scaled.split(700)).numpy()
    np.testing.assert_allclose(found[:4, :4], np.corrcoef(a.T.numpy()), rtol=0, atol=2e-4 if dtype == torch.float32 else 1e-9)
    assert not found[4:].any() and not found[:, 4:].any()


def test_components_of_correlations_do_not_hang_on_beta() -> None:
    """What beta squared of table 7.2 relies on, in single precision: P is the same with 1e8 as with 1, and in float64."""
    x, y = (
        torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)),
        torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)),
    )
    y[:, 0] += 2 * x[:, 0]
    first = [
        principal_components(correlation(lambda z=z, beta=beta: [torch.cat([z, beta * y.to(z)], 1)]), 1)
        for z, beta in ((x.double(), 1.0), (x, 1.0), (x, 1e8))
    ]
    for other in first[1:]:
        torch.testing.assert_close(other.double(), first[0], rtol=0, atol=1e-4)


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
    first = principal_components(covariance(lambda: [z]), 1)[:, 0]
    torch.testing.assert_close(network.blocks[1][0].weight, z[evenly_along(z @ first, 6)], rtol=1e-12, atol=1e-12)


def test_independent_components_are_the_directions_that_unmix_what_was_mixed() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(4000, 3, generator=generator, dtype=torch.float64) - 0.5
    mixing = torch.tensor([[1.0, 0.4, 0.2], [0.3, 1.0, 0.1], [0.0, 0.5, 1.0]], dtype=torch.float64)
    found = independent_components(lambda: (sources @ mixing).split(1000), 3, seed=0)
    true = torch.linalg.inv(mixing)
    cosines = (found.T @ (true / true.norm(dim=0))).abs()
    assert cosines.max(1).values.min() > 0.995 and sorted(cosines.argmax(1).tolist()) == [0, 1, 2]
    torch.testing.assert_close(found.norm(dim=0), torch.ones(3, dtype=torch.float64))


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
def test_a_fitted_network_is_saved_and_loaded_and_says_its_numbers(projection: str, precision: str, tmp_path: Path) -> None:
    overrides = [*DIGITS, *PROJECTIONS[projection], f"method.projection={projection}", f"method.precision={precision}"]
    spec = config.build(config.compose([*overrides, "method/solver=ridge", "dataset.val_size=0"]))
    done = carry_out(spec, tmp_path)
    assert done["status"] == "finished", done
    network, metrics = load_network(done["path"]), done["summary"]
    train, test = spec.dataset.load()
    for name, samples in (("test", test), ("train", train)):
        outputs = network(samples.x)
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
def test_wrong_combination_is_one_line(overrides: tuple[str, ...], says: str) -> None:
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
