"""Pictures that a repository can carry: of so many points that they would be large, in fewer colours."""

import os
from pathlib import Path

LARGE = 400 * 2**10  # bytes
COLOURS = 256


def in_few_colours(path: Path) -> Path:
    """A PNG file that is larger than `LARGE` becomes one of a palette of 256 colours, a third of its size; others stay as they
    are. What it says of its source stays."""
    if path.stat().st_size <= LARGE:
        return path
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as image:
        told, dpi = PngInfo(), image.info.get("dpi")
        for key, text in image.info.items():
            if isinstance(text, str):
                told.add_text(str(key), text)
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    written = path.with_suffix(".new.png")
    few.save(written, "png", optimize=True, pnginfo=told, **({"dpi": dpi} if dpi else {}))
    os.replace(written, path)
    return path
