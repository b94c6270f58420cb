"""Parquet as public hubs ship it: the same images as in folders, every spelling of the columns, and every kind of bad input."""

import math
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import picture
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st

from effdl.datasets.dataset import Facts
from effdl.datasets.folder import Folder
from effdl.datasets.parquet import Parquet
from effdl.datasets.unpacked import unpacked
from effdl.errors import DataError

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_cache")
TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


def parquet(root: Path, **fields: Any) -> Parquet:
    return Parquet(**{"root": str(root), "size": 12, "val_size": 9, "batch_size": 8, "workers": 0} | fields)


def write(path: Path, count: int = 12, labels: Any = None, **options: Any) -> None:
    """So many images, by default of each class in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [picture.encoded(picture.pixels(i % 3, i)) for i in range(count)]
    made = picture.table(images, [i % 3 for i in range(count)] if labels is None else labels, **options)
    pq.write_table(made, path, row_group_size=5)


def small(root: Path, **options: Any) -> Path:
    """<root>/images with a training and a test file."""
    for name, count in ((TRAIN, 30), (TEST, 12)):
        write(root / "images" / name, count, **options)
    return root / "images"


@pytest.mark.parametrize("workers", [0, 2])
def test_parquet_of_a_set_of_folders_holds_the_same_samples(workers: int, tmp_path: Path) -> None:
    picture.parquet_of(picture.folders(tmp_path, name="folders", side=15), tmp_path / "images")
    ours = parquet(tmp_path, workers=workers)
    theirs = Folder(root=str(tmp_path), name="folders", size=12, val_size=9, batch_size=8, workers=0)
    assert ours.facts() == theirs.facts() == Facts((3, 12, 12), "classes", 3, 51, 9, 24, 8)
    for a, b in zip(picture.whole(ours), picture.whole(theirs), strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"struct": False},
        {"names": None},
        {"image": "img", "label": "fine_label"},
        {"image": "photo", "label": "kind"},
    ],
)
def test_columns_as_hubs_spell_them(options: dict[str, Any], tmp_path: Path) -> None:
    small(tmp_path, **options)
    fields = {"image": "photo", "label": "kind"} if options.get("image") == "photo" else {}
    train, test = picture.whole(parquet(tmp_path, **fields))
    for i in (0, 7, 29):
        assert train.x[i].permute(1, 2, 0).numpy().tolist() == picture.pixels(i % 3, i).tolist() and train.y[i] == i % 3
    assert len(test) == 12 and parquet(tmp_path, **fields).facts().outputs == 3


def test_names_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    for name in (TRAIN, TEST):
        write(tmp_path / "images" / name, 12, labels=["wolf", "ant", "mole"] * 4, names=None)
    train, _ = picture.whole(parquet(tmp_path))
    assert train.y.tolist() == [2, 0, 1] * 4


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.parquet", "test.parquet"),
        ("train/0000.parquet", "validation/0000.parquet"),
        ("data/train-00000-of-00001-1a2b3c.parquet", "data/val-00000-of-00001-4d5e6f.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/validation-00000-of-00001.parquet"),
    ],
)
def test_files_as_hubs_name_them(train: str, test: str, tmp_path: Path) -> None:
    write(tmp_path / "images" / train, 30), write(tmp_path / "images" / test, 12)
    assert parquet(tmp_path).facts() == Facts((3, 12, 12), "classes", 3, 21, 9, 12, 8)


def test_facts_read_no_image_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    read: list[list[str]] = []
    original = pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self, columns: read.append(columns) or original(self, columns=columns))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    parquet(tmp_path).facts(), parquet(tmp_path).facts()
    assert read == [["label"], ["label"]]  # of both splits, and not again


def test_labels_alone_decide_the_classes_of_another_label_column(tmp_path: Path) -> None:
    small(tmp_path)
    for name in (TRAIN, TEST):
        table = pq.read_table(tmp_path / "images" / name)
        pq.write_table(table.append_column("coarse", pa.array([i % 2 for i in range(len(table))])), tmp_path / "images" / name)
    assert parquet(tmp_path, label="coarse").facts().outputs == 2 and parquet(tmp_path).facts().outputs == 3


def test_files_that_have_changed_are_read_again(tmp_path: Path, own_cache: Path) -> None:
    folder = small(tmp_path)
    dataset = parquet(tmp_path)
    before, print_before = picture.whole(dataset)[0].x, dataset.fingerprint()
    table = pq.read_table(folder / TRAIN)
    pq.write_table(table.take(list(range(len(table)))[::-1]), folder / TRAIN)
    assert torch.equal(picture.whole(dataset)[0].x, before.flip(0)) and dataset.fingerprint() != print_before
    assert len(list((own_cache / "unpacked").glob("*.npy"))) == 2  # of the two splits; the older copy is gone


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=20), st.data())
def test_unpacked_bytes_are_those_that_were_put_in(images: list[bytes], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as place:
        patch.setenv("XDG_CACHE_HOME", place)
        first = data.draw(st.integers(0, len(images)))
        origins = [__file__, str(Path(__file__).with_name("picture.py"))]
        found = unpacked("set", "state", lambda: images, origins, [first, len(images) - first])
        for i, image in enumerate(images):
            assert found.name(i) == (f"{origins[0]}, row {i}" if i < first else f"{origins[1]}, row {i - first}")
            if image:
                assert found.read(i) == image
            else:
                with pytest.raises(ValueError, match="no image bytes"):
                    found.read(i)


# --- bad input


def test_what_a_killed_process_has_left_of_a_copy_goes_with_the_next_one(tmp_path: Path, own_cache: Path) -> None:
    dataset = parquet(small(tmp_path).parent)
    picture.whole(dataset)
    copies = sorted((own_cache / "unpacked").glob("*.bytes"))
    copies[0].with_name(f"{copies[0].name}.4194304").write_bytes(b"half of it")
    copies[0].unlink()
    picture.whole(dataset)
    assert sorted((own_cache / "unpacked").glob("*.bytes*")) == copies


def test_a_copy_whose_larger_half_was_swept_away_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    small(tmp_path)
    before = picture.whole(parquet(tmp_path))
    (content, *_) = sorted((own_cache / "unpacked").glob("*.bytes"))
    for damage in (content.unlink, lambda: content.write_bytes(b"")):
        damage()
        for one, other in zip(before, picture.whole(parquet(tmp_path)), strict=True):
            assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def complaint(dataset: Parquet) -> str:
    with pytest.raises(DataError) as error:
        dataset.facts(), [split.to(CPU) for split in dataset.load()]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_files_says_where_they_were_looked_for(tmp_path: Path) -> None:
    said = complaint(parquet(tmp_path, name="mine"))
    assert str(tmp_path / "mine") in said and "train-*.parquet" in said and "dataset.root or EFFDL_DATA" in said
    write(tmp_path / "mine" / TRAIN)
    assert "no split to test on" in complaint(parquet(tmp_path, name="mine"))


def test_missing_columns_are_answered_with_those_that_there_are(tmp_path: Path) -> None:
    small(tmp_path, image="photo", label="kind")
    assert "no column label or labels or fine_label; there are photo, kind: dataset.label" in complaint(parquet(tmp_path))
    assert "no column image or img; there are photo, kind: dataset.image" in complaint(parquet(tmp_path, label="kind"))
    assert "no column x; there are photo, kind: dataset.label" in complaint(parquet(tmp_path, label="x"))
    assert "column kind has int64, no image bytes" in complaint(parquet(tmp_path, image="kind", label="kind"))


@pytest.mark.parametrize("keep", [0, 3, 200, -30])
def test_a_truncated_file_is_named(keep: int, tmp_path: Path) -> None:
    path = small(tmp_path) / TRAIN
    path.write_bytes(path.read_bytes()[:keep])
    assert complaint(parquet(tmp_path)).startswith(f"{path} is truncated or damaged: ")


def test_a_damaged_group_of_rows_is_named(tmp_path: Path) -> None:
    path = small(tmp_path) / TRAIN
    where = pq.ParquetFile(path).metadata.row_group(3).column(0)
    data = bytearray(path.read_bytes())
    start = where.data_page_offset
    data[start : start + where.total_compressed_size] = bytes(where.total_compressed_size)
    path.write_bytes(bytes(data))
    assert complaint(parquet(tmp_path)).startswith(f"{path} is truncated or damaged: ")


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / TRAIN).rename(folder / "train-00001-of-00003.parquet")
    assert f"{folder / 'train-00000-of-00003.parquet'} is missing (2 of 3 files are)" in complaint(parquet(tmp_path))


def test_several_sets_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for kind in ("cropped", "full"):
        write(tmp_path / "images" / kind / TRAIN), write(tmp_path / "images" / kind / TEST)
    assert "several sets, in cropped, full: dataset.name" in complaint(parquet(tmp_path))
    assert parquet(tmp_path, name="images/full").facts().test == 12


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, -1] * 4, "labels below 0"),
        ([0, 1, None] * 4, "has no label in 4 of 12 rows, first in 2, 5, 8 (from 0): leave these rows out"),
        ([0.0, 1.0, math.nan] * 4, "no label (nan) in 4 of 12 rows, first in 2, 5, 8 (from 0): leave .* and write .*'int64'"),
        ([0.0, 1.0, 2.0] * 4, "a float (0.0) in 12 of 12 rows, first in 0, 1, 2 (from 0): as all are whole, write .*'int64'"),
        ([0.5, 1.0, 2.0] * 4, "a fraction (0.5) in 4 of 12 rows, first in 0, 3, 6 (from 0): classes are whole numbers"),
        ([[0], [1]] * 6, "something else ([0]) in 12 of 12 rows, first in 0, 1, 2 (from 0): classes are whole numbers, names"),
        ([False, True] * 6, "labels are int in train and bool in test: dataset.label names"),
        ([0, 1, 3] * 4, "class 3 is in test but not in train (1 such"),
        (["a", "b", "c"] * 4, "labels are int in train and str in test"),
    ],
)
def test_labels_that_are_none_are_said(labels: list[Any], says: str, tmp_path: Path) -> None:
    write(small(tmp_path) / TEST, labels=labels)
    said = complaint(parquet(tmp_path))
    assert re.search(re.escape(says).replace(re.escape(".*"), ".*"), said)


def test_rows_without_a_label_are_counted_over_all_files_of_a_split_and_named_in_the_first(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / TRAIN).unlink()
    for shard, labels in enumerate(([0, 1, 2] * 4, [0, 1, None] * 4, [None] * 12)):
        write(folder / f"train-{shard:05d}-of-00003.parquet", labels=labels)
    said = complaint(parquet(tmp_path))
    assert said.startswith(f"{folder / 'train-00001-of-00003.parquet'}: column label has no label in 16 of 36 rows, ")
    assert "first in 2, 5, 8 (from 0): " in said and said.endswith("; dataset.label names another column than label")
    write(folder / "train-00002-of-00003.parquet", labels=["a", "b", "c"] * 4)
    write(folder / "train-00001-of-00003.parquet", labels=[0, 1, 2] * 4)
    assert "of several kinds, int as in row 0 of" in complaint(parquet(tmp_path))


def test_booleans_are_two_classes_of_which_false_is_the_first(tmp_path: Path) -> None:
    for name in (TRAIN, TEST):
        write(tmp_path / "images" / name, 20, labels=[True, False] * 10, names=None)
    train, test = picture.whole(parquet(tmp_path))
    assert train.y.tolist() == [1, 0] * 10 == test.y.tolist() and parquet(tmp_path).facts().outputs == 2
    write(tmp_path / "images" / TRAIN, 20, labels=[True] * 20, names=None)
    assert "class False is in test but not in train" in complaint(parquet(tmp_path))


def test_classes_that_only_one_split_names_are_said(tmp_path: Path) -> None:
    write(tmp_path / "images" / TRAIN, labels=["a", "b", "c"] * 4, names=None)
    write(tmp_path / "images" / TEST, labels=["a", "b", "d"] * 4, names=None)
    assert "class d is in test but not in train (1 such" in complaint(parquet(tmp_path))


def test_a_test_split_that_lacks_a_class_is_mapped_by_name_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "images" / TRAIN, 30, labels=["b", "a", "c"] * 10, names=None)
    write(tmp_path / "images" / TEST, labels=["c", "a"] * 6, names=None)
    train, test = picture.whole(parquet(tmp_path))
    assert train.y.tolist() == [1, 0, 2] * 10 and test.y.tolist() == [2, 0] * 6
    assert "test has no images of 1 of 3 classes, first b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        ([0, 5, 9], None, "the labels of train are 0, 5, 9, not 0 to 2"),
        ([1, 2, 3], None, "the labels of train are 1, 2, 3, not 0 to 2"),
        ([-7, 10**9, 2**63 - 1], None, "not 0 to 2"),
        ([0, 1, 3], picture.CLASSES, "the labels of train are 0, 1, 3, but its files name 3 classes"),
        ([0, 2, 2], picture.CLASSES, "the labels of train are 0, 2, but its files name 3 classes"),
    ],
)
def test_numbers_with_gaps_or_not_from_0_are_said_and_the_advice_counts_them_in_their_order(
    labels: list[int], names: Any, says: str, tmp_path: Path
) -> None:
    for name, count in ((TRAIN, 10), (TEST, 4)):
        write(tmp_path / "images" / name, 3 * count, labels=labels * count, names=names)
    said = complaint(parquet(tmp_path))
    assert says in said and "dataset.renumber=true" in said
    train, test = picture.whole(parquet(tmp_path, renumber=True))
    places = [sorted(set(labels)).index(label) for label in labels]
    assert train.y.tolist() == places * 10 and test.y.tolist() == places * 4
    assert parquet(tmp_path, renumber=True).facts().outputs == len(set(labels))


def test_a_strip_of_pixels_and_a_label_of_a_thousand_millions_take_the_memory_of_what_there_is(
    tmp_path: Path, own_cache: Path
) -> None:
    for name, labels in (("images", [0, 1, 2] * 4), ("huge", [0, 10**9, 10**9] * 4)):
        for part in (TRAIN, TEST):
            write(tmp_path / name / part, labels=labels, names=None)
    more = {"XDG_CACHE_HOME": str(own_cache.parent)}
    done = run(str(200 * 2**20), str(tmp_path), cwd=tmp_path, script="tests/enlarged.py", **more)
    assert done.returncode == 0, done.stderr
    said, counted = done.stdout.splitlines()
    assert "labels of train are 0, 1000000000, not 0 to 1: dataset.renumber=true" in said
    assert counted == "2 0 1 0 1"


def test_one_label_is_none(tmp_path: Path) -> None:
    for name in (TRAIN, TEST):
        write(tmp_path / "images" / name, labels=[0] * 12, names=None)
    assert "all images of train are of one class, 0" in complaint(parquet(tmp_path))


def test_endings_in_capitals_are_files_too_and_pipes_and_dangling_links_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / TRAIN).rename(folder / "train-00000-of-00001.PARQUET")
    assert parquet(tmp_path).facts().train == 21
    os.mkfifo(folder / "train-pipe.parquet")
    assert "train-pipe.parquet cannot be read: a pipe" in complaint(parquet(tmp_path))
    (folder / "train-pipe.parquet").unlink(), (folder / TEST).unlink()
    (folder / TEST).symlink_to(tmp_path / "gone")
    assert "cannot be read: a link that leads nowhere" in complaint(parquet(tmp_path))


def test_rows_without_bytes_are_unreadable_images(tmp_path: Path) -> None:
    folder = small(tmp_path)
    images = [picture.encoded(picture.pixels(i % 3, i)) if i % 5 else None for i in range(20)]
    pq.write_table(picture.table(images, [i % 3 for i in range(20)]), folder / TRAIN)
    said = complaint(parquet(tmp_path))
    assert said.startswith(f"4 of 20 images cannot be read, first {folder / TRAIN}, row 0 (") and "no image bytes" in said
    assert len(picture.whole(parquet(tmp_path, unreadable="skip"))[0]) == 16


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'effdl[parquet]'" in complaint(parquet(tmp_path))


def test_no_place_for_the_copy_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert "XDG_CACHE_HOME names another place" in complaint(parquet(tmp_path))
