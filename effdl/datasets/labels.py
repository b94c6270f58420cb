"""Labels of image sets: of both splits, looked at whole, as numbers from 0 for the classes that the training split has."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from effdl.errors import DataError, shown

KINDS = (int, str, bool)  # of labels: whole numbers, names, and two classes by no and yes
AS_WHOLE = "write them as whole numbers, as astype('int64') does in pandas"
CLASSES = "classes are whole numbers, names or booleans"
FAULTS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of one label, the worst first, and what to do
    "no label": (lambda label: label is None or label != label, "leave these rows out of the file or fill them in"),
    "a fraction": (lambda label: isinstance(label, float) and not label.is_integer(), CLASSES),
    "a float": (lambda label: isinstance(label, float), f"as all are whole, {AS_WHOLE}"),
    "something else": (lambda label: type(label) not in KINDS, CLASSES),
}


def check_kind(parts: Sequence[Sequence[Any]], files: Sequence[object], column: str) -> None:
    """Raise a DataError where labels, as a split's files have them in a column, do not name classes, all in one way.

    It says in how many rows of the split, and which are the first of a file, counted from 0.
    """
    rows = [(file, row, label) for file, part in zip(files, parts, strict=True) for row, label in enumerate(part)]
    if not rows:
        raise DataError(f"{shown(files[0])}: column {column} has no rows, and training needs some: write the file again")
    other = f"dataset.label names another column than {column}"
    for what, (is_so, advice) in FAULTS.items():
        if found := [one for one in rows if is_so(one[2])]:
            file, _, label = found[0]
            first = [str(row) for where, row, _ in found[:3] if where == file]
            such = "" if label is None else f" ({shown(repr(label)[:40])})"
            if what == "no label" and any(isinstance(one, float) and one == one for _, _, one in rows):
                advice += f" and {AS_WHOLE}"
            raise DataError(
                f"{shown(file)}: column {column} has {what}{such} in {len(found):,} of {len(rows):,} rows, first in "
                f"{', '.join(first)} (from 0): {advice}; {other}"
            )
    if len(kinds := {type(label).__name__: f"row {row} of {shown(file)}" for file, row, label in reversed(rows)}) > 1:
        said = ", ".join(f"{kind} as in {where}" for kind, where in sorted(kinds.items()))
        raise DataError(f"column {column} has labels of several kinds, {said}: write them alike; {other}")


def check_several(names: Sequence[str], where: str) -> None:
    """Raise a DataError where there is nothing to tell apart."""
    if len(names) < 2:
        raise DataError(
            f"{shown(where)}: all images of train are of one class, {shown(names[0])}: a classifier needs images of another"
        )


def check_known(test: Iterable[Any], train: Collection[Any], split: str, where: str) -> None:
    """Raise a DataError for a class of the test split that nothing was trained on; one that it lacks does no harm."""
    if unknown := sorted(set(test) - set(train)):
        raise DataError(
            f"{shown(where)}: class {shown(unknown[0])} is in {split} but not in train ({len(unknown):,} such classes): "
            f"what is not trained on cannot be told; put images of it into train or take it out of {split}"
        )


def placed(labels: Sequence[Any], classes: Sequence[Any]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Each label's place among the classes."""
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places[label] for label in labels], np.int64)


def numbered(train: Sequence[int], named: Sequence[str], renumber: bool, where: str) -> list[int]:
    """The labels that are the classes, in their order, of labels that are whole numbers.

    Without ``renumber`` they must be 0, 1, 2 ... without a gap, and as many as are named, if any are.
    Memory is taken by how many labels there are, not by how large they are.

    Raises:
        DataError: they are not.
    """
    found = sorted(set(train))
    wanted = len(named) or len(found)
    if renumber or (found[0] == 0 and found[-1] == len(found) - 1 == wanted - 1):
        return found
    some = ", ".join(map(str, found)) if len(found) < 6 else f"{found[0]}, {found[1]} ... {found[-1]} ({len(found):,} of them)"
    instead = f"but its files name {wanted} classes" if named else f"not 0 to {len(found) - 1}"
    raise DataError(
        f"{shown(where)}: the labels of train are {some}, {instead}: dataset.renumber=true counts those that there are, "
        "in their order"
    )
