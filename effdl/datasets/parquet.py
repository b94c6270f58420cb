"""Parquet files with image bytes and labels, as public hubs ship them."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from effdl.datasets.fingerprints import stamp
from effdl.datasets.image_files import TESTS, ImageFiles, Labelled, split_to_test
from effdl.datasets.labels import check_kind, check_known, numbered, placed
from effdl.datasets.reading import cannot_be_read
from effdl.datasets.unpacked import Unpacked, unpacked
from effdl.datasets.walking import walk
from effdl.errors import DataError, shown
from effdl.setting import Switch, setting

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label")
SHARD = re.compile(r"-(\d+)-of-(\d+)")
ROWS = 64  # read at once


@setting
class Parquet(ImageFiles):
    """Images in <root>/<name>/train-*.parquet and <root>/<name>/test-*.parquet (or validation-*), at any depth below.

    A split's files bear its name (train.parquet, train-00000-of-00002.parquet) or lie in a folder of its name.
    image: column of the images' bytes, plain or as the field ``bytes`` of a struct; null takes image or img.
    label: column of whole numbers from 0, of names, which are numbered in alphabetical order, or of booleans, which are two
        classes, false and true; null takes label, labels or fine_label.
    renumber: count the whole numbers that train has, in their order, where they do not begin at 0 or leave gaps.
    test_split: which split is the test split; null takes the first that there is of test, val, validation, valid.

    Rows in random order cannot be read from compressed groups of rows, so the image bytes are copied into one file of the
    user's cache folder, once, as large as the set.
    """

    image: str | None = None
    label: str | None = None
    renumber: Switch = False
    test_split: str | None = None

    def files(self) -> tuple[list[str], list[str]]:
        train, test = self._splits().values()
        return train, test

    def labelled(self) -> tuple[tuple[str, ...], Labelled, Labelled]:
        splits, where = self._splits(), str(self.folder)
        read = [_labels(self.folder, tuple(names), stamp(self.folder, names)[0], self.label) for names in splits.values()]
        (train, named), (test, _) = read
        train_name, test_name = splits
        if type(train[0]) is not type(test[0]):
            kinds = f"{type(train[0]).__name__} in train and {type(test[0]).__name__} in {test_name}"
            raise DataError(f"{shown(where)}: labels are {kinds}: dataset.label names a column that is alike in both")
        if isinstance(train[0], str | bool):
            found = set(train)
            classes: list[Any] = [name for name in named if name in found] if found <= set(named) else sorted(found)
        elif min(test) < 0 <= min(train):
            without = f"{shown(where)}: the {test_name} split has labels below 0, so none"
            raise DataError(f"{without}; dataset.test_split names another")
        else:
            classes = numbered(train, named, self.renumber, where)
        check_known(test, classes, test_name, where)
        names = named if len(named) == len(classes) else tuple(map(str, classes))
        return names, Labelled(train_name, placed(train, classes)), Labelled(test_name, placed(test, classes))

    def sources(self) -> tuple[Unpacked, Unpacked]:
        train, test = (self._unpacked(split, names) for split, names in self._splits().items())
        return train, test

    @property
    def which_images(self) -> str:
        return f"column {self.image}"

    def _unpacked(self, split: str, names: list[str]) -> Unpacked:
        def images() -> Iterator[bytes]:
            for name in names:
                yield from _images(self.folder / name, self.image)

        rows = [_open(self.folder / name).metadata.num_rows for name in names]
        what = f"{self.folder.resolve()} {split} {self.image}"
        return unpacked(what, stamp(self.folder, names)[0], images, [str(self.folder / name) for name in names], rows)

    def _splits(self) -> dict[str, list[str]]:
        """The training and the test split's files, relative to the set's folder."""
        found: dict[str, list[str]] = {}
        for name in sorted(_names(self.folder), key=Path):
            if (split := _split_of(Path(name))) is not None:
                found.setdefault(split, []).append(name)
        if "train" not in found:
            raise DataError(
                f"no Parquet set under {shown(self.folder)} (train-*.parquet is missing): point dataset.root or EFFDL_DATA to "
                "the folder that holds the set's, and dataset.name to the set's own"
            )
        test = split_to_test([name for name in found if name != "train"], self.test_split, str(self.folder), "*.parquet")
        for split in ("train", test):
            _check_shards(self.folder, found[split])
        return {split: found[split] for split in ("train", test)}


def _names(folder: Path) -> list[str]:
    """The Parquet files in a folder, relative to it."""
    if not folder.is_dir():
        return []
    folder = folder.resolve()
    found = walk([[str(folder)]], (".parquet",))
    if found.odd:
        raise DataError(f"{shown(found.odd[0][0])} cannot be read: {found.odd[0][1]}; fetch the file or delete its name")
    return [os.path.relpath(path, folder) for path in found.names[0]]


def _split_of(path: Path) -> str | None:
    """The split that a file belongs to by its name, else by its folder's, or None."""
    for name in (path.name, path.parent.name):
        if (split := re.split(r"[-_.]", name)[0]) in ("train", *TESTS):
            return split
    return None


