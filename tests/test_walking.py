"""Folders as people have them: links that loop, dangle or lead out, pipes, odd names, and the same image twice."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import picture
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effdl.cache import place
from effdl.datasets.folder import Folder
from effdl.datasets.image_files import say_remarks
from effdl.datasets.reading import reading
from effdl.datasets.walking import walk
from effdl.errors import DataError, one_line, shown

pytestmark = pytest.mark.usefixtures("own_cache", "said_anew")


@pytest.fixture
def said_anew() -> None:
    say_remarks.cache_clear()


def folder(root: Path, **fields: Any) -> Folder:
    return Folder(**{"root": str(root), "size": 12, "val_size": 9, "batch_size": 8, "workers": 0} | fields)


def complaint(dataset: Folder) -> str:
    with pytest.raises(DataError) as error:
        dataset.facts(), picture.whole(dataset), dataset.fingerprint()
    return one_line(error.value)


def same(ours: Folder, theirs: Folder) -> bool:
    both = zip(picture.whole(ours), picture.whole(theirs), strict=True)
    return all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in both) and ours.facts() == theirs.facts()


# --- links


@pytest.mark.parametrize("to", [".", "..", "../..", "../../..", "../bee", "../bee/deeper", "../../val/ant"])
def test_a_link_to_what_belongs_to_the_set_or_holds_it_adds_nothing_and_is_said(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = picture.folders(tmp_path / "a"), picture.folders(tmp_path / "b")
    for root in ("a", "b"):
        (tmp_path / root / "images" / "train" / "bee" / "deeper").mkdir()
        made = tmp_path / root / "images" / "train" / "bee" / "deeper" / "x.png"
        made.write_bytes(picture.encoded(picture.pixels(1, 77)))
    (images / "train" / "ant" / "loop").symlink_to(to)
    assert same(folder(tmp_path / "a"), folder(tmp_path / "b"))
    assert folder(tmp_path / "a").fingerprint() == folder(tmp_path / "b").fingerprint()
    assert "links into folders of the set itself are left out: 1, first" in capsys.readouterr().err


def test_a_link_to_a_folder_elsewhere_is_followed_once(tmp_path: Path) -> None:
    images, elsewhere = picture.folders(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "s.png").write_bytes(picture.encoded(picture.pixels(0, 5)))
    (elsewhere / "back").symlink_to(images / "train")
    for name in ("bee/one", "cat/two"):
        (images / "train" / name).symlink_to(elsewhere)
    train, _ = picture.whole(folder(tmp_path))
    assert torch.bincount(train.y).tolist() == [20, 21, 20]


def test_a_class_that_is_a_link_counts_unless_it_is_another_one_or_holds_the_set(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    for split in ("train", "val"):
        shutil.move(images / split / "cat", tmp_path / f"cat-{split}")
        (images / split / "cat").symlink_to(tmp_path / f"cat-{split}")
    assert folder(tmp_path).facts().train == 51 and folder(tmp_path).facts().test == 24
    for to in ("bee", "cat", ".", "..", str(tmp_path)):
        (images / "train" / "dog").symlink_to(to)
        assert f"class {images}/train/dog is a link into" in complaint(folder(tmp_path))
        (images / "train" / "dog").unlink()
    assert folder(tmp_path).facts().outputs == 3


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_each_folder_is_read_once_however_links_run(data: st.DataObject) -> None:
    """Random trees below two roots and beside them, with links from anywhere to anywhere."""
    with TemporaryDirectory() as home:
        folders = [Path(home).resolve() / "a", Path(home).resolve() / "b", Path(home).resolve() / "beside"]
        for path in folders:
            path.mkdir()
        for i in range(data.draw(st.integers(0, 5))):
            folders.append(data.draw(st.sampled_from(folders)) / f"f{i}")
            folders[-1].mkdir()
        for i, path in enumerate(folders):
            (path / f"{i}.png").touch()
        for i in range(data.draw(st.integers(0, 6))):
            (data.draw(st.sampled_from(folders)) / f"l{i}").symlink_to(data.draw(st.sampled_from([Path(home), *folders])))
        roots = folders[:2]
        found = walk([[str(root)] for root in roots], (".png",))
    reached = [os.path.basename(name) for names in found.names for name in names]
    assert len(reached) == len(set(reached)), "a file was found twice"
    below = {f"{i}.png": root for root in roots for i, path in enumerate(folders) if path.is_relative_to(root)}
    at = {os.path.basename(name): root for root, names in zip(roots, found.names, strict=True) for name in names}
    assert {name: at.get(name) for name in below} == below, "a file did not stay where it lies"


# --- what is no file


def odd(images: Path, make: Callable[[Path], object]) -> str:
    path = images / "train" / "ant" / "000odd.png"
    make(path)
    return str(path)


KINDS = {
    "dangling": (lambda path: path.symlink_to("/nowhere/x.png"), "a link that leads nowhere"),
    "link to itself": (lambda path: path.symlink_to(path), "a link that leads nowhere"),
    "pipe": (os.mkfifo, "a pipe, socket or device, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a pipe, socket or device, not a file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_or_left_out_as_if_it_were_not_there(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reason = KINDS[kind]
    images, _ = picture.folders(tmp_path / "a"), picture.folders(tmp_path / "b")
    path = odd(images, make)
    said = complaint(folder(tmp_path / "a"))
    assert said.startswith(f"{path} cannot be read: {reason}: ") and "dataset.unreadable=skip" in said
    skipping = folder(tmp_path / "a", unreadable="skip")
    assert same(skipping, folder(tmp_path / "b")) and skipping.fingerprint() == folder(tmp_path / "b").fingerprint()
    assert "files that are named as images but cannot be read are left out: 1, first" in capsys.readouterr().err


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    odd(images, Path.mkdir)
    assert folder(tmp_path).facts().train == 51


def test_what_may_not_be_read_is_named_with_the_right_to_read_it_and_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = picture.folders(tmp_path)

    opened = Path.open

    def refused(path: Any, *more: Any, **named: Any) -> Any:
        if str(path).endswith(".json"):  # of the cache
            return opened(path, *more, **named)
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        said = complaint(folder(tmp_path))
    assert said == f"{images}/train/ant/000.png cannot be read: Permission denied; give yourself the right to read it"
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        (images / "train" / "ant" / "more.txt").touch()  # or the folders need not be read again
        assert "cannot be read: Permission denied; give yourself" in complaint(folder(tmp_path))
    (tmp_path / "x.gz").touch()
    with pytest.raises(DataError, match="delete it and fetch it again"), reading(tmp_path / "x.gz"):
        raise EOFError("Compressed file ended")


# --- names


@pytest.mark.parametrize("first", [b"bad\xff.png", b"zzz\xff.png", "犬 müde.png".encode()])
def test_names_in_any_coding_count(first: bytes, tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    with open(os.fsencode(images / "train" / "ant") + b"/" + first, "wb") as file:
        file.write(picture.encoded(picture.pixels(0, 1)))
    with open(os.fsencode(images / "val" / "cat") + b"/" + first, "wb") as file:
        file.write(picture.encoded(picture.pixels(2, 1)))
    dataset = folder(tmp_path)
    assert len(picture.whole(dataset)[0]) == 61 and dataset.fingerprint() == folder(tmp_path).fingerprint()
    assert place("checksums", os.fsdecode(first)) != place("checksums", "another")


@pytest.mark.parametrize("name", ["new\nline.png", "\x1b[31mred.png", os.fsdecode(b"bad\xff.png")])
def test_names_that_no_line_can_hold_are_shown_as_python_writes_them(name: str, tmp_path: Path) -> None:
    images = picture.folders(tmp_path)
    (images / "train" / "ant" / name).write_bytes(b"no image")
    said = complaint(folder(tmp_path))
    assert repr(f"{images}/train/ant/{name}") in said and said.isprintable()
    assert " object at " not in said
    said.encode()


def test_a_line_of_an_error_has_no_addresses_and_nothing_that_steers_a_terminal() -> None:
    assert one_line(DataError(f"cannot identify {object()!r} \x1b[2J")) == "cannot identify \\x1b[2J"
    assert shown("Katze müde 犬") == "Katze müde 犬" and shown(Path("a\nb")) == r"'a\nb'"


# --- images that are large, or there twice


def test_pillow_warns_of_nothing_that_it_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    picture.folders(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of 144: it warns, and refuses twice as many
    assert len(picture.whole(folder(tmp_path))[0]) == 60
    assert [one for one in recwarn if "DecompressionBomb" in one.category.__name__] == [] and capsys.readouterr().err == ""


def test_files_that_are_in_both_splits_or_twice_in_train_are_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = picture.folders(tmp_path)
    picture.whole(folder(tmp_path))
    assert capsys.readouterr().err == ""
    say_remarks.cache_clear()
    shutil.copy(images / "train" / "ant" / "003.png", images / "val" / "cat" / "000.png")
    shutil.copy(images / "train" / "ant" / "003.png", images / "train" / "bee" / "x.png")
    shutil.copy(images / "val" / "bee" / "001.png", images / "val" / "bee" / "x.png")  # which harms nothing
    for _ in range(2):
        picture.whole(folder(tmp_path))
    across, within = capsys.readouterr().err.splitlines()
    assert "1 of 25 files to test on have the content of one to train on, first val/cat/000.png as train/ant/003.png" in across
    assert "1 of 61 files of train have the content of another, first train/bee/x.png as train/ant/003.png" in within


def test_a_test_split_that_is_the_training_split_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = picture.folders(tmp_path)
    shutil.rmtree(images / "val")
    (images / "val").symlink_to("train")
    assert len(picture.whole(folder(tmp_path))[1]) == 60
    assert "60 of 60 files to test on have the content of one to train on" in capsys.readouterr().err
