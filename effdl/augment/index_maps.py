"""Geometric operations as index maps: for each pixel of the result, the pixel of the source that it takes.

A map is (N, H·W) of flat positions in the source; H·W stands for "outside". One gather carries it out, whatever the operation,
and maps compose exactly. All take the nearest pixel, as torchvision does by default.
"""

import torch
from torch import Tensor


def taken(images: Tensor, index: Tensor, outside: Tensor) -> Tensor:
    """The pixels of images (N, C, H, W) that maps (N, H·W) name; position H·W + k is the colour ``outside[k]``, (K, C)."""
    count, channels = images.shape[:2]
    source = torch.cat([images.flatten(2), outside.t().expand(count, -1, -1)], 2)
    return source.gather(2, index.unsqueeze(1).expand(-1, channels, -1)).view(images.shape)


def crop_and_flip(top: Tensor, left: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    """Maps of crops that begin ``top`` rows below and ``left`` columns right of the image's corner (negative: outside), each
    mirrored from left to right where ``flip``; all (N,)."""
    outside = height * width
    rows = torch.arange(height, device=top.device) + top[:, None]
    columns = torch.arange(width, device=top.device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]
    rows = torch.where((rows >= 0) & (rows < height), rows * width, outside)
    columns = torch.where((columns >= 0) & (columns < width), columns, outside)
    return (rows[:, :, None] + columns[:, None, :]).clamp_(max=outside).flatten(1)


def affine(matrices: Tensor, height: int, width: int) -> Tensor:
    """Maps of affine transformations: pixel (x, y) of the result takes the source's at matrix · (x, y, 1).

    matrices: (N, 2, 3); coordinates count pixels from the image's centre, x to the right and y down.
    """
    x = torch.arange(width, device=matrices.device) - (width - 1) / 2
    y = torch.arange(height, device=matrices.device) - (height - 1) / 2
    across, down, offset = (matrices[:, :, i, None, None] for i in range(3))
    source = (across * x + (down * y[:, None] + offset)).flatten(2)  # (N, 2, H·W)
    columns = (source[:, 0] + (width - 1) / 2).round_().long()
    rows = (source[:, 1] + (height - 1) / 2).round_().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return torch.where(inside, rows * width + columns, height * width)


def shear_x(share: Tensor, height: int, width: int) -> Tensor:
    """Matrices that shear by ``share`` (N,) of the height, the top edge at rest."""
    return _matrices(share, [1, 0, 0, 0, 1, 0], [0, 1, height / 2, 0, 0, 0])


def shear_y(share: Tensor, height: int, width: int) -> Tensor:
    """Matrices that shear by ``share`` (N,) of the width, the left edge at rest."""
    return _matrices(share, [1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, width / 2])


def translate_x(pixels: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move right by whole ``pixels`` (N,), fractions cut off."""
    return _matrices(pixels.trunc(), [1, 0, 0, 0, 1, 0], [0, 0, -1, 0, 0, 0])


def translate_y(pixels: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move down by whole ``pixels`` (N,), fractions cut off."""
    return _matrices(pixels.trunc(), [1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, -1])


def rotate(degrees: Tensor, height: int, width: int) -> Tensor:
    """Matrices that turn counterclockwise by ``degrees`` (N,) around the centre."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)


def _matrices(factor: Tensor, fixed: list[float], scaled: list[float]) -> Tensor:
    still, change = (factor.new_tensor(values) for values in (fixed, scaled))
    return (still + factor[:, None] * change).view(-1, 2, 3)
