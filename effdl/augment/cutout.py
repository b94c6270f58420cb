"""Cutout (DeVries and Taylor 2017) of whole batches."""

import torch
import torch.nn.functional as F
from torch import Tensor


def squares(row: Tensor, column: Tensor, side: int, height: int, width: int) -> Tensor:
    """Masks (N, 1, height, width) of bytes: 1 in the square of this side around the pixel (row, column), both (N,), else 0.

    A mask has two kinds of rows, those that cross the square and those that do not: whole rows are copied.
    """
    lines = F.pad(_bands(width, side, row.device), (0, 0, 0, 1))  # the last one crosses no square
    line = torch.where(_bands(height, side, row.device)[row] > 0, column[:, None], width)
    return lines.index_select(0, line.flatten()).view(-1, 1, height, width)


def _bands(length: int, side: int, device: torch.device) -> Tensor:
    """For each centre on a line of this length (the rows), which pixels of the line the square covers."""
    return torch.ones(length, length, dtype=torch.uint8, device=device).triu_(-(side // 2)).tril_(side - 1 - side // 2)
