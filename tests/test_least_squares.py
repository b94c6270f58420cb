"""Least squares against exact answers: data are built from an SVD, tall, wide and rank-deficient, in float64."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from projected import chain
from sklearn.linear_model import Ridge as TheirRidge
from torch import Tensor

from effdl.config import build_choice, choices
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import FitFailed, IllConditionedWarning
from effdl.least_squares.design import Design
from effdl.least_squares.normal_equations import condition, condition_bound, summed
from effdl.least_squares.solvers import Lstsq, Pinv, Ridge, Solve, Solver
from effdl.methods.platonic import Platonic
from effdl.objectives.losses import LinearMse
from effdl.records.run import Run

FORMS = {"tall": (40, 7, 7), "wide": (7, 40, 7), "tall of low rank": (40, 9, 5), "wide of low rank": (9, 40, 5)}
ANY_RANK: dict[str, Solver] = {
    "pinv": Pinv(),
    "lstsq": Lstsq(),
    "lstsq by SVD": Lstsq(driver="gelsd"),
    "lstsq by the other SVD": Lstsq(driver="gelss"),
    "ridge": Ridge(l2=0.0),
}


@dataclass(frozen=True)
class Known:
    """z = u diag(s) vᵀ, and targets t = u c + what is orthogonal to z's columns."""

    z: Tensor
    t: Tensor
    u: Tensor
    s: Tensor
    v: Tensor
    c: Tensor

    def answer(self, shrunk: Callable[[Tensor], Tensor]) -> Tensor:
        """v diag(shrunk(s)) c: shrunk is 1/s for least squares, s/(s² + λ) for ridge regression."""
        return self.v @ (shrunk(self.s)[:, None] * self.c)


def known(form: str, least: float = 0.5, dtype: torch.dtype = torch.float64) -> Known:
    samples, features, rank = FORMS[form]
    generator = torch.Generator().manual_seed(0)

    def orthogonal(rows: int, columns: int) -> Tensor:
        return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q

    u, v = orthogonal(samples, samples), orthogonal(features, rank)
    s = torch.linspace(2.0, least, rank, dtype=torch.float64)
    c = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    z = u[:, :rank] @ torch.diag(s) @ v.T
    return Known(z.to(dtype), (u @ c).to(dtype), u[:, :rank], s, v, c[:rank])


def gram_of(z: Tensor) -> Tensor:
    return summed([(z, z[:, :0])], z.shape[1], 0).gram


