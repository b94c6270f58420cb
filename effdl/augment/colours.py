"""Operations on the colours of images, batched and in place: bytes (N, C, H, W), C 1 or 3, and where they have one a strength
of each image (N, 1, 1, 1), in float64.

Values and rounding are torchvision's. A ``factor`` blends: 0 gives the operation's black, grey or smooth extreme, 1 the image
itself, more than 1 exaggerates.
"""

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma


def blend_(images: Tensor, counts: list[int], factor: Tensor) -> Tensor:
    """Brightness of the first ``counts[0]`` images, a blend with black; saturation ("Color" in AutoAugment) of the next
    ``counts[1]``, a blend with the grey image; contrast of the last, a blend with the mean of the grey image."""
    values = images.float()
    extreme = grey(values)
    black, _, even = extreme.split(counts)
    black.zero_()
    even.copy_(even.mean((1, 2, 3), keepdim=True))
    return _store_(images, values.mul_(factor.float()).addcmul_(extreme, (1 - factor).float()))


def grey(values: Tensor) -> Tensor:
    """Whole grey values (N, 1, H, W) of images as floats."""
    if values.shape[1] == 1:
        return values.clone()
    red, green, blue = values.unbind(1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).floor_().unsqueeze(1)


def sharpness_(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by [1 1 1; 1 5 1; 1 1 1] / 13; the outermost pixels stay as they are."""
    height, width = images.shape[2:]
    if min(height, width) <= 2:
        return images
    values = images.float()
    smooth, whole, inner = torch.zeros_like(values), values.flatten(), slice(width + 1, -width - 1)
    # Sums of bytes are exact, and no thirteenth lies midway between whole numbers. Sums that reach over the end of a row or
    # of an image are those of the outermost pixels, which stay as they are.
    three = (whole[:-2] + whole[1:-1]).add_(whole[2:])
    nine = (three[: -2 * width] + three[width:-width]).add_(three[2 * width :])
    torch.add(nine, whole[inner], alpha=4, out=smooth.view(-1)[inner])
    values.addcmul_(smooth.mul_(1 / 13).round_().sub_(values), (1 - factor).float())
    _store_(images[:, :, 1:-1, 1:-1], values[:, :, 1:-1, 1:-1])
    return images


def posterize_(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` of each value."""
    return images.bitwise_and_(255 << (8 - bits.to(torch.uint8)))


def solarize_(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from ``threshold``, a share of 255, on."""
    least = (255 * threshold.float()).ceil_().to(torch.uint8)
    return images.bitwise_xor_(images.clone().ge_(least).neg_())  # a comparison that makes bools takes bytes singly


def invert_(images: Tensor) -> Tensor:
    """255 − value."""
    return images.bitwise_not_()


def auto_contrast_(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of a single value stays as it is."""
    low, high = (edge.float() for edge in (images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)))
    flat = low == high
    scale = high.sub_(low).mul_(1 / 255).masked_fill_(flat, 1)
    return _store_(images, images.float().sub_(low.masked_fill_(flat, 0)).div_(scale))


def equalize_(images: Tensor) -> Tensor:
    """Spread the histogram of each channel evenly over 0..255, by Pillow's integer rule."""
    pixels, levels = images[0, 0].numel(), torch.arange(256, device=images.device)
    flat = images.view(-1, pixels)
    first = torch.arange(0, len(flat) * 256, 256, dtype=torch.int32, device=images.device)
    place = flat.int().add_(first[:, None]).flatten()
    histogram = torch.bincount(place, minlength=len(flat) * 256).view(-1, 256)
    step = (pixels - histogram.gather(1, flat.amax(1, keepdim=True).long())) // 255
    below = torch.where(step > 0, histogram.cumsum(1).sub_(histogram), levels)  # a step of 0 leaves the channel as it is
    table = below.add_(step // 2).double().div_(step.clamp_min_(1))  # exact, and faster than whole-number division
    return images.copy_(_whole(table).flatten().index_select(0, place).view(images.shape))


def where(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """torch.where of bytes, for a mask of bools or of bytes 0 and 1; ten times as fast on a CPU, which takes those singly."""
    ones = -mask.to(torch.uint8)
    return (images & ones).bitwise_or_(others & ~ones)


def _store_(images: Tensor, values: Tensor) -> Tensor:
    """Write floats, overwritten, as bytes."""
    return images.copy_(_whole(values))


def _whole(values: Tensor) -> Tensor:
    """Cut to 0..255 and down to whole numbers: bytes by way of int32 take a third of the time."""
    return values.clamp_(0, 255).to(torch.int32)
