"""From the bytes of an image file to pixels of one size."""

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODES = {1: "L", 3: "RGB"}


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

    def __call__(self, data: bytes) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Raises whatever Pillow does for bytes that are no whole image, and ValueError."""
        from PIL import Image, ImageOps

        with Image.open(BytesIO(data)) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened)).convert(MODES[self.channels])
        width, height = image.size
        if (short := min(width, height)) != self.size:
            width, height = (self.size if side == short else int(self.size * side / short) for side in (width, height))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        pixels = np.asarray(image, np.uint8)[top : top + self.size, left : left + self.size]
        return pixels.reshape(self.size, self.size, self.channels).transpose(2, 0, 1)


def _eight_bits(image: "Picture") -> "Picture":
    """Pillow's own conversion turns every grey level from 255 on, of 65,536, into white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its grey levels have 32 bits; save it with 8 or 16")
    return image
