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
    return _to_bytes(images.float().mul_(_each(factor)))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image ("Color" in AutoAugment); grey images stay as they are."""
    if images.shape[1] == 1:
        return images
    values = images.float()
    return _blend(values, grey(values), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image."""
    values = images.float()
    return _blend(values, grey(values).mean((1, 2, 3), keepdim=True), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by [1 1 1; 1 5 1; 1 1 1] / 13; the outermost pixels stay as they are."""
    height, width = images.shape[2:]
    if min(height, width) <= 2:
        return images
    whole, around = images.to(torch.int16).flatten(), torch.zeros(images.shape, dtype=torch.int16, device=images.device)
    # Sums of bytes are exact, and no thirteenth lies midway between whole numbers. Sums that reach over the end of a row or
    # of an image are those of the outermost pixels, which stay as they are.
    three = whole[:-2] + whole[1:-1] + whole[2:]
    nine = three[: -2 * width] + three[width:-width] + three[2 * width :]
    inner = slice(width + 1, -width - 1)
    torch.add(nine, whole[inner], alpha=4, out=around.view(-1)[inner])
    values, smooth = images.float(), around.float().mul_(1 / 13).round_()
    blended = _to_bytes(values.addcmul_(smooth.sub_(values), _each(1 - factor)))
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = blended[:, :, 1:-1, 1:-1]
    return result


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` (N,) of each value."""
    return images & (256 - torch.pow(2, 8 - _each(bits))).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from ``threshold`` (N,), a share of 255, on."""
    return where(images >= 255 * _each(threshold), ~images, images)


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
    first = torch.arange(count * channels, dtype=torch.int32, device=images.device).view(count, channels, 1) * 256
    place = (images.flatten(2) + first).flatten()
    histogram = torch.bincount(place, minlength=count * channels * 256).view(count, channels, 256)
    highest = images.amax((2, 3), keepdim=True).flatten(2).long()
    step = (height * width - histogram.gather(2, highest)) // 255
    below = F.pad(histogram.cumsum(2)[:, :, :-1], (1, 0))
    table = _to_bytes((below + step // 2).double().div_(step.clamp_min(1)))  # exact, and faster than whole-number division
    table = where(step > 0, table, torch.arange(256, dtype=torch.uint8, device=images.device))
    return table.flatten().index_select(0, place).view(images.shape)


def grey(values: Tensor) -> Tensor:
    """Whole grey values (N, 1, H, W) of images as floats."""
    if values.shape[1] == 1:
        return values
    red, green, blue = values.unbind(1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).floor_().unsqueeze(1)


def where(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """torch.where of bytes, for a mask of bools or of bytes 0 and 1; ten times as fast on a CPU, which takes those singly."""
    ones = -mask.to(torch.uint8)
    return (images & ones).bitwise_or_(others & ~ones)


def _blend(values: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return _to_bytes(torch.addcmul(values * _each(factor), other, _each(1 - factor)))


def _each(strength: Tensor) -> Tensor:
    return strength.float().view(-1, 1, 1, 1)


def _to_bytes(values: Tensor) -> Tensor:
    """Cut to 0..255 and down to whole numbers; by way of int32, which takes a third of the time."""
    return values.clamp_(0, 255).to(torch.int32).to(torch.uint8)
