"""Measures of representations: answers known by hand, and independent ones."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

import effdl
from effdl.representations.intervals import intervals


def by_lstsq(z: np.ndarray, y: np.ndarray) -> float:
    return np.square(y - z @ np.linalg.lstsq(z, y, rcond=None)[0]).sum() / len(y)


def test_distance_of_orthogonal_equal_and_rank_deficient_representations():
    y = torch.eye(6, dtype=torch.float64)[:, :2] * 3
    z = torch.eye(6, dtype=torch.float64)[:, 2:4]
    assert effdl.least_squares_distance(z, y) == pytest.approx(18 / 6, rel=1e-12)
    assert effdl.least_squares_distance(y, y) == pytest.approx(0, abs=1e-12)
    deficient = torch.cat([z, y[:, :1], 2 * y[:, :1] - z[:, :1], torch.zeros(6, 1)], 1)
    assert effdl.least_squares_distance(deficient, y) == pytest.approx(9 / 6, rel=1e-12)
    assert effdl.least_squares_distance(torch.zeros(6, 3), y) == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize("form", ["tall", "wide", "low rank", "nearly dependent", "constant columns", "offset"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distance_is_numpys_in_float64(form, dtype):
    random = np.random.default_rng(0)
    z = random.normal(size=(300, 20)) * np.logspace(-3, 6, 20)
    y = random.normal(size=(300, 3)) + z[:, :3] / np.abs(z[:, :3]).max(0)
    if form == "wide":
        z, y = z[:12], y[:12]
    if form == "low rank":
        z = z[:, :5] @ random.normal(size=(5, 20))
    if form == "nearly dependent":
        z[:, 1] = z[:, 0] * (1 + 1e-6 * random.normal(size=300))
    if form == "constant columns":
        z[:, 3:6] = 0, 1, 0
    if form == "offset":
        z = random.normal(size=(300, 20)) + 1e4
    z = z.astype(dtype)
    wide = z.astype(np.float64)
    scale = np.abs(wide).max(0)
    wide = wide / np.where(scale > 0, scale, 1)
    if form == "low rank" and dtype == np.float32:
        pytest.skip("rounding to float32 gives it full rank")
    assert effdl.least_squares_distance(z, y) == pytest.approx(by_lstsq(wide, y), rel=1e-7, abs=1e-9)
    with_ones = np.concatenate([wide, np.ones((len(z), 1))], 1)
    assert effdl.least_squares_distance(z, y, bias=True) == pytest.approx(by_lstsq(with_ones, y), rel=1e-7, abs=1e-9)


def test_distance_to_classes_is_that_to_one_hot_targets():
    z, y = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 3
    expected = by_lstsq(z, np.eye(3)[y])
    assert effdl.least_squares_distance(torch.tensor(z), torch.tensor(y)) == pytest.approx(expected, rel=1e-9)
    for wrong in (np.full((50, 4), np.nan), z[:40]):
        with pytest.raises(ValueError, match=r"NaN, infinite|as many"):
            effdl.least_squares_distance(wrong, y)


def test_entropy_of_features_that_select_one_class_all_and_none():
    y = np.arange(40) % 4
    z = np.stack([y == 2, y >= 0, y < 0, y < 2], 1).astype(np.float32)
    found = effdl.selections(z, y)
    np.testing.assert_array_equal(found.counts[0], [0, 0, 10, 0])
    np.testing.assert_allclose(found.entropies, [0, 2, np.nan, 1])
    assert found.entropy == pytest.approx(1) and found.silent == 1


def test_a_discriminative_interval_is_found_where_it_was_put():
    random = np.random.default_rng(0)
    a, y = np.sort(random.uniform(-1, 1, 2000)), random.integers(0, 2, 2000)
    y[(a > 0) & (a <= 0.5)] = 1
    whole = intervals(a, y)
    assert sum(one.samples for one in whole) == 2000
    assert all(left.high == right.low for left, right in pairwise(whole))
    (found,) = [one for one in effdl.discriminative_intervals(a, y) if one.samples > 20]
    assert found.low == pytest.approx(0, abs=0.05) and found.high == pytest.approx(0.5, abs=0.05)


def test_labels_of_chance_are_not_cut():
    random = np.random.default_rng(1)
    assert len(intervals(random.normal(size=300), random.integers(0, 2, 300))) == 1


def pure(x: np.ndarray, y: np.ndarray, centroids: np.ndarray, classes: np.ndarray) -> bool:
    """Whether each sample's nearest centroid is of its class, and of it alone."""
    distances = np.square(x[:, None] - centroids).sum(2)
    own = np.where(y[:, None] == classes, distances, np.inf).min(1)
    other = np.where(y[:, None] == classes, np.inf, distances).min(1)
    return bool(((own < other) | (own < 1e-20)).all())


def least_cells(x: np.ndarray, y: np.ndarray) -> int:
    """Of all pure maps with samples as centroids, the fewest cells."""
    for cells in range(len(np.unique(y)), len(x) + 1):
        for chosen in combinations(range(len(x)), cells):
            if pure(x, y, x[list(chosen)], y[list(chosen)]):
                return cells
    raise AssertionError("all samples together are pure")


def test_four_clusters_are_four_cells_or_two_where_classes_can_be_told_by_a_line():
    corners = np.array([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    x = (corners[:, None] + np.random.default_rng(0).uniform(-1, 1, (4, 25, 2))).reshape(-1, 2)
    crossed = effdl.pure_voronoi(x, np.repeat([0, 0, 1, 1], 25))
    assert len(crossed.centroids) == 4 and crossed.entropy == pytest.approx(2)
    sides = effdl.pure_voronoi(x, np.repeat([0, 1, 0, 1], 25))
    assert len(sides.centroids) == 2 and sides.entropy == pytest.approx(1)


def test_greedy_maps_are_pure_and_have_about_as_few_cells_as_brute_force():
    ours, least = 0, 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        x, y = random.normal(size=(9, 2)), random.integers(0, 2, 9)
        if len(np.unique(y)) < 2:
            continue
        found = effdl.pure_voronoi(x, y)
        assert pure(x, y, found.centroids, found.classes)
        assert (found.classes[found.cell] == y).all()
        shares = np.bincount(found.cell) / 9
        assert found.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
        ours, least = ours + len(found.centroids), least + least_cells(x, y)
    assert ours <= 1.15 * least


@pytest.mark.parametrize("classes", [2, 5])
def test_a_map_without_any_one_of_its_centroids_is_not_pure(classes):
    random = np.random.default_rng(classes)
    x, y = random.normal(size=(250, 3)), random.integers(0, classes, 250)
    found = effdl.pure_voronoi(x, y)
    assert len(found.centroids) > 20 and pure(x, y, found.centroids, found.classes)
    for i in range(len(found.centroids)):
        assert not pure(x, y, np.delete(found.centroids, i, 0), np.delete(found.classes, i))


def test_a_sample_in_two_classes_has_a_cell_in_each():
    found = effdl.pure_voronoi(np.array([[0.0], [0.0], [1.0]]), np.array([0, 1, 1]))
    assert len(np.unique(found.cell)) == len(found.centroids) == 2 or len(found.centroids) == 3


def test_pure_entropy_rises_with_the_frequency_of_the_boundary():
    x = np.random.default_rng(0).uniform(-1, 1, (1500, 2))
    cells = [effdl.pure_voronoi(x, (x[:, 1] > 0.5 * np.sin(math.pi * f * x[:, 0])).astype(int)) for f in (1, 2, 4)]
    assert cells[0].entropy < cells[1].entropy < cells[2].entropy