def _check_shards(folder: Path, names: list[str]) -> None:
    """Raise a DataError where files of a split are missing, by their numbers, or lie in several folders."""
    if len(parents := sorted({str(Path(name).parent) for name in names})) > 1:
        raise DataError(f"{folder} holds several sets, in {', '.join(parents)}: dataset.name names one, as <name>/{parents[0]}")
    numbered = [match for name in names if (match := SHARD.search(name)) is not None]
    there = {int(match[1]) for match in numbered}
    if missing := sorted({*range(max((int(match[2]) for match in numbered), default=0))} - there):
        of = numbered[0]
        gap = SHARD.sub(f"-{missing[0]:0{len(of[1])}d}-of-{of[2]}", of.string)
        raise DataError(f"{folder / gap} is missing ({len(missing)} of {int(of[2])} files are): fetch the rest of the set")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (PermissionError, FileNotFoundError) as error:
        raise cannot_be_read(path, error) from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{shown(path)} is truncated or damaged: {reason}; delete it and fetch it again") from None


def _open(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"dataset=parquet: needs pyarrow ({error}): pip install 'effdl[parquet]'") from None
    with _reading(path):
        return ParquetFile(path)


def _column(file: Any, path: Path, wanted: str | None, guesses: tuple[str, ...], key: str) -> str:
    names = file.schema_arrow.names
    for name in (wanted,) if wanted is not None else guesses:
        if name in names:
            return name
    raise DataError(
        f"{path} has no column {wanted or ' or '.join(guesses)}; there are {', '.join(names)}: dataset.{key} names one"
    )


@lru_cache(maxsize=8)
def _labels(folder: Path, names: tuple[str, ...], state: str, wanted: str | None) -> tuple[list[Any], tuple[str, ...]]:
    """The label column of files, and the classes' names where the schema has them; their images are not read.

    state: stamp of the files, so that what is known of them is asked anew when they change.
    """
    parts: list[list[Any]] = []
    classes: tuple[str, ...] = ()
    paths = [folder / name for name in names]
    for path in paths:
        file = _open(path)
        column = _column(file, path, wanted, LABELS, "label")
        with _reading(path):
            parts.append(file.read(columns=[column]).column(column).to_pylist())
        classes = classes or _class_names(file.schema_arrow, column)
    check_kind(parts, paths, column)
    return [label for part in parts for label in part], classes


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Of numbered classes, as the hub writes them into the schema; () where it does not."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _images(path: Path, wanted: str | None) -> Iterator[bytes]:
    """The image bytes of a file row by row, none where there are none."""
    import pyarrow as pa

    file = _open(path)
    column = _column(file, path, wanted, IMAGES, "image")
    kind = file.schema_arrow.field(column).type
    nested = pa.types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    value = kind.field("bytes").type if nested else kind
    if not (pa.types.is_binary(value) or pa.types.is_large_binary(value)):
        raise DataError(f"{path}: column {column} has {kind}, no image bytes; dataset.image names another column")
    with _reading(path):
        for batch in file.iter_batches(ROWS, columns=[f"{column}.bytes" if nested else column]):
            for row in batch.column(0).to_pylist():
                yield (row["bytes"] if nested and row is not None else row) or b""
