"""What is wrong with samples, said before anything is computed with them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from effdl.errors import DataError
from effdl.objectives.objective import Objective, kind_of


def first_absent(y: Tensor, classes: int, where: str) -> int | None:
    """The first class that (N,) labels lack, None where they have all. Raises DataError for labels that are no classes.

    Memory is taken by how many labels there are, not by how large they are.
    """
    found = y.unique().tolist()
    check_labels(y, found, classes, where)
    return None if len(found) == classes else next((i for i, label in enumerate(found) if label != i), len(found))


def check_labels(y: Tensor, found: list[int], classes: int, where: str) -> None:
    """Raise a DataError for labels (N,) or (N, H, W) that are no classes: which, how many, and where the first is.

    found: the labels that there are, rising.
    """
    if not (wrong := [label for label in found if not 0 <= label < classes]):
        return
    outside = torch.isin(y, torch.tensor(wrong, device=y.device)).reshape(len(y), -1)
    shown = ", ".join(map(str, wrong[:8])) + (f" and {len(wrong) - 8:,} more" if len(wrong) > 8 else "")
    raise DataError(
        f"{where} has label {wrong[0] if wrong[0] < 0 else wrong[-1]}, outside 0..{classes - 1}: {int(outside.sum()):,} of "
        f"{y.numel():,} labels are ({shown}), first sample {int(outside.any(1).nonzero()[0])}"
    )


def as_labels(x: Tensor, y: Tensor) -> Tensor:
    """The targets, class indices of any kind of integer as int64. Raises DataError where they are not as many as inputs."""
    for name, part in (("x", x), ("y", y)):
        if not isinstance(part, Tensor):
            raise DataError(f"{name} is of type {type(part).__name__}: Samples takes tensors, as torch.as_tensor({name}) makes")
    if len(x) != len(y):
        raise DataError(f"there are {len(x):,} inputs but {len(y):,} targets: each needs one")
    return y if y.is_floating_point() or y.dtype == torch.int64 or y.is_complex() else y.long()


def check_targets(y: Tensor, outputs: int, objective: Objective, where: str) -> None:
    """Raise a DataError for targets that a network of so many outputs cannot learn by an objective. where: "training"."""
    if (kind := kind_of(y)) == "pixels" and "pixels" in objective.takes:
        found = [label for label in y.unique().tolist() if label != objective.ignore_index]
        check_labels(y, found, outputs, f"the {where} split")
        return
    if kind != "vectors":
        if y.dim() != 1:
            real = "y.argmax(1) makes them of one-hot rows" if _is_one_hot(y, outputs) else "real targets are y.float()"
            raise DataError(f"{where} targets are whole numbers of shape {tuple(y.shape)}: classes are (N,), and {real}")
        first_absent(y, max(2, outputs), f"the {where} split")
        return
    if "vectors" not in objective.takes:
        made = "y.argmax(1)" if _is_one_hot(y, outputs) else "y.long()"
        check_finite(y.split(4096), where, "targets")
        check_whole(y, where, objective)
        raise DataError(f"{where} targets are {y.dtype}, but {type(objective).__name__} takes classes: {made} makes them")
    if y.dim() != 2 or y.shape[1] != outputs:
        raise DataError(
            f"{where} targets have the shape {tuple(y.shape)}: real ones of {outputs} outputs are (N, {outputs}), and classes "
            "whole numbers, which y.long() makes"
        )
    check_finite(y.split(4096), where, "targets")
    low, high = objective.target_range or (-torch.inf, torch.inf)
    if len(y) and (float(y.min()) < low or float(y.max()) > high):
        raise DataError(
            f"{where} targets lie in [{float(y.min()):g}, {float(y.max()):g}], but {type(objective).__name__} takes "
            f"[{low:g}, {high:g}]: scale them, or take linear_mse"
        )


def check_whole(y: Tensor, where: str, objective: Objective) -> None:
    """Raise a DataError where real targets, which are to be classes, have fractions, of which y.long() would
    make others."""
    if len(places := (y != y.floor()).reshape(len(y), -1).any(1).nonzero().flatten()):
        raise DataError(
            f"{len(places):,} of {len(y):,} {where} targets are no whole numbers, first sample {int(places[0])}, but "
            f"{type(objective).__name__} takes classes: objective=linear_mse learns real targets"
        )


def check_shapes(train: tuple[int, ...], val: tuple[int, ...]) -> None:
    """Raise a DataError where validation inputs have another shape than those that are trained on."""
    if train != val:
        raise DataError(f"validation inputs have the shape {val}, training inputs {train}: a network takes one shape")


def _is_one_hot(y: Tensor, outputs: int) -> bool:
    """Whether each row of (N, K) is 1 at one class and 0 elsewhere."""
    return y.dim() == 2 and y.shape[1] == outputs > 1 and bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def check_finite(parts: Iterable[Tensor], where: str, what: str = "inputs") -> None:
    """Raise a DataError for samples that are no finite numbers, which come in parts."""
    bad, first, seen = 0, 0, 0
    for part in parts:
        if part.is_floating_point() and not part.isfinite().all():
            places = (~part.isfinite().reshape(len(part), -1).all(1)).nonzero().flatten()
            first = first if bad else seen + int(places[0])
            bad += len(places)
        seen += len(part)
    if bad:
        raise DataError(
            f"{bad:,} of {seen:,} {where} {what} hold NaN or infinity, first sample {first}: leave them out or fill them in"
        )


def check_same(once: Tensor, again: Tensor, kind: str, where: str) -> None:
    """Raise a DataError where one sample of a split is another when it is asked for again."""
    if not torch.equal(once, again):
        raise DataError(
            f"the {where} split, {kind}, gives other samples each time: what is made anew in each epoch is given by "
            "Split.epoch(number, seed), so that nothing made of it is kept and a run that was killed goes on with the same"
        )
