"""Random crops and flips of whole batches, of bytes or any other type."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, margin: int) -> Tensor:
    """A crop of each image, as `crops` makes them, mirrored from left to right where ``flip``; all (N,), on the CPU."""
    order, still = flip.argsort(), len(flip) - int(flip.sum())  # those to be mirrored come last
    out = crops(images, order, top[order], left[order], margin)
    out[still:] = out[still:].flip(3)
    return out.index_select(0, order.argsort().to(images.device))


def crops(images: Tensor, which: Tensor, top: Tensor, left: Tensor, margin: int) -> Tensor:
    """Of the images ``which`` (M,), parts of the original size that begin ``top`` (M,) rows below and ``left`` columns right of
    the corner, by -margin to margin; outside the images all is black.

    A row of a crop is a run of pixels in the padded images, and copying whole rows is far faster than gathering pixels.
    """
    channels, height, width = images.shape[1:]
    source = F.pad(images, (margin,) * 4)
    per_image, per_plane, per_row, _ = source.stride()
    corner = (which * per_image + (top + margin) * per_row + left + margin).to(images.device)
    planes = torch.arange(channels, device=images.device) * per_plane
    rows = torch.arange(height, device=images.device) * per_row
    start = corner[:, None, None] + planes[:, None] + rows
    return source.flatten().unfold(0, width, 1).index_select(0, start.flatten()).view(-1, channels, height, width)