def solved(solver: Solver, z: Tensor, t: Tensor, chunk: int = 6) -> Tensor:
    """W for targets t, which are also the design's own."""
    fit = solver.factorise(Design.of(z, t, chunk))
    w = fit(t)
    torch.testing.assert_close(
        fit.decision, w, rtol=1e-3 if z.dtype == torch.float32 else 1e-9, atol=1e-6 if z.dtype == torch.float32 else 1e-10
    )
    return w


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", ANY_RANK.values(), ids=ANY_RANK)
def test_solution_is_the_least_squares_one_of_least_norm(solver: Solver, form: str) -> None:
    data = known(form)
    torch.testing.assert_close(solved(solver, data.z, data.t), data.answer(lambda s: 1 / s), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", [Solve(l2=0.3), Ridge(l2=0.3)], ids=["solve", "ridge"])
def test_penalised_solution_shrinks_each_direction_by_its_singular_value(solver: Solver, form: str) -> None:
    data = known(form)
    w = solved(solver, data.z, data.t)
    torch.testing.assert_close(w, data.answer(lambda s: s / (s**2 + 0.3)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_ridge_is_scikit_learns(form: str) -> None:
    data = known(form)
    theirs = TheirRidge(alpha=0.7, fit_intercept=False, solver="svd").fit(data.z.numpy(), data.t.numpy()).coef_.T
    np.testing.assert_allclose(solved(Ridge(l2=0.7), data.z, data.t).numpy(), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_limit_in_chunks_it_is_as_in_one_piece(l2: float, form: str) -> None:
    data = known(form)
    whole, parts = (solved(Ridge(l2=l2), data.z, data.t, chunk) for chunk in (10**6, 3))
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", [True, False], ids=["before the decision", "after it"])
@pytest.mark.parametrize("solver", [*ANY_RANK.values(), Solve(l2=0.3), Ridge(l2=0.3)], ids=str)
def test_a_mixture_of_features_and_targets_is_solved_as_the_targets_that_it_makes(
    solver: Solver, first: bool, form: str
) -> None:
    data = known(form)
    generator = torch.Generator().manual_seed(1)
    p_z = torch.randn(data.z.shape[1], 4, generator=generator, dtype=torch.float64)
    p_y = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    fit = solver.factorise(Design.of(data.z, data.t, 6))
    decision = fit.decision if not first else None
    w = fit.mixture(p_z, p_y)
    expected = solver.factorise(Design.of(data.z, data.t, 6))(data.z @ p_z + data.t @ p_y)
    torch.testing.assert_close(w, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(decision if decision is not None else fit.decision, solved(solver, data.z, data.t))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", [*(one for one in ANY_RANK.values() if not one.by_rows), Solve(l2=0.3)], ids=str)
def test_a_reduced_design_is_the_same_problem_in_no_more_rows_than_features_and_targets(solver: Solver, form: str) -> None:
    data = known(form)
    whole = Design.of(data.z, data.t, 6)
    reduced = whole.reduced()
    z, y = reduced.whole()
    assert len(z) == len(y) == min(len(data.z), data.z.shape[1] + 3) and reduced.samples == len(data.z)
    w = solver.factorise(whole).decision
    fit = solver.factorise(reduced)
    torch.testing.assert_close(fit.decision, w, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close((y - z @ w).square().sum(), (data.t - data.z @ w).square().sum(), rtol=1e-9, atol=1e-20)
    p = torch.eye(data.z.shape[1] + 3, dtype=torch.float64).split([data.z.shape[1], 3])
    torch.testing.assert_close(fit.mixture(*p), solver.factorise(whole).mixture(*p), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [None, 0.7])
def test_pinv_is_torchs_bit_for_bit(tol: float | None, dtype: torch.dtype) -> None:
    data = known("tall of low rank", dtype=dtype)
    theirs = torch.linalg.pinv(data.z) if tol is None else torch.linalg.pinv(data.z, atol=tol, rtol=0.0)
    assert torch.equal(Pinv(tol=tol).factorise(Design.of(data.z, data.t))(data.t), theirs @ data.t)


def test_ridge_never_has_all_features_of_a_design_that_is_made_in_parts() -> None:
    data, most = known("tall"), 0

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal most
        for z, t in zip(data.z.split(3), data.t.split(3), strict=True):
            most = max(most, len(z))
            yield z.clone(), t

    fit = Ridge(l2=0.1).factorise(Design(rows, *data.z.shape, 3, data.z.new_empty(0)))
    torch.testing.assert_close(fit.decision, solved(Ridge(l2=0.1), data.z, data.t), rtol=1e-12, atol=1e-12)
    p = torch.ones(7, 2, dtype=torch.float64)
    torch.testing.assert_close(fit(data.z @ p), fit.mixture(p, p[:3] * 0), rtol=1e-12, atol=1e-12)
    assert most == 3


def test_limit_primal_is_dual() -> None:
    """(zᵀz + λI)⁻¹zᵀt = zᵀ(zzᵀ + λI)⁻¹t, both by the formula, on data that the solver takes by one or the other."""
    for form in ("tall", "wide"):
        z, t = known(form).z.numpy(), known(form).t.numpy()
        primal = np.linalg.solve(z.T @ z + 0.1 * np.eye(z.shape[1]), z.T @ t)
        dual = z.T @ np.linalg.solve(z @ z.T + 0.1 * np.eye(len(z)), t)
        ours = solved(Ridge(l2=0.1), torch.from_numpy(z), torch.from_numpy(t)).numpy()
        np.testing.assert_allclose(ours, primal, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours, dual, rtol=1e-10, atol=1e-12)


def test_pinvs_bound_is_absolute_and_lstsqs_relative() -> None:
    data = known("tall", least=0.01)
    cut = data.answer(lambda s: torch.where(s > 0.1, 1 / s, 0.0))
    for scale in (1.0, 100.0):  # of z, and with it of its singular values
        by_pinv = solved(Pinv(tol=0.1), scale * data.z, data.t) * scale
        by_lstsq = solved(Lstsq(tol=0.05, driver="gelsd"), scale * data.z, data.t) * scale
        torch.testing.assert_close(by_lstsq, cut, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(by_pinv, cut if scale == 1 else data.answer(lambda s: 1 / s), rtol=1e-9, atol=1e-11)


def test_default_bounds_throw_away_directions_that_many_samples_in_float32_would_have() -> None:
    """eps·max(m, n) of the largest singular value: 2.4e-3 for 20,000 samples, above the 1e-3 of the second direction here."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(20_000, 2, generator=generator)).Q
    z, t = q * torch.tensor([1.0, 1e-3]), q[:, 1:]
    for solver in (Pinv(), Lstsq()):
        assert solved(solver, z, t)[1].abs() < 1
        assert solver.factorise(Design.of(z, t).reduced()).decision[1].abs() < 1  # though its rows are 3
    for solver in (Pinv(tol=1e-5), Lstsq(tol=1e-5), Lstsq(driver="gels"), Ridge(l2=0.0)):
        assert solved(solver, z, t)[1].item() == pytest.approx(1000, rel=1e-2)


SINGULAR = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])


def test_singular_system_is_a_failure_with_its_remedy_or_solved_by_what_takes_any_rank() -> None:
    t = torch.tensor([[2.0], [4.0], [6.0]])
    with pytest.raises(
        FitFailed, match=r"^solve failed on 3 samples of 2 features \(.*\); try method.precision=float64 or .*l2 or .*ridge$"
    ):
        solved(Solve(l2=0.0), SINGULAR, t)
    for solver in (Pinv(), Lstsq(), Ridge(l2=0.0)):
        torch.testing.assert_close(solved(solver, SINGULAR, t), torch.tensor([[1.0], [1.0]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", choices("method/solver"))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_a_failure(value: float, name: str) -> None:
    z = torch.eye(4)
    z[1, 2] = value
    with pytest.raises(FitFailed, match=rf"^{name} failed on 4 samples of 4 features, of which some are not finite: "):
        solved(build_choice("method/solver", name), z, torch.ones(4, 1))


def test_constant_features_of_zeros_get_no_weight() -> None:
    z = torch.cat([known("tall").z, torch.zeros(40, 2, dtype=torch.float64)], 1)
    w = solved(Ridge(l2=0.0), z, known("tall").t)
    torch.testing.assert_close(w[:7], known("tall").answer(lambda s: 1 / s), rtol=1e-10, atol=1e-12)
    assert w[7:].abs().max() < 1e-12


def test_gels_takes_no_bound() -> None:
    with pytest.raises(ValueError, match="gels has none"):
        Lstsq(driver="gels", tol=0.1)


def with_singular_values(least: float, samples: int = 50, features: int = 6) -> np.ndarray:
    random = np.random.default_rng(0)
    u, v = (np.linalg.qr(random.normal(size=(rows, features)))[0] for rows in (samples, features))
    return np.asarray(u * np.geomspace(1.0, least, features) @ v.T)


@pytest.mark.parametrize("l2", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("least", [0.5, 1e-3])
def test_condition_is_numpys_of_the_scaled_system_within_its_bound_and_of_no_units(least: float, l2: float) -> None:
    z = with_singular_values(least)
    system = z.T @ z + l2 * np.eye(6)
    scale = np.diag(system) ** -0.5
    found = condition(gram_of(torch.from_numpy(z)), l2)
    assert found == pytest.approx(np.linalg.cond(scale[:, None] * system * scale), rel=1e-6)
    assert found <= condition_bound(torch.from_numpy(np.diag(z.T @ z).copy()), l2)
    if l2 == 0:
        other = torch.from_numpy(np.hstack([z * [1e3, 1, 1e-3, 1, 10, 1], np.zeros((50, 1))]))
        assert condition(gram_of(other), 0.0) == pytest.approx(found, rel=1e-6)  # and nothing comes of zeros


def test_condition_of_what_is_singular_is_beyond_what_the_precision_holds() -> None:
    z = torch.from_numpy(with_singular_values(0.5)).float()
    twice = torch.cat([z, z[:, :1]], 1)
    assert condition(gram_of(twice), 0.0) > 1 / torch.finfo(torch.float32).eps
    assert condition(gram_of(twice), 0.1) < 1e3 and condition_bound(torch.ones(3), 0.0) == float("inf")


def far_from_zero(mean: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Ones and 20 features of one mean and deviation 1, on which 3 targets depend, with noise of deviation 1."""
    generator = torch.Generator().manual_seed(0)
    x, noise, w = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((2000, 20), (2000, 3), (20, 3)))
    return torch.cat([torch.ones(2000, 1), x + mean], 1).to(dtype), (x @ w + noise).to(dtype)


def times_the_least(z: Tensor, t: Tensor, w: Tensor, l2: float) -> float:
    """‖T − ZW‖² + λ‖W‖² over the least of it, by NumPy's SVD in float64 of [Z; √λ I]."""
    system = np.vstack([z.double().numpy(), l2**0.5 * np.eye(z.shape[1])])
    wanted = np.vstack([t.double().numpy(), np.zeros((z.shape[1], t.shape[1]))])
    least = np.square(wanted - system @ np.linalg.lstsq(system, wanted, rcond=None)[0]).sum()
    return float(np.square(wanted - system @ w.double().numpy()).sum() / least)


@pytest.mark.parametrize("l2", [0.0, 0.01, 100.0])
@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0, 1e3, 1e4])
def test_solve_says_where_single_precision_leaves_more_than_the_least_error(mean: float, l2: float) -> None:
    z, t = far_from_zero(mean)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        w = Solve(l2=l2).factorise(Design.of(z, t))(t)
    times = times_the_least(z, t, w, l2)
    assert (times > 1.01) == bool(said), times
    for one in said:
        assert one.category is IllConditionedWarning and "\n" not in str(one.message)
        assert str(one.message).startswith("solve: on 2,000 samples of 21 features float32 leaves more than the least error")


def test_solve_says_nothing_where_the_precision_suffices_or_nothing_is_left_to_explain() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mean in (0.0, 1e3):
            z, t = far_from_zero(mean, torch.float64)
            Solve(l2=0.01).factorise(Design.of(z, t))(t)
        z, _ = far_from_zero(0.0)
        Solve(l2=0.0).factorise(Design.of(z, z[:, :2]))(z[:, :2])  # the least error is 0
        Solve(l2=0.0).factorise(Design.of(torch.cat([z, 0 * z[:, :1] + 1e-3 * z[:, 1:2].roll(1, 0)], 1), z[:, :2]))(z[:, :2])


def test_a_network_whose_hidden_layers_features_are_far_from_zero_says_so_too() -> None:
    z, t = far_from_zero(1e3)
    data = Problem(Samples(z[:, 1:], t), Samples(z[:2, 1:], t[:2]), LinearMse(), outputs=3, batch_size=8)
    with pytest.warns(IllConditionedWarning, match=r"take method\.precision=float64 or a larger method\.solver\.l2 or"):
        Platonic(solver=Solve(l2=0.01)).fit(data, chain(20, 8, outputs=3).float(), Run.in_memory())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_ridge_of_a_gram_matrix_is_ridge_of_the_features(l2: float, form: str) -> None:
    data = known(form)
    sums = summed(zip(data.z.split(6), data.t.split(6), strict=True), data.z.shape[1], 3)
    before = sums.gram.clone(), sums.cross.clone()
    shrunk = (lambda s: s / (s**2 + l2)) if l2 else (lambda s: 1 / s)
    torch.testing.assert_close(Ridge(l2=l2).decision(sums), data.answer(shrunk), rtol=1e-9, atol=1e-11)
    assert torch.equal(sums.gram, before[0]) and torch.equal(sums.cross, before[1])
