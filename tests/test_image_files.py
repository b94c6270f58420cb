"""Image folders and the rule of decoding: exact pixels, torchvision's and Pillow's own answers, and every kind of bad input."""

import gzip
import hashlib
import io
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import picture
import pytest
import torch
from command import run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from effdl import cache
from effdl.datasets import decoding, fingerprints
from effdl.datasets.dataset import Facts
from effdl.datasets.decoding import Decoder
from effdl.datasets.folder import Folder
from effdl.errors import DataError

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_cache")
RNG = np.random.default_rng(3)


def folder(root: Path, **fields: Any) -> Folder:
    return Folder(**{"root": str(root), "size": 12, "val_size": 9, "batch_size": 8, "workers": 0} | fields)


# --- decoding


def noise(height: int, width: int, channels: int = 3) -> Any:
    return RNG.integers(0, 256, (height, width, channels)).squeeze().astype(np.uint8)


def test_a_png_of_the_right_size_comes_out_pixel_by_pixel() -> None:
    array = noise(9, 9)
    np.testing.assert_array_equal(Decoder(9)(picture.encoded(array)), array.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize(("height", "width", "size"), [(40, 60, 16), (61, 40, 16), (10, 33, 16), (31, 32, 31)])
def test_images_are_resized_and_cut_as_torchvision_does(kind: str, height: int, width: int, size: int) -> None:
    data = picture.encoded(noise(height, width), kind)
    theirs = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(Decoder(size)(data), np.asarray(theirs).transpose(2, 0, 1))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_strips_that_are_not_enlarged_whole_come_out_as_if_they_were(data: st.DataObject) -> None:
    short, size, channels = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 24)), data.draw(st.sampled_from([1, 3]))
    long = data.draw(st.integers(short, 300))
    image = picture.encoded(noise(*data.draw(st.permutations([short, long]))))
    plain = Decoder(size, channels)(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MOST_PIXELS", 0)
        np.testing.assert_array_equal(Decoder(size, channels)(image), plain)


def test_grey_palette_alpha_and_cmyk_become_colour() -> None:
    grey, colour = noise(8, 8, 1), noise(8, 8)
    np.testing.assert_array_equal(Decoder(8)(picture.encoded(grey)), np.stack([grey] * 3))
    alpha = np.dstack([colour, noise(8, 8, 1)])
    np.testing.assert_array_equal(Decoder(8)(picture.encoded(alpha)), colour.transpose(2, 0, 1))  # alpha is dropped
    palette = Image.fromarray(colour).quantize(16)
    file = io.BytesIO()
    palette.save(file, "PNG")
    np.testing.assert_array_equal(Decoder(8)(file.getvalue()), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    file = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(file, "TIFF")
    np.testing.assert_array_equal(Decoder(8)(file.getvalue()), colour.transpose(2, 0, 1))


def test_one_channel_is_grey_and_sixteen_bits_keep_their_upper_eight() -> None:
    grey = noise(8, 8, 1)
    np.testing.assert_array_equal(Decoder(8, 1)(picture.encoded(grey)), grey[None])
    deep = (grey.astype(np.uint16) << 8) + 77
    np.testing.assert_array_equal(Decoder(8, 1)(picture.encoded(deep)), grey[None])
    with pytest.raises(ValueError, match="32 bits"):
        Decoder(8)(picture.encoded(noise(8, 8, 1).astype(np.float32), "TIFF"))


def test_images_are_turned_as_their_exif_orientation_says() -> None:
    array = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: the first row is the right side
    turned = Decoder(8)(picture.encoded(array, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(array, -1).transpose(2, 0, 1))


# --- folders


def test_a_folder_holds_what_torchvision_finds_in_it(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    (images / "train" / "bee" / "deeper").mkdir()
    (images / "train" / "bee" / "deeper" / "x.JPG").write_bytes(picture.encoded(noise(20, 14), "JPEG"))
    (images / "train" / "bee" / "notes.txt").write_text("not an image")
    train, test = picture.whole(folder(tmp_path))
    for ours, split in ((train, "train"), (test, "val")):
        theirs = ImageFolder(str(images / split), v2.Compose([v2.Resize(12), v2.CenterCrop(12)]))
        assert len(ours) == len(theirs) and ours.x.dtype == torch.uint8 and ours.y.dtype == torch.long
        for i, (image, label) in enumerate(theirs):
            assert int(ours.y[i]) == label
            np.testing.assert_array_equal(ours.x[i].numpy(), np.asarray(image).transpose(2, 0, 1))
    assert folder(tmp_path).facts() == Facts((3, 12, 12), "classes", 3, 52, 9, 24, 8)


def test_facts_open_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture.folders(tmp_path)
    monkeypatch.setattr(Image, "open", None)
    assert folder(tmp_path).facts().train == 51 and folder(tmp_path, channels=1, size=7).facts().input_shape == (1, 7, 7)


def test_hidden_folders_and_files_do_not_count(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    before = folder(tmp_path).fingerprint()
    (images / "train" / ".checkpoints").mkdir()
    (images / "train" / "ant" / ".cache").mkdir()
    for hidden in ("train/.checkpoints/a.png", "train/ant/.cache/a.png", "train/ant/.a.png"):
        (images / hidden).write_bytes(b"")
    assert folder(tmp_path).facts().train == 51 and folder(tmp_path).fingerprint() == before


def test_test_comes_before_val_unless_another_split_is_named(tmp_path: Path) -> None:
    picture.folders(tmp_path, val=3, test=5)
    assert folder(tmp_path).facts().test == 15 and folder(tmp_path, test_split="val").facts().test == 9
    with pytest.raises(DataError, match=r"no split to test on, other; there are test, val: dataset\.test_split"):
        folder(tmp_path, test_split="other").facts()


def test_a_listing_is_made_anew_when_a_folder_has_changed(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    before = folder(tmp_path).facts().train
    os.utime(images / "train" / "cat", (1, 1))
    (images / "train" / "cat" / "more.png").write_bytes(picture.encoded(noise(12, 12)))
    assert folder(tmp_path).facts().train == before + 1


# --- the checksum


def test_the_checksum_moves_with_any_byte_and_any_name(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    found = {folder(tmp_path).fingerprint()}
    path = images / "val" / "bee" / "003.png"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    found.add(folder(tmp_path).fingerprint())
    path.rename(path.with_name("3.png"))
    found.add(folder(tmp_path).fingerprint())
    (images / "train" / "ant" / "000.png").rename(images / "train" / "bee" / "zzz.png")
    found.add(folder(tmp_path).fingerprint())
    assert len(found) == 4


def test_unchanged_files_are_not_read_for_their_checksum_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = picture.folders(tmp_path)
    first = folder(tmp_path).fingerprint()
    opened: list[Path] = []
    reading = fingerprints.reading
    monkeypatch.setattr(fingerprints, "reading", lambda path: opened.append(path) or reading(path))  # type: ignore[func-returns-value]
    assert folder(tmp_path).fingerprint() == first and len(opened) == 84  # so young that they may still change unseen
    monkeypatch.setattr(fingerprints, "RACY_S", -60.0)
    folder(tmp_path).fingerprint(), opened.clear()
    assert folder(tmp_path).fingerprint() == first and opened == []
    path = images / "train" / "ant" / "000.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(bytes(reversed(path.read_bytes())))  # of the same size, and then with the same time of writing
    os.utime(path, ns=times)
    assert folder(tmp_path).fingerprint() != first


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_an_unchanged_file_of_a_published_set_is_not_read_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(content: bytes) -> None:
        (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)

    path, first, other = tmp_path / name, bytes(range(200)), bytes(reversed(range(200)))
    opened: list[Path] = []
    reading = fingerprints.reading
    monkeypatch.setattr(fingerprints, "reading", lambda path: opened.append(path) or reading(path))  # type: ignore[func-returns-value]
    write(first)
    assert {fingerprints.checksum(path) for _ in range(2)} == {hashlib.sha256(first).digest()}
    assert len(opened) == 2  # so young that it may still change unseen
    monkeypatch.setattr(fingerprints, "RACY_S", -60.0)
    fingerprints.checksum(path), opened.clear()
    cache._known.clear()  # as another process asks
    assert fingerprints.checksum(path) == hashlib.sha256(first).digest() and opened == []
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    write(other)
    os.utime(path, ns=times)
    assert fingerprints.checksum(path) == hashlib.sha256(other).digest()
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        fingerprints.checksum(path)


def test_without_a_place_to_remember_the_checksum_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture.folders(tmp_path)
    first = folder(tmp_path).fingerprint()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert folder(tmp_path).fingerprint() == first


# --- bad input


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def complaint(dataset: Folder) -> str:
    with pytest.raises(DataError) as error:
        dataset.facts(), [split.to(CPU) for split in dataset.load()]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_folder_says_where_it_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    said = complaint(folder(tmp_path, name="mine"))
    assert str(tmp_path / "mine") in said and "train/<class>/" in said and "dataset.root or EFFDL_DATA" in said


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    for path in (images / "train" / "bee").iterdir():
        path.unlink()
    assert str(images / "train" / "bee") in complaint(folder(tmp_path))


def test_no_classes_and_no_split_to_test_on_are_said(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert "test or val" in complaint(folder(tmp_path))
    (tmp_path / "images" / "val").mkdir()
    assert "no folders of classes" in complaint(folder(tmp_path))


def test_a_class_that_nothing_was_trained_on_is_named(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    shutil.rmtree(images / "train" / "cat")
    assert "class cat is in val but not in train" in complaint(folder(tmp_path))


@pytest.mark.parametrize("how", ["no folder", "an empty folder"])
def test_a_test_folder_that_lacks_a_class_is_mapped_by_name_and_said(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture.folders(tmp_path)
    shutil.rmtree(images / "val" / "bee")
    if how == "an empty folder":
        (images / "val" / "bee").mkdir()
    _, test = picture.whole(folder(tmp_path))
    assert test.y.tolist() == [0] * 8 + [2] * 8
    assert "val has no images of 1 of 3 classes, first bee" in capsys.readouterr().err


def test_one_class_is_none(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    for split in ("train", "val"):
        shutil.rmtree(images / split / "ant"), shutil.rmtree(images / split / "bee")
    assert "one class, cat: a classifier needs images of another" in complaint(folder(tmp_path))


@pytest.mark.parametrize("memory_mib", [4096.0, 0.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_counted_and_the_first_is_named(memory_mib: float, workers: int, tmp_path: Path) -> None:
    images = picture.folders(tmp_path, train=60)
    for name in ("ant/001.png", "bee/004.png", "cat/059.png"):
        damage(images / "train" / name)
    said = complaint(folder(tmp_path, memory_mib=memory_mib, workers=workers))
    assert said.startswith(f"3 of 180 images cannot be read, first {images}/train/ant/001.png (")
    assert "dataset.unreadable=skip" in said


def test_skipped_images_are_as_if_they_were_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, other = picture.folders(tmp_path), picture.folders(tmp_path / "other")
    for name in ("train/ant/001.png", "train/cat/019.png", "val/bee/000.png"):
        damage(images / name)
        (other / name).unlink()
    skipping, without = folder(tmp_path, unreadable="skip"), folder(tmp_path / "other")
    assert skipping.facts() == without.facts() and skipping.facts().test == 23
    for ours, theirs in zip(picture.whole(skipping), picture.whole(without), strict=True):
        assert torch.equal(ours.x, theirs.x) and torch.equal(ours.y, theirs.y)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "3 images cannot be read and are left out" in said[0] and "ant/001.png" in said[0]
    assert skipping.fingerprint() == f"{folder(tmp_path).fingerprint()} without 3 unreadable images"


def test_where_all_can_be_read_skipping_changes_no_name(tmp_path: Path) -> None:
    picture.folders(tmp_path)
    assert folder(tmp_path, unreadable="skip").fingerprint() == folder(tmp_path).fingerprint()


def test_what_is_unreadable_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = picture.folders(tmp_path)
    damage(images / "train" / "ant" / "001.png")
    before = folder(tmp_path, unreadable="skip").facts()
    monkeypatch.setattr(Image, "open", None)
    assert folder(tmp_path, unreadable="skip").facts() == before


def test_of_processes_that_ask_at_once_one_finds_out(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    recall = cache.recall

    def find() -> str:
        found.append("seen")
        time.sleep(0.2)
        return found[-1]

    monkeypatch.setattr(cache, "recall", lambda *key: (cache._known.clear(), recall(*key))[1])  # as in processes of their own
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: cache.found_out("images", "a key", find), range(4)))
    assert answers == ["seen"] * 4 and found == ["seen"]


def test_a_disk_that_fails_once_takes_no_image_out_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture.folders(tmp_path, train=21)
    dataset = folder(tmp_path, unreadable="skip", workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(type(dataset.sources()[0]), "read", lambda self, position: os.stat(tmp_path / "gone"))
        assert "000.png cannot be read: " in complaint(dataset)
    assert sum(map(len, picture.whole(dataset))) == 3 * (21 + 8)


def test_an_image_that_goes_while_a_run_reads_it_is_named(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    train, _ = folder(tmp_path, memory_mib=0.0).load()
    (images / "train" / "ant" / "000.png").unlink()
    with pytest.raises(DataError, match=r"ant/000\.png cannot be read: FileNotFoundError"):
        list(train.batches(8))


def test_the_command_line_answers_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture.folders(tmp_path / "data")
    damage(images / "val" / "cat" / "002.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    assert run_here("dataset=folder", "dataset.size=12", "dataset.val_size=9", "dataset.batch_size=8") == 3
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "val/cat/002.png" in err
    assert not (tmp_path / "results").exists()


def imagenette() -> Path:
    root = Path(os.environ.get("EFFDL_DATA", "data"))
    if not (root / "imagenette2-96" / "train").is_dir():
        pytest.skip("needs imagenette2-96/{train,val}/<class>/ under EFFDL_DATA: Imagenette, fast.ai's ten classes of ImageNet")
    return root


def test_real_photographs_are_torchvisions(tmp_path: Path) -> None:
    root = imagenette()
    dataset = Folder(root=str(root), name="imagenette2-96", size=64, workers=2)
    _, test = picture.whole(dataset)
    theirs = ImageFolder(str(root / "imagenette2-96" / "val"), v2.Compose([v2.Resize(64), v2.CenterCrop(64)]))
    assert len(test) == len(theirs) and dataset.facts().outputs == 10
    for i in range(0, len(test), 17):
        image, label = theirs[i]
        assert int(test.y[i]) == label
        np.testing.assert_array_equal(test.x[i].numpy(), np.asarray(image).transpose(2, 0, 1))
