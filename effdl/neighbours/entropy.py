"""Shannon entropy of counts, in bits."""

import torch
from torch import Tensor


def entropy(counts: Tensor) -> Tensor:
    """−Σ p log2 p over the last dimension of counts (..., c), with p the share of each; NaN where all are 0."""
    share = counts.double() / counts.sum(-1, keepdim=True)
    bits: Tensor = -torch.special.xlogy(share, share).sum(-1).div_(torch.tensor(2.0, dtype=torch.float64).log()) + 0.0
    return bits
