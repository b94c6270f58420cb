"""Components, correlations and samples that layers are made of, against NumPy, scikit-learn and the thesis's words."""

import numpy as np
import pytest
import torch
from projected import problem
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from effdl.methods.projections import (
    centred_components,
    correlation,
    evenly_along,
    independent_components,
    principal_components,
    turned,
)


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
    first = centred_components(lambda: torch.from_numpy(x).split(7), 1)[:, 0]
    found = evenly_along(torch.from_numpy(x) @ first, count).tolist()
    assert found == [ascending[place] for place in places] and len(found) == count


def test_components_are_scikit_learns_with_a_positive_sum() -> None:
    a = problem().train_tensors().x * torch.tensor([1.0, 5.0, 2.0, 0.1, 3.0], dtype=torch.float64) + 7
    found = centred_components(lambda: a.split(7), 4).T.numpy()
    theirs = PCA(4).fit(a.numpy()).components_
    theirs *= np.sign(theirs.sum(1, keepdims=True))
    np.testing.assert_allclose(found, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_signs_may_be_scikit_learns_own_whatever_the_decomposition_gives(sign: int) -> None:
    a = problem().train_tensors().x * torch.tensor([1.0, 5.0, 2.0, 0.1, 3.0], dtype=torch.float64) + 7
    theirs = PCA(4, svd_solver="full").fit(a.numpy()).components_
    np.testing.assert_allclose(centred_components(lambda: a.split(7), 4, "largest").T.numpy(), theirs, rtol=1e-8, atol=1e-9)
    deviations = StandardScaler().fit_transform(a.numpy())
    theirs = PCA(4, svd_solver="full").fit(deviations).components_
    found = principal_components(correlation(lambda: a.split(7)), 4, "largest")
    np.testing.assert_allclose(found.T.numpy(), theirs, rtol=1e-7, atol=1e-8)
    by_hand = torch.tensor([[1.0, -3.0, 1.0], [2.0, -1.0, -1.0]]).T * sign
    assert turned(by_hand, "largest").T.tolist() == [[-1.0, 3.0, -1.0], [2.0, -1.0, -1.0]]
    assert turned(by_hand).T.tolist() == [[-1.0, 3.0, -1.0], ([2.0, -1.0, -1.0] if sign > 0 else [-2.0, 1.0, 1.0])]


def digits() -> np.ndarray:
    """[pixels, standardised | one-hot classes] of 8×8 digits in float32, (1797, 74): the classes sum to 1, three pixels never
    vary."""
    pixels, labels = load_digits(return_X_y=True)
    deviation = pixels.std(0)
    scaled = (pixels - pixels.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    return np.hstack([scaled, np.eye(10)[labels]]).astype(np.float32)


def principal_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the angles between what the columns of a and of b span, smallest angle first."""
    return np.asarray(np.linalg.svd(a.T @ b, compute_uv=False))


@pytest.mark.parametrize("count", [9, 25, 50])
@pytest.mark.parametrize("beta", [10.0, 1e4, 1e7, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_components_of_covariances_are_those_of_an_svd_in_float64_at_any_beta(
    dtype: torch.dtype, beta: float, count: int
) -> None:
    """Squares of β are beyond what even float64 holds beside pixels: their sums must not be what is decomposed. β in float32
    is exact here, so that both have the same matrix."""
    a = digits() * np.where(np.arange(74) < 64, 1, beta).astype(np.float32)
    exact = a.astype(np.float64)
    theirs = np.linalg.svd(exact - exact.mean(0), full_matrices=False)[2][:count].T
    found = centred_components(lambda: torch.from_numpy(a).to(dtype).split(256), count)
    assert found.dtype == dtype and found.shape == (74, count)
    assert principal_cosines(found.double().numpy(), theirs).min() > 1 - 1e-6


def test_components_of_fewer_samples_than_features_complete_a_basis() -> None:
    a = torch.from_numpy(digits()[:20])
    found = centred_components(lambda: a.split(7), 74).double()
    theirs = np.linalg.svd((a - a.mean(0)).double().numpy(), full_matrices=False)[2][:19].T
    torch.testing.assert_close(found.T @ found, torch.eye(74, dtype=torch.float64), rtol=0, atol=1e-6)
    assert principal_cosines(found[:, :19].numpy(), theirs).min() > 1 - 1e-6


def test_correlations_are_numpys_and_a_constant_column_has_none() -> None:
    a = problem().train_tensors().x * torch.tensor([1.0, 5.0, 2.0, 0.1, 0.0], dtype=torch.float64) + 7
    found = correlation(lambda: a.split(7)).numpy()
    np.testing.assert_allclose(found[:4, :4], np.corrcoef(a[:, :4].T.numpy()), rtol=1e-10, atol=1e-12)
    assert np.abs(found[4]).max() < 1e-12


@pytest.mark.parametrize("chunk", [16, 4096])
@pytest.mark.parametrize("large", [1e4, 1e8, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlations_do_not_depend_on_the_scale_of_a_column(dtype: torch.dtype, large: float, chunk: int) -> None:
    """As of table 7.2's Y, 1e8 times the size of the pixels beside it. Columns that never vary stay without, of any size."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60000, 4, generator=generator, dtype=torch.float64) + torch.tensor(
        [0.0, 3.0, -1.0, 0.1], dtype=torch.float64
    )
    a[:, 3] += a[:, 0]
    constant = torch.tensor([0.97, 7.3, large / 7], dtype=torch.float64).expand(60000, 3)
    scaled = torch.cat([a * torch.tensor([1.0, 1e-3, 1.0, large], dtype=torch.float64), constant], 1).to(dtype)
    found = correlation(lambda: scaled.split(chunk)).numpy()
    np.testing.assert_allclose(found[:4, :4], np.corrcoef(a.T.numpy()), rtol=0, atol=2e-4 if dtype == torch.float32 else 1e-9)
    assert not found[4:].any() and not found[:, 4:].any()


def test_components_of_correlations_do_not_depend_on_beta() -> None:
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


def test_independent_components_are_the_directions_that_unmix_what_was_mixed() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(4000, 3, generator=generator, dtype=torch.float64) - 0.5
    mixing = torch.tensor([[1.0, 0.4, 0.2], [0.3, 1.0, 0.1], [0.0, 0.5, 1.0]], dtype=torch.float64)
    found = independent_components(lambda: (sources @ mixing).split(1000), 3, seed=0)
    true = torch.linalg.inv(mixing)
    cosines = (found.T @ (true / true.norm(dim=0))).abs()
    assert cosines.max(1).values.min() > 0.995 and sorted(cosines.argmax(1).tolist()) == [0, 1, 2]
    torch.testing.assert_close(found.norm(dim=0), torch.ones(3, dtype=torch.float64))
