"""Feedback matrices: what takes the error back in the place of transposed weights; drawn once, and fixed."""

import math
from typing import Literal

import torch
from torch import Tensor

Law = Literal["uniform", "standard_uniform", "gaussian", "zero_mean_gaussian", "standard_gaussian", "orthogonal"]
Feedback = Literal[
    "uniform", "standard_uniform", "gaussian", "zero_mean_gaussian", "standard_gaussian", "orthogonal", "transpose"
]


def drawn(law: Law, rows: int, columns: int, seed: int, of: int | None = None) -> Tensor:
    """A feedback matrix (rows, columns), of the shape of the weights in whose place it stands; its fan n is ``columns``.

    For the output weights of one hidden layer rows are outputs and n is that layer's width, as in the experiments of
    Demirbilek (§3.1, whose "inputdim" the text leaves open).

    Args:
        law: "uniform" within ±1/√n, as PyTorch draws weights; "standard_uniform" within [0, 1); "gaussian" of mean and
            standard deviation 1/√n, as §3.1 has it, so that its entries are mostly positive; "zero_mean_gaussian" of standard
            deviation 1/√n; "standard_gaussian" N(0, 1); "orthogonal" with orthonormal rows, or columns where these are fewer.
        seed: of a stream of its own.
        of: the matrix is made of the first ``columns`` columns of the chance that a wider one, of so many, is made of, as
            Launay et al. (2020) cut all layers' matrices out of one; the law is that of the matrix itself.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if law in ("uniform", "standard_uniform") else torch.randn
    chance: Tensor = draw(rows, of or columns, generator=generator)[:, :columns]
    root = math.sqrt(columns)
    if law == "uniform":
        return (2 * chance - 1) / root
    if law == "gaussian":
        return (1 + chance) / root
    if law == "zero_mean_gaussian":
        return chance / root
    return _orthonormal(chance) if law == "orthogonal" else chance.clone()


def _orthonormal(normals: Tensor) -> Tensor:
    """A matrix of this shape, uniform among those with orthonormal rows (or columns), from one of standard normals."""
    wide = normals.shape[0] < normals.shape[1]
    q, r = torch.linalg.qr(normals.T if wide else normals)
    # Without their signs it would depend on how the decomposition chooses these (Mezzadri 2007)
    found: Tensor = q * r.diagonal().sign()
    return (found.T if wide else found).contiguous()


def sign_symmetric(weight: Tensor, magnitude: Literal["norm", "one"]) -> Tensor:
    """uSF, uniform sign-concordant feedback (Liao, Leibo and Poggio 2016): c · sign(W), of the shape of W.

    magnitude: "one": c = 1, as printed there. "norm": c = ‖W‖_F / ‖sign W‖_F, so that feedback is as long as the weights
        are at the moment. Liao et al. need batch normalisation or steps of one size ("Batch Manhattan") beside it; Moskovitz,
        Litwin-Kumar and Abbott (2018) normalise feedback for deep networks. The length of W at each step is our choice.
    """
    signs = weight.detach().sign()
    if magnitude == "norm":
        signs *= weight.detach().norm() / signs.norm().clamp(min=1)
    return signs
