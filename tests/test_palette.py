"""Large pictures are stored in fewer colours and show the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from effdl.reproduce import palette


def picture(path: Path, colours: int) -> Path:
    """Pixels that have so many colours between two, as points with soft edges do, with the text that says what it shows."""
    mixed = np.linspace((31, 119, 180), (214, 39, 40), colours).round().astype(np.uint8)
    drawn = mixed[np.random.default_rng(0).integers(0, colours, (200, 300))]
    told = PngInfo()
    told.add_text("Source", "these runs")
    Image.fromarray(drawn).convert("RGBA").save(path, pnginfo=told, dpi=(150, 150))
    return path


@pytest.mark.parametrize(("colours", "off"), [(100, 0), (3000, 0.01)])
def test_a_large_picture_becomes_small_and_shows_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: int, off: float
) -> None:
    path = picture(tmp_path / "a.png", colours)
    before, size = np.asarray(Image.open(path).convert("RGB")) / 255, path.stat().st_size
    monkeypatch.setattr(palette, "LARGE", size - 1)
    assert palette.in_few_colours(path) == path and [one.name for one in tmp_path.iterdir()] == ["a.png"]
    found = Image.open(path)
    assert path.stat().st_size < 0.8 * size and found.info["Source"] == "these runs"
    assert found.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert np.abs(np.asarray(found.convert("RGB")) / 255 - before).mean() <= off


def test_a_small_picture_stays_as_it_is(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 20)
    before = path.read_bytes()
    assert len(before) < palette.LARGE and palette.in_few_colours(path).read_bytes() == before
