"""Operations on the colours of images, batched: uint8 (N, C, H, W), C 1 or 3, and where they have one a strength of each image.

Values and rounding are torchvision's. A ``factor`` (N,), in float64, blends: 0 gives the operation's grey, dark or blurred
extreme, 1 the image itself, more than 1 exaggerates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _to_bytes(images * _each(factor))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image ("Color" in AutoAugment); grey images stay as they are."""
    return images if images.shape[1] == 1 else _blend(images, grey(images), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by [1 1 1; 1 5 1; 1 1 1] / 13; the outermost pixels stay as they are."""
    channels, height, width = images.shape[1:]
    if min(height, width) <= 2:
        return images
    kernel = torch.ones(3, 3, device=images.device)  # whole numbers: exact even where a GPU rounds factors to 10 bits
    kernel[1, 1] = 5
    blended = images.float()
    inner = blended[:, :, 1:-1, 1:-1]
    smooth = F.conv2d(blended, kernel.expand(channels, 1, 3, 3), groups=channels).div_(13).round_()
    inner.addcmul_(smooth.sub_(inner), _each(1 - factor))
    return _to_bytes(blended)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` (N,) of each value."""
    return images & (256 - torch.pow(2, 8 - _each(bits))).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from ``threshold`` (N,), a share of 255, on."""
    return torch.where(images >= 255 * _each(threshold), ~images, images)


def invert(images: Tensor) -> Tensor:
    """255 − value."""
    return ~images


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of a single value stays as it is."""
    low, high = (edge.float() for edge in (images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)))
    flat = low == high
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return _to_bytes((images - torch.where(flat, 0.0, low)) / scale)


def equalize(images: Tensor) -> Tensor:
    """Spread the histogram of each channel evenly over 0..255, by Pillow's integer rule."""
    count, channels, height, width = images.shape
    values = images.flatten(2).long()
    first = torch.arange(count * channels, device=images.device).view(count, channels, 1) * 256
    histogram = torch.bincount((values + first).flatten(), minlength=count * channels * 256).view(count, channels, 256)
    upto = histogram.cumsum(2)
    highest = images.amax((2, 3), keepdim=True).flatten(2).long()
    step = (height * width - histogram.gather(2, highest)) // 255
    below = F.pad(upto[:, :, :-1], (1, 0))
    table = ((below + step // 2) // step.clamp_min(1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.to(torch.uint8).gather(2, values).view(images.shape)


def grey(images: Tensor) -> Tensor:
    """Whole grey values (N, 1, H, W), as floats."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.unbind(1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).floor_().unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return _to_bytes(torch.addcmul(images * _each(factor), other, _each(1 - factor)))


def _each(strength: Tensor) -> Tensor:
    return strength.float().view(-1, 1, 1, 1)


def _to_bytes(values: Tensor) -> Tensor:
    """Cut to 0..255 and down to whole numbers."""
    return values.clamp_(0, 255).to(torch.uint8)
