"""Of several tries a layer, which one wins and what that costs (§7.5.1)."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from projected import EXACT, K, M, N, chain, drawn, fitted, method, ones, problem, residual
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import FitFailed
from effdl.least_squares.design import Design
from effdl.least_squares.solvers import Lstsq, Pinv, Ridge, Solve
from effdl.methods.closed_form import Features
from effdl.objectives.losses import LinearMse

SOLVERS = [EXACT, Pinv(), Lstsq(), Solve(l2=0.0), Ridge(l2=0.0)]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often matrices of so many rows went through an SVD, QR, or Cholesky decomposition."""
    counts: Counter[tuple[str, int]] = Counter()

    def count(name: str) -> None:
        plain = getattr(torch.linalg, name)

        def counted(a: Tensor, *args: Any, **options: Any) -> Any:
            counts[name, len(a)] += 1
            return plain(a, *args, **options)

        monkeypatch.setattr(torch.linalg, name, counted)

    for name in ("svd", "qr", "cholesky_ex"):
        count(name)
    return counts


def cast(data: Problem, dtype: torch.dtype) -> Problem:
    x, y = (one.to(dtype) for one in (data.train_tensors().x, data.train_tensors().y))
    return Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=K, batch_size=8)


def outputs(below: Tensor, y: Tensor, p: Tensor) -> Tensor:
    """Of a layer: tanh(ZZ⁺[Z | Y]P) beside its column of ones."""
    return ones((below @ (torch.linalg.pinv(below) @ (torch.cat([below, y], 1) @ p))).tanh())


def test_of_several_tries_the_one_with_the_least_distance_wins_in_each_layer() -> None:
    data = problem()
    x, y = ones(data.train_tensors().x), data.train_tensors().y
    candidates = [outputs(x, y, drawn(0, 1 + N + K, 4, i)) for i in range(7)]
    distances = [residual(z, y) for z in candidates]
    assert min(distances) < 0.97 * distances[0]  # it matters here
    network, run = fitted(method(tries=7), data, chain(N, 4, 4))
    assert run.lines[0]["train/lsd"] == pytest.approx(min(distances), rel=1e-9)
    torch.testing.assert_close(ones(network.blocks[0](data.train_tensors().x)), candidates[int(np.argmin(distances))])
    for tries, line in ((1, distances[0]), (3, min(distances[:3]))):
        assert fitted(method(tries=tries), data, chain(N, 4))[1].lines[0]["train/lsd"] == pytest.approx(line, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize(("samples", "widths"), [(M, (6, 6, 6)), (9, (12, 3))], ids=["tall", "fewer samples than units"])
def test_winner_is_the_least_of_those_made_and_judged_one_by_one(
    samples: int, widths: tuple[int, ...], solver: Any, dtype: torch.dtype
) -> None:
    if samples < M and isinstance(solver, Solve):
        pytest.skip("the formula of §7.6.2 is singular there")
    close = {"rel": 1e-3, "abs": 1e-6} if dtype == torch.float32 else {"rel": 1e-8, "abs": 1e-12}
    for seed in range(3):
        data = cast(problem(seed, samples), dtype)
        network, run = fitted(
            method(tries=5, solver=solver, precision=str(dtype).removeprefix("torch.")), data, chain(N, *widths).to(dtype)
        )
        x, y = (one.double() for one in (data.train_tensors().x, data.train_tensors().y))
        network.double()
        for layer, width in enumerate(widths):
            below, ours = (ones(network.blocks[:i](x)) for i in (layer, layer + 1))
            draws = [drawn(layer, below.shape[1] + K, width, attempt, dtype).double() for attempt in range(5)]
            least = min(residual(outputs(below, y, p), y) for p in draws)
            assert residual(ours, y) == pytest.approx(least, **close)
            assert run.lines[layer]["train/lsd"] == pytest.approx(least, **close)


@pytest.mark.parametrize("tries", [1, 5])
def test_all_tries_of_a_layer_share_one_factorisation(decomposed: Counter[tuple[str, int]], tries: int) -> None:
    fitted(method(tries=tries), problem(), chain(N, 6, 6, 6))
    if tries == 1:
        assert decomposed == {("svd", M): 4}  # of inputs and of three layers' outputs
    else:
        small = decomposed.pop(("svd", 1 + 6 + K))
        assert decomposed == {("svd", 1 + N + K): 1, ("qr", M): 1 + 3 * tries} and 3 <= small < 3 * tries  # those ahead so far


def test_ridges_sums_that_judge_the_best_serve_the_layer_above(decomposed: Counter[tuple[str, int]]) -> None:
    fitted(method(tries=5, solver=Ridge(l2=0.1)), problem(), chain(N, 6, 6, 6))
    assert decomposed == {("cholesky_ex", 1 + N): 1, ("cholesky_ex", 1 + 6): 3 * 5}


@pytest.mark.parametrize(
    ("solver", "keep_features_mib"), [(Ridge(l2=0.1), 0.0), (Ridge(l2=0.1), 0.01), (Pinv(), 0.01)], ids=str
)
def test_limit_where_memory_is_short_tries_are_those_of_where_it_is_not(solver: Any, keep_features_mib: float) -> None:
    """With 0 features are made anew in chunks; 0.01 holds them, but not as many as units of all tries."""
    plenty, short = (
        fitted(method(tries=5, solver=solver, **how), problem(), chain(N, 6, 6))
        for how in ({}, {"chunk": 7, "keep_features_mib": keep_features_mib})
    )
    torch.testing.assert_close(dict(short[0].state_dict()), dict(plenty[0].state_dict()), rtol=1e-10, atol=1e-10)
    assert [line["train/lsd"] for line in short[1].lines] == pytest.approx([line["train/lsd"] for line in plenty[1].lines])


@pytest.mark.parametrize("solver", [Pinv(), Pinv(tol=4.0), Lstsq(), Solve(l2=0.3), Ridge(l2=0.3)], ids=str)
@pytest.mark.parametrize("rank", [9, 10])
@pytest.mark.parametrize("samples", [9, 10, 12, M])
def test_limit_judged_features_are_as_far_from_the_targets_as_their_solver_says(samples: int, rank: int, solver: Any) -> None:
    generator = torch.Generator().manual_seed(samples)
    z, y = (torch.randn(samples, columns, generator=generator, dtype=torch.float64) for columns in (10, K))
    z[:, 9] = z[:, 9] if rank == 10 else z[:, 0]
    plain = Features(Design.of(z, y), solver, biased=False)
    judged = plain.judged()
    assert judged.distance == pytest.approx(plain.distance, rel=1e-8, abs=1e-12)
    assert judged.least <= judged.distance + 1e-12
    if rank == 10 and solver == Pinv():
        assert judged.least == pytest.approx(judged.distance, rel=1e-8, abs=1e-12)


class Beyond(nn.Module):
    """The identity, and from some call on not a number."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, z: Tensor) -> Tensor:
        self.left -= 1
        return z if self.left >= 0 else z * math.nan


@pytest.mark.parametrize("finite_tries", [0, 1])
@pytest.mark.parametrize("solver", [Pinv(), Ridge()], ids=str)
def test_a_try_whose_outputs_are_not_finite_is_a_failure_not_a_loser(solver: Any, finite_tries: int) -> None:
    network = BlockChain([nn.Sequential(nn.Linear(N, 6), Beyond(finite_tries))], nn.Linear(6, K)).double()
    with pytest.raises(FitFailed, match=r"^\w+ failed on 60 samples of 7 features, of which some are not finite: "):
        fitted(method(tries=2, solver=solver), problem(), network)
