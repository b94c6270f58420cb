"""The k-filter and its kin against brute force in float64 and against answers known by hand."""

import doctest
import importlib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import effdl
from effdl.neighbours.points import Points
from effdl.neighbours.redundant import _kth

MODULES = (
    "neighbours.k_filter",
    "neighbours.editing",
    "neighbours.voronoi",
    "representations.selections",
    "representations.intervals",
    "representations.least_squares_distance",
    "representations.principal_components",
)
LINE, HALVES = np.arange(10.0)[:, None], np.array([0] * 5 + [1] * 5)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    failed, tried = doctest.testmod(importlib.import_module(f"effdl.{name}"))
    assert tried >= 2 and not failed


def by_brute_force(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Kept samples, from all distances in float64 and sorted neighbours."""
    x, kept = x.astype(np.float64), []
    for i in range(len(x)):
        distances = np.square(x - x[i]).sum(1)
        others = [j for j in np.lexsort((np.arange(len(x)), distances)) if j != i]
        if len(others) < k or any(y[j] != y[i] for j in others[:k]):
            kept.append(i)
    return np.array(kept, dtype=np.int64)


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    n, d = draw(st.integers(3, 70)), draw(st.sampled_from([1, 2, 3, 10, 193, 600, 2000]))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    y = random.integers(0, draw(st.integers(1, 4)), n)
    x = random.normal(size=(n, d)) * draw(st.sampled_from([1e-3, 1.0, 1e4])) + y[:, None] * draw(st.sampled_from([0.0, 1.0]))
    if draw(st.booleans()):  # a lattice: many equal distances, which float64 has exactly
        x = np.rint(x * draw(st.sampled_from([0.5, 2.0])))
    if draw(st.booleans()):
        copied = random.integers(0, n, n // 2)
        x[random.integers(0, n, n // 2)] = x[copied]
    if draw(st.booleans()):
        x[:, : 1 + d // 3] = 7.0
    offset = draw(st.sampled_from([0.0, 0.0, 2.0**20, 2.0**40]))
    x = x + offset
    if draw(st.booleans()):
        x = x.astype(np.float32)
    if draw(st.booleans()):
        x[0] = x[0] + 2.0**30  # a norm that swallows the others'
    return x, y, draw(st.integers(1, n - 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(samples(), st.sampled_from([1, 1024]))
def test_the_fast_filter_keeps_what_brute_force_keeps(given_samples, memory_mib):
    x, y, k = given_samples
    kept = effdl.k_filter(x, y, k, least=0, memory_mib=memory_mib)
    wanted = by_brute_force(x, y, k)
    # in a class of no more than k samples none has k neighbours of its own
    np.testing.assert_array_equal(kept, wanted)


def test_many_tiles_of_uneven_classes_in_little_memory(monkeypatch):
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2, 3], [700, 520, 60, 3])
    x = (random.normal(size=(len(y), 250)) + 0.35 * y[:, None]).astype(np.float32)
    order = random.permutation(len(y))
    wanted = by_brute_force(x[order], y[order], 7)
    assert 100 < len(wanted) < len(y)
    for memory_mib in (1, 1024):
        np.testing.assert_array_equal(effdl.k_filter(x[order], y[order], 7, least=0, memory_mib=memory_mib), wanted)
    with monkeypatch.context() as there:  # products of less than float32 have no bound to trust
        there.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
        np.testing.assert_array_equal(effdl.k_filter(x[order], y[order], 7, least=0), wanted)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 700), st.integers(0, 2**31), st.booleans(), st.data())
def test_the_k_th_least_of_rows_is_that_of_sorting(n, seed, ties, data):
    k = data.draw(st.integers(1, n))
    values = np.random.default_rng(seed).normal(size=(5, n)).astype(np.float32)
    values = np.rint(values) if ties else values
    values[:, ::7] = np.inf
    np.testing.assert_array_equal(_kth(torch.from_numpy(values.copy()), k).numpy(), np.sort(values, 1)[:, k - 1])


def test_line_of_ten_by_hand():
    # ties at the border go to the lower index: 4 has 3 before 5, 5 has 4 before 6
    assert [effdl.k_redundancy(LINE, HALVES, k) for k in (1, 2, 3)] == [0.9, 0.8, 0.7]
    assert effdl.k_filter(LINE, HALVES, 3).tolist() == [4, 5, 6]


def test_limit_k_of_the_largest_class_or_more_keeps_all():
    for k in (5, 9, 10, 1000):
        assert effdl.k_filter(LINE, HALVES, k).tolist() == list(range(10))


def test_a_sample_counted_among_its_own_neighbours_is_one_neighbour_less():
    assert effdl.k_redundancy(LINE, HALVES, 3, itself=True) == effdl.k_redundancy(LINE, HALVES, 2)
    assert effdl.k_redundancy(LINE, HALVES, 1, itself=True) == 1.0


def test_chunks_are_filtered_each_by_itself():
    x, y = np.concatenate([LINE, LINE[:7]]), np.concatenate([HALVES, HALVES[:7]])
    kept = effdl.k_filter(x, y, 2, chunk=10)
    assert kept.tolist() == [*effdl.k_filter(LINE, HALVES, 2), *(10 + effdl.k_filter(LINE[:7], HALVES[:7], 2))]


def test_tensors_bytes_names_and_half_precision():
    x = torch.randint(0, 255, (60, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 2
    kept = effdl.k_filter(x, y, 1)
    assert isinstance(kept, Tensor) and kept.tolist() == by_brute_force(x.flatten(1).numpy(), y.numpy(), 1).tolist()
    names = np.array(["cat", "dog"])[y.numpy()]
    assert effdl.k_filter(x.numpy(), names, 1).tolist() == kept.tolist()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert effdl.k_filter(x.float(), y, 1).tolist() == kept.tolist()
        assert effdl.k_filter(x.bfloat16(), y, 1).tolist() == effdl.k_filter(x.bfloat16().double(), y, 1).tolist()


def test_what_would_drop_a_class_keeps_the_least_and_says_so():
    x, y = np.concatenate([LINE, 100 + LINE])[:, 0], np.repeat([0, 1], 10)
    assert effdl.k_filter(x, y, 2, least=0).tolist() == []
    with pytest.warns(RuntimeWarning, match="k = 2 leaves fewer than least = 2 samples of 2 of 2 classes"):
        assert effdl.k_filter(x, y, 2, least=2).tolist() == [8, 9, 10, 11]
    with pytest.warns(RuntimeWarning):
        assert effdl.k_filter(x, np.zeros(20), 2).tolist() == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effdl.k_filter(x, y, 2, least=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": np.array([[0.0], [np.nan]])}, "NaN or infinite"),
        ({"x": np.array([[0.0], [np.inf]])}, "NaN or infinite"),
        ({"x": np.array([[0.0], [1e200]])}, "scale them down"),
        ({"x": np.zeros((2, 0))}, "no samples with features"),
        ({"y": np.array([0])}, "x has 2 samples and y 1"),
        ({"y": np.zeros((2, 3))}, "one class a sample"),
        ({"k": 0}, "k must be a whole number from 1, not 0"),
        ({"k": 2.5}, "k must be"),
        ({"least": -1}, "least must be"),
        ({"chunk": 0}, "chunk must be"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, said):
    with pytest.raises(ValueError, match=said) as error:
        effdl.k_filter(**{"x": np.array([[0.0], [1.0]]), "y": np.array([0, 0]), "k": 1} | changes)
    assert "\n" not in str(error.value)


def test_bounds_of_products_hold():
    x = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)) + 1e3
    points = Points.of(x, 2**30)
    every = torch.arange(200)
    i, j = every.repeat_interleave(200), every.repeat(200)
    exact = points.exact(i, j).view(200, 200) / points.scale**2
    product = points.squares[:, None] + points.squares - 2 * (points.held @ points.held.T).double()
    assert bool(((product - exact).abs() <= points.slack * (points.squares[:, None] + points.squares)).all())


def test_nearest_neighbour_accuracy_with_ties_and_as_redundancy():
    assert effdl.nearest_neighbour_accuracy(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 1])) == pytest.approx(1 / 3)
    random = np.random.default_rng(0)
    x, y = np.rint(2 * random.normal(size=(80, 3))), random.integers(0, 2, 80)
    assert effdl.nearest_neighbour_accuracy(x, y) == effdl.k_redundancy(x, y, 1)
    asked = effdl.nearest_neighbour_accuracy(np.array([[0.0], [2.0]]), np.array(["a", "b"]), np.array([[1.0]]), np.array(["a"]))
    assert asked == 1.0


@pytest.mark.parametrize("vote", ["majority", "all"])
def test_edited_neighbours_are_imbalanced_learns(vote):
    peer = pytest.importorskip("imblearn.under_sampling", reason="imbalanced-learn is not there: install effdl[dev]")
    random = np.random.default_rng(1)
    y = random.integers(0, 3, 150)
    x = random.normal(size=(150, 5)) + 0.7 * y[:, None]
    edited = peer.EditedNearestNeighbours(
        sampling_strategy="all", n_neighbors=3, kind_sel={"majority": "mode", "all": "all"}[vote]
    )
    edited.fit_resample(x, y)
    assert effdl.edited_nearest_neighbours(x, y, 3, vote=vote).tolist() == sorted(edited.sample_indices_.tolist())


def test_condensed_neighbours_are_harts_rule_done_by_hand():
    random = np.random.default_rng(2)
    y = random.integers(0, 2, 120)
    x = random.normal(size=(120, 2)) + y[:, None]
    store, more = [0], True
    while more:
        more = False
        for i in range(120):
            nearest = min(store, key=lambda j: (np.square(x[i] - x[j]).sum(), j))
            if i not in store and y[nearest] != y[i]:
                store.append(i)
                more = True
    found = effdl.condensed_nearest_neighbours(x, y)
    assert found.tolist() == sorted(store)
    assert effdl.nearest_neighbour_accuracy(x[found], y[found], x, y) == 1.0
