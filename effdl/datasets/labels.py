"""Labels of image sets: of both splits, looked at whole, as numbers from 0 for the classes that the training split has."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from effdl.errors import DataError, shown


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
