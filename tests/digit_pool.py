"""A pool of tiny images that tell which they are, side by side; what the tests of parity train on."""

from typing import Any

import torch
from torch import Tensor

from effdl.datasets.parity import SideBySide
from effdl.datasets.problem import Problem
from effdl.objectives.losses import SigmoidBce

DIGITS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def pool(count: int = 10, k: int = 3, **more: Any) -> SideBySide:
    """Images of 1×2 pixels that tell which they are: the number of each is in both."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 1, 2).contiguous()
    return SideBySide(images, torch.tensor(DIGITS * (count // 10)), k, **more)


def shown(x: Tensor) -> Tensor:
    """(B, k): which images a batch of such samples shows, from left to right."""
    assert torch.equal(x[:, 0, 0, ::2], x[:, 0, 0, 1::2])
    return x[:, 0, 0, ::2].long()


def drained(batches: Any) -> tuple[Tensor, Tensor]:
    found = [*batches]
    return torch.cat([b.x for b in found]), torch.cat([b.y for b in found])


def problem(k: int = 3, count: int = 100, batch_size: int = 8, **more: Any) -> Problem:
    train, val = pool(count, k), pool(20, k)
    return Problem(train, val, SigmoidBce(), outputs=1, batch_size=batch_size, **more)
