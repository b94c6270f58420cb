"""Whether a data set's splits are as its facts say, and have the classes that they need."""

from collections.abc import Sequence

from torch import Tensor

from effdl.datasets.checks import first_absent
from effdl.datasets.dataset import Dataset, Facts
from effdl.datasets.split import Split
from effdl.datasets.waiting import say_once
from effdl.errors import DataError


def check_split(dataset: Dataset, facts: Facts, whole: Split, splits: Sequence[Split]) -> None:
    """Raise a DataError, with advice, for labels that are no classes and for classes that a split lacks.

    A class that has one sample trains, and validation goes without it, which is said.

    Args:
        whole: what was split.
        splits: training, validation, test.
    """
    train, val, test = splits
    if not whole.changes == train.changes == facts.changes:
        raise DataError(
            f"whether samples are made anew in each epoch is said in three ways: changes is {facts.changes} in the facts of "
            f"{type(dataset).__name__}, {whole.changes} of its {type(whole).__name__}, {train.changes} of what that takes"
        )
    test.check("test")
    if facts.targets == "classes":
        _check_whole(dataset, facts.classes, whole.y, test.y)
        _check_parts(dataset, whole.strata, train.strata, val.strata)


def _check_whole(dataset: Dataset, classes: int, whole: Tensor, test: Tensor) -> None:
    for where, y, needed in (("training", whole, True), ("test", test, dataset.is_complete)):
        absent = first_absent(y, classes, f"the {where} split")
        if absent is not None and needed and len(y):
            raise DataError(
                f"class {dataset.class_name(absent)} is missing from the {where} split of {len(y):,} samples: the set is "
                "damaged or incomplete, fetch or write it again"
            )


def _check_parts(dataset: Dataset, whole: Tensor, train: Tensor, val: Tensor) -> None:
    found, counts = whole.unique(return_counts=True)
    several, single = found[counts > 1], found[counts == 1].tolist()
    for where, y, needed in (("training", train, found), ("validation", val, several)):
        present = {*y.unique().tolist()}
        absent = next((label for label in needed.tolist() if label not in present), None)
        if absent is not None and len(y):
            raise DataError(
                f"class {dataset.class_name(absent)} is missing from the {where} split of {len(y):,} samples: "
                f"{_advice(dataset, len(whole), len(found), len(train), len(val), len(several))}"
            )
    if single and len(val):
        say_once(
            f"classes with a single sample: {len(single):,}, first {dataset.class_name(single[0])}: it is trained on, and "
            "validation has none of it"
        )


def _advice(dataset: Dataset, samples: int, classes: int, train: int, val: int, several: int) -> str:
    """What keeps every class in both: sizes that can hold one sample of each, and then a draw that does."""
    if val > samples - classes:
        return f"dataset.val_size={samples - classes} at most leaves one of each class to train on"
    if train < classes:
        return f"there are {classes:,} classes, dataset.train_limit={classes} at least holds one sample of each"
    if 0 < val < several:
        return f"there are {several:,} classes, dataset.val_size={several} at least holds one sample of each"
    return "dataset.stratify=true keeps some of each class in both"
