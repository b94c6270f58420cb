"""Blocks that have never learned, called below a segment that learns: a robin's first round in a random order (Algorithm 4)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Untrained = Literal["eval", "batch_statistics"]


class OfBatch(nn.Module):
    """A block in eval mode whose normalisations take the statistics of the batch, and leave their running ones alone.

    In its initial state a normalisation divides by a running variance of 1, whatever comes; the statistics of a batch are those
    that it will be trained with. Dropout stays off, and all else in eval mode. A single sample has no statistics, and is taken
    by the running ones.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            out: Tensor = self.block(x)
            return out
        with of_batch(self.block):
            by_batch: Tensor = self.block(x)
        return by_batch


def normalises(block: nn.Module) -> bool:
    """Whether the block has running statistics."""
    return any(True for _ in _norms(block))


@contextmanager
def of_batch(block: nn.Module) -> Iterator[None]:
    """Within, normalisations in eval mode take a batch's statistics: without running ones, that is what they do."""
    norms = list(_norms(block))
    before = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, (mean, var) in zip(norms, before, strict=True):
            norm.running_mean, norm.running_var = mean, var


def _norms(block: nn.Module) -> Iterator[_BatchNorm]:
    return (m for m in block.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None)
