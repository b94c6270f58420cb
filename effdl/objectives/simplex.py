"""Probabilities of linear outputs: the closest point of the probability simplex."""

import torch
from torch import Tensor


def onto_simplex(v: Tensor) -> Tensor:
    """The rows (k,) of v (m, k) as the closest points p of the probability simplex: p = max(v − τ, 0) with Σp = 1; so the
    columns along the second dimension of (m, k, ...).

    τ from the largest entries that stay positive (Duchi et al. 2008, figure 1).
    """
    descending = v.sort(1, descending=True).values
    counts = torch.arange(1, v.shape[1] + 1, dtype=v.dtype, device=v.device).view(-1, *[1] * (v.dim() - 2))
    levels = (descending.cumsum(1) - 1) / counts
    positive = (descending > levels).sum(1, keepdim=True)
    return (v - levels.gather(1, positive - 1)).clamp_min(0)
