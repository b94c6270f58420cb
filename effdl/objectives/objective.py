"""The contract of an objective: output units, target coding, per-sample loss and decision rule (thesis chapter 4)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from effdl.objectives.simplex import onto_simplex
from effdl.setting import Setting

TargetKind = Literal["classes", "vectors", "pixels"]


class Objective(Setting, ABC):
    """What a network's outputs mean and how far they are from the targets.

    target_range: closed bounds that real targets must lie in, None for any: what the output units can reach.
    is_least_squares: whether it is the squared error of linear units. least_outputs: how many output units it needs.
    ignore_index: the label of pixels that count neither in losses nor in scores.

    Shapes are told of classes and vectors; of pixels outputs are (B, K, H, W), targets (B, H, W), and losses still (B,).
    """

    takes: ClassVar[frozenset[TargetKind]]
    target_range: ClassVar[tuple[float, float] | None] = None
    is_least_squares: ClassVar[bool] = False
    least_outputs: ClassVar[int] = 1
    ignore_index: ClassVar[int] = 255

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss of each sample: outputs (B, K) before the output units, y (B,) class indices or (B, K) reals -> (B,).

        Of an image it is the mean over its pixels, see `of_images`.
        """

    @abstractmethod
    def units(self, outputs: Tensor) -> Tensor:
        """The output units: (B, K) -> (B, K)."""

    def coded(self, y: Tensor, like: Tensor) -> Tensor | None:
        """The targets of the output units, (B, K) in the dtype of ``like`` (any, K); None where classes are not coded."""
        return y.to(like.dtype) if kind_of(y) == "vectors" else None

    def decide(self, outputs: Tensor) -> Tensor:
        """The decision rule for classes: the largest output wins, (B, K) -> (B,). All units here are monotonic.

        One output, (B, 1), tells two classes by its sign. Of pixels (B, K, H, W) -> (B, H, W).
        """
        return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each class, (B, K) -> (B, K), rows summing to 1, and (B, 2) of a single output: what the units are in the first
        place, or what comes nearest to them. The largest is the class that `decide` finds."""
        units = self.units(outputs)
        return onto_simplex(torch.cat([1 - units, units], 1) if units.shape[1] == 1 else units)

    @classmethod
    def of_images(cls, losses: Tensor, y: Tensor) -> Tensor:
        """Losses of pixels (B, H, W) as those of images (B,): means over the pixels that are not ignored, 0 where all are.

        So each image has the same weight, however many of its pixels are ignored.
        """
        counts = y != cls.ignore_index
        return losses.masked_fill(~counts, 0).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)

    def tally(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is summed up over batches, in float64, to have `scores` of all: outputs (B, K) and targets as for `loss`.

        "samples", and over them the sums of "loss", of "acc" (how many are decided rightly) for classes, and of "mse", the mean
        over the outputs of the squared error of the units, where targets are coded. Of pixels "acc" and "mse" are sums over
        those that are not ignored, "pixels" says how many these are, "confusion" how many of which class are decided as which.
        """
        sums = {"samples": torch.tensor(len(y)), "loss": self.loss(outputs, y).double().sum()}
        counts = y != self.ignore_index if kind_of(y) == "pixels" else None
        if kind_of(y) != "vectors":
            decided = self.decide(outputs)
            right = decided == y
            sums["acc"] = (right if counts is None else right & counts).sum().double()
        if counts is not None:
            sums["pixels"] = counts.sum()
            sums["confusion"] = confusion(y[counts], decided[counts], max(2, outputs.shape[1]))
        if (targets := self.coded(y, outputs)) is not None:
            errors = (self.units(outputs) - targets).double().square().mean(1)
            sums["mse"] = (errors if counts is None else errors.masked_fill(~counts, 0)).sum()
        return sums

    @staticmethod
    def scores(tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean loss, accuracy (fraction) and mean squared error per output, as far as there are any, of summed tallies.

        Of pixels accuracy and squared error are means over all that are not ignored, of however many images; NaN without any.
        "iou/k" is class k's intersection over union, and "miou" their mean, both over all images, see `unions`.
        """
        samples = tally["samples"].item()
        pixels = (tally["pixels"].item() or math.nan) if "pixels" in tally else samples
        over = {"acc": pixels, "mse": pixels}
        found = {name: total.item() / over.get(name, samples) for name, total in tally.items() if name not in COUNTS}
        return found | (unions(tally["confusion"]) if "confusion" in tally else {})


COUNTS = ("samples", "pixels", "confusion")  # of a tally, what others are made of


def confusion(y: Tensor, decided: Tensor, classes: int) -> Tensor:
    """(K, K): how many of class i, of labels (N,), were decided as j."""
    return torch.bincount(y.long() * classes + decided, minlength=classes**2).reshape(classes, classes)


def unions(confusion: Tensor) -> dict[str, float]:
    """Of confusion counts (K, K) each class's intersection over union, "iou/k": right pixels over all that are of the class or
    decided as it; and "miou", their mean. A class that neither labels nor decisions have counts in neither."""
    counts = confusion.double().cpu()
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    found = {f"iou/{k}": (right[k] / union[k]).item() for k in range(len(counts)) if union[k] > 0}
    return {**found, "miou": sum(found.values()) / len(found) if found else math.nan}


SCORES = ("miou", "acc", "mse")  # by which networks and runs are chosen: of those that there are the first
HIGHER = frozenset({"miou", "acc"})  # of these, those of which more is better


def kind_of(y: Tensor) -> TargetKind:
    """Of targets: (B,) class indices, of an integer type, (B, H, W) such indices of pixels, or (B, K) reals.

    The one place where this is told by the type.
    """
    if y.is_floating_point():
        return "vectors"
    return "pixels" if y.dim() == 3 else "classes"


def at_least_float32(outputs: Tensor) -> Tensor:
    """Outputs that a network computed in half precision as float32, in which losses are; others as they are."""
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs
