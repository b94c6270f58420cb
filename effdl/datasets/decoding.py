"""From the bytes of an image file to pixels of one size."""

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODES = {1: "L", 3: "RGB"}
MOST_PIXELS = 2**24  # of an image enlarged whole: 64 MiB in colour

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Decoder:
    """What is made of an image file: (channels, size, size), 8 bits.

    Rule: turned as its EXIF orientation says; 16-bit grey levels to their upper 8 bits; converted to RGB, or to grey where
    ``channels`` is 1 (alpha is dropped); the shorter side resized to ``size``, bilinear and antialiased; the centre cut out.
    The last three are Pillow's convert and torchvision's Resize(size) and CenterCrop(size) on Pillow images. Nothing is
    resized where the shorter side has ``size`` already.
    """

    size: int
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def __call__(self, data: bytes) -> Pixels:
        """Raises whatever Pillow does for bytes that are no whole image, and ValueError."""
        from PIL import Image, ImageOps

        with Image.open(BytesIO(data)) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened)).convert(MODES[self.channels])
        pixels = self._cut_out(image).reshape(self.size, self.size, self.channels)
        return pixels.transpose(2, 0, 1)

    def _cut_out(self, image: "Picture") -> Pixels:
        """The centre of the resized image, (size, size) or (size, size, channels)."""
        from PIL import Image

        size, (short, long) = self.size, sorted(image.size)
        width, height = (size if side == short else int(size * side / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if short < size and size * int(size * long / short) > MOST_PIXELS:
            if width > height:
                wide = Image.fromarray(_enlarged(np.asarray(image).swapaxes(0, 1), width, left, size).swapaxes(0, 1))
                return np.asarray(wide.resize((size, size), Image.Resampling.BILINEAR))
            tall = image.resize((size, image.height), Image.Resampling.BILINEAR)
            return _enlarged(np.asarray(tall), height, top, size)
        if short != size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)[top : top + size, left : left + size]


def _enlarged(pixels: Pixels, whole: int, start: int, count: int) -> Pixels:
    """Places ``start`` to ``start + count`` along the first axis (L, ...) of what Pillow makes of it, enlarged to ``whole``.

    Of a strip of one pixel by 60,000 Pillow would make 96 by 5,760,000, of which a square is wanted. To the byte its own:
    bilinear weights of centres of pixels, as whole multiples of 2⁻²², rounded at the end.
    """
    scale, length = len(pixels) / whole, len(pixels)
    centre = (np.arange(start, start + count) + 0.5) * scale
    first = np.maximum((centre - 0.5).astype(np.int64), 0)
    places = first[:, None] + np.arange(3)  # further ones are a pixel away or more
    weights = np.maximum(1 - np.abs(places - centre[:, None] + 0.5), 0) * (places < length)
    whole_weights = (weights / weights.sum(1, keepdims=True) * 2**22 + 0.5).astype(np.int64)
    near = pixels[np.minimum(places, length - 1)].astype(np.int64)
    sums = (near * whole_weights.reshape(count, 3, *[1] * (pixels.ndim - 1))).sum(1)
    enlarged: Pixels = ((sums + 2**21) >> 22).clip(0, 255).astype(np.uint8)
    return enlarged


def _eight_bits(image: "Picture") -> "Picture":
    """Pillow's own conversion turns every grey level from 255 on, of 65,536, into white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its grey levels have 32 bits; save it with 8 or 16")
    return image
