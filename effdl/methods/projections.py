"""Directions and samples that closed-form layers are made of (§7.8, §7.10.3): pure functions of what a layer gets."""

import warnings
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from effdl.errors import FitFailed

Signs = Literal["sum", "largest"]
Parts = Callable[[], Iterable[Tensor]]  # goes through a matrix, some rows after the other
ROUNDED = 4  # times eps of a column's largest value: what rounding may be of its range


def covariance(parts: Parts) -> Tensor:
    """m times the covariance (n, n) of a matrix (m, n), by a pass for its mean and one for the products."""
    return _product(parts, _looked_through(parts)[0])


def correlation(parts: Parts) -> Tensor:
    """m times the correlation (n, n) of the columns of a matrix (m, n); a column that never varies has none with any.

    Each column is held against its own size: beside one of deviation 1e8 another of deviation 1 varies all the same.
    """
    mean, low, high = _looked_through(parts)
    varies = high - low > ROUNDED * torch.finfo(low.dtype).eps * torch.maximum(high.abs(), low.abs())
    product = _product(parts, mean)
    deviation = torch.where(varies, product.diagonal().sqrt(), 1.0)
    return torch.where(varies[:, None] & varies, product / (deviation[:, None] * deviation), 0.0)


def _mean(parts: Parts) -> Tensor:
    """(n,), in float64."""
    found = [(rows.double().sum(0), len(rows)) for rows in parts()]
    return torch.stack([total for total, _ in found]).sum(0) / sum(samples for _, samples in found)


def _looked_through(parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, least and largest value (n,) of each column; one pass, since each may make its features anew."""
    found: tuple[Tensor, Tensor, Tensor] | None = None
    samples = 0
    for rows in parts():
        total, (least, most) = rows.sum(0), rows.aminmax(dim=0)
        if found is not None:
            total, least, most = found[0] + total, torch.minimum(found[1], least), torch.maximum(found[2], most)
        found, samples = (total, least, most), samples + len(rows)
    assert found is not None, "a matrix has rows"
    return found[0] / samples, found[1], found[2]


def _product(parts: Parts, mean: Tensor) -> Tensor:
    product: Tensor | None = None
    for rows in parts():
        centred = rows - mean
        product = centred.T @ centred if product is None else product.addmm_(centred.T, centred)
    assert product is not None
    return product


def turned(vectors: Tensor, signs: Signs = "sum") -> Tensor:
    """Columns, whose signs are free, such that their sum, or their entry of the largest size, is positive."""
    told = vectors.sum(0) if signs == "sum" else vectors.gather(0, vectors.abs().argmax(0, keepdim=True))[0]
    return vectors * torch.where(told < 0, -1.0, 1.0)


def principal_components(matrix: Tensor, count: int, signs: Signs = "sum") -> Tensor:
    """The first principal components (n, count): eigenvectors of a correlation matrix (n, n), largest first."""
    return _eigen(matrix, count, signs)[1]


def centred_components(parts: Parts, count: int, signs: Signs = "sum") -> Tensor:
    """The first principal components (n, count) of covariances: right singular vectors of a matrix (m, n) less its mean.

    Found in float64 from R of a QR decomposition, to which each part is added in its turn. An eigendecomposition of the
    covariances would lose what is beside a column of deviation β: they hold β², of which rounding alone is 2 at β = 1e8, in
    float64, and 1 at β = 3e3 in float32. Columns of R keep rounding errors of their own size.
    """
    mean = _mean(parts)
    r, like = mean.new_empty(0, len(mean)), mean
    for like in parts():
        r = torch.linalg.qr(torch.cat([r, like.double() - mean]), mode="r").R
    return turned(torch.linalg.svd(r).Vh[:count].T, signs).to(like)


def _eigen(matrix: Tensor, count: int, signs: Signs = "sum") -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (count,) and their eigenvectors (n, count)."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:count], turned(vectors.flip(1)[:, :count], signs)


def independent_components(parts: Parts, count: int, seed: int) -> Tensor:
    """Directions (n, count) of unit length along which a matrix (m, n) is least Gaussian, within its first components.

    By scikit-learn's FastICA (Hyvärinen and Oja 2000), the rotation it starts from drawn by ``seed``. Raises FitFailed where
    the matrix has no ``count`` dimensions.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    values, vectors = _eigen(covariance(parts), count)
    if not bool(values[-1] > len(vectors) * torch.finfo(values.dtype).eps * values[0]):
        rank = int((values > len(vectors) * torch.finfo(values.dtype).eps * values[0]).sum())
        raise FitFailed(f"ica found {rank} dimensions in features and targets, fewer than the {count} units: narrow the layer")
    whitening = vectors / values.sqrt()
    white = torch.cat([rows @ whitening for rows in parts()]).double().cpu()
    white = (white - white.mean(0)) * len(white) ** 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rotation that is not the last serves as well
        found = FastICA(whiten=False, random_state=seed % 2**32, max_iter=100, tol=1e-3).fit(white.numpy())
    directions = whitening @ torch.from_numpy(found.components_.T).to(whitening)
    return turned(directions / directions.norm(dim=0))


def evenly_along(values: Tensor, count: int) -> Tensor:
    """(count,) positions of evenly spaced values among the sorted (m,), as figure 7.14 rounds them."""
    order = values.argsort()
    return order[torch.arange(0, len(order) - 1, len(order) / count).round().long().to(order.device)]
