"""Geometric operations as index maps: for each pixel of the result, the pixel of the source that it takes.

A map is (N, H·W) of flat positions in the source with a border of one black pixel around it, on which lies all that is
outside. One gather carries it out, whatever the operation. All take the nearest pixel, as torchvision does by default.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def taken(images: Tensor, index: Tensor) -> Tensor:
    """The pixels of images (N, C, H, W) that maps (N, H·W) name."""
    source = F.pad(images, (1, 1, 1, 1)).flatten(2)
    return source.gather(2, index.unsqueeze(1).expand(-1, images.shape[1], -1)).view(images.shape)


def affine(matrices: Tensor, height: int, width: int) -> Tensor:
    """Maps of affine transformations: pixel (x, y) of the result takes the source's at matrix · (x, y, 1).

    matrices: (N, 2, 3); coordinates count pixels from the image's centre, x to the right and y down.
    """
    x = torch.arange(width, device=matrices.device) - (width - 1) / 2
    y = torch.arange(height, device=matrices.device) - (height - 1) / 2
    across, down, offset = (matrices[:, :, i, None, None] for i in range(3))
    columns, rows = (across * x + (down * y[:, None] + offset)).unbind(1)  # (N, H, W)
    return _map(rows.add_((height - 1) / 2).round_(), columns.add_((width - 1) / 2).round_(), height, width)


def _map(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """The map to whole rows and columns, overwritten, that broadcast to (N, H, W); all that lies outside is the border."""
    rows, columns = rows.clamp_(-1, height), columns.clamp_(-1, width)
    return torch.add(columns.add_(width + 3), rows, alpha=width + 2).long().flatten(1)


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
