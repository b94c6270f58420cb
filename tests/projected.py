"""Small problems in float64 for Platonic projections, and what they are measured against."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.mlp import ACTIVATIONS
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.least_squares.solvers import Pinv
from effdl.methods.platonic import Platonic
from effdl.objectives.losses import LinearMse
from effdl.records.run import Run
from effdl.rng import seed_for

EXACT = Pinv(tol=0.0)
M, N, K = 60, 5, 3


def problem(generator_seed: int = 0, samples: int = M, features: int = N, outputs: int = K) -> Problem:
    generator = torch.Generator().manual_seed(generator_seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, outputs, generator=generator, dtype=torch.float64)
    return Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=outputs, batch_size=8)


def chain(*widths: int, activation: str = "tanh", outputs: int = K) -> BlockChain:
    blocks = [nn.Sequential(nn.Linear(a, b), ACTIVATIONS[activation]()) for a, b in pairwise(widths)]
    return BlockChain(blocks, nn.Linear(widths[-1], outputs)).double()


def method(**fields: Any) -> Platonic:
    plain = {"solver": EXACT, "precision": "float64", "beta": 1.0, "pca": "covariance", "importance": "projection"}
    return Platonic(**{**plain, **fields})


def fitted(rule: Platonic, data: Problem, network: BlockChain) -> tuple[BlockChain, Run]:
    run = Run.in_memory()
    rule.fit(data, network, run)
    return network, run


def drawn(layer: int, rows: int, width: int, attempt: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The P that a run with seed 0 draws."""
    generator = torch.Generator().manual_seed(seed_for(0, "projection", layer, attempt))
    return torch.randn(rows, width, generator=generator, dtype=dtype)


def residual(z: Tensor, y: Tensor) -> float:
    """(1/m)‖Y − ZZ⁺Y‖² with NumPy (eq. 5.3)."""
    coefficients = np.linalg.lstsq(z.numpy(), y.numpy(), rcond=None)[0]
    return float(np.square(y.numpy() - z.numpy() @ coefficients).sum() / len(z))


def ones(z: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(z), 1, dtype=z.dtype), z], 1)
