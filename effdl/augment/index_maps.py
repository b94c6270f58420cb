"""Geometric operations as index maps: for each pixel of the result, the pixel of the source that it takes.

A map is (N, H·W) of flat positions in the source; H·W, one past its end, stands for all that is outside and is black. One
gather carries it out, whatever the operation. All take the nearest pixel, as torchvision does by default.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def taken(images: Tensor, index: Tensor) -> Tensor:
    """The pixels of images (N, C, H, W) that maps (N, H·W) name."""
    source = F.pad(images.flatten(2), (0, 1))
    return source.gather(2, index.unsqueeze(1).expand(-1, images.shape[1], -1)).view(images.shape)


def affine(matrices: Tensor, height: int, width: int) -> Tensor:
    """Maps of affine transformations: pixel (x, y) of the result takes the source's at matrix · (x, y, 1).

    matrices: (N, 2, 3); coordinates count pixels from the image's centre, x to the right and y down.
    """
    x = torch.arange(width, device=matrices.device) - (width - 1) / 2
    y = torch.arange(height, device=matrices.device) - (height - 1) / 2
    across, down, offset = (matrices[:, :, i, None, None] for i in range(3))
    columns, rows = (across * x + (down * y[:, None] + offset)).unbind(1)  # (N, H, W)
    columns, rows = (columns + (width - 1) / 2).round(), (rows + (height - 1) / 2).round()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return torch.where(inside, rows * width + columns, height * width).long().flatten(1)


def shear_x(share: Tensor, height: int, width: int) -> Tensor:
    """Matrices that shear by ``share`` (N,) of the height, the top edge at rest."""
    return _matrices(share, [[0, 1, height / 2], [0, 0, 0]])


def shear_y(share: Tensor, height: int, width: int) -> Tensor:
    """Matrices that shear by ``share`` (N,) of the width, the left edge at rest."""
    return _matrices(share, [[0, 0, 0], [1, 0, width / 2]])


def translate_x(pixels: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move right by whole ``pixels`` (N,), fractions cut off."""
    return _matrices(pixels.trunc(), [[0, 0, -1], [0, 0, 0]])


def translate_y(pixels: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move down by whole ``pixels`` (N,), fractions cut off."""
    return _matrices(pixels.trunc(), [[0, 0, 0], [0, 0, -1]])


def rotate(degrees: Tensor, height: int, width: int) -> Tensor:
    """Matrices that turn counterclockwise by ``degrees`` (N,) around the centre."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)


def _matrices(factor: Tensor, direction: list[list[float]]) -> Tensor:
    """The identity and ``factor`` (N,) times a direction (2, 3)."""
    return torch.eye(2, 3, dtype=factor.dtype) + factor[:, None, None] * torch.tensor(direction, dtype=factor.dtype)
