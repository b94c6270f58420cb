"""The contract of an objective: output units, target coding, per-sample loss and decision rule (thesis chapter 4)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from effdl.setting import Setting

TargetKind = Literal["classes", "vectors"]


class Objective(Setting, ABC):
    """What a network's outputs mean and how far they are from the targets.

    target_range: closed bounds that real targets must lie in, None for any: what the output units can reach.
    is_least_squares: whether it is the squared error of linear units. least_outputs: how many output units it needs.
    """

    takes: ClassVar[frozenset[TargetKind]]
    target_range: ClassVar[tuple[float, float] | None] = None
    is_least_squares: ClassVar[bool] = False
    least_outputs: ClassVar[int] = 1

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss of each sample: outputs (B, K) before the output units, y (B,) class indices or (B, K) reals -> (B,)."""

    @abstractmethod
    def units(self, outputs: Tensor) -> Tensor:
        """The output units: (B, K) -> (B, K)."""

    def coded(self, y: Tensor, like: Tensor) -> Tensor | None:
        """The targets of the output units, (B, K) in the dtype of ``like`` (any, K); None where classes are not coded."""
        return None if kind_of(y) == "classes" else y.to(like.dtype)

    def decide(self, outputs: Tensor) -> Tensor:
        """The decision rule for classes: the largest output wins, (B, K) -> (B,). All units here are monotonic.

        One output, (B, 1), tells two classes by its sign.
        """
        return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)

    def tally(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is summed up over batches, in float64, to have `scores` of all: outputs (B, K) and targets as for `loss`.

        "samples", and over them the sums of "loss", of "acc" (how many are decided rightly) for classes, and of "mse", the mean
        over the outputs of the squared error of the units, where targets are coded.
        """
        sums = {"samples": torch.tensor(len(y)), "loss": self.loss(outputs, y).double().sum()}
        if kind_of(y) == "classes":
            sums["acc"] = (self.decide(outputs) == y).sum().double()
        if (targets := self.coded(y, outputs)) is not None:
            sums["mse"] = (self.units(outputs) - targets).double().square().mean(1).sum()
        return sums

    @staticmethod
    def scores(tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean loss, accuracy (fraction) and mean squared error per output, as far as there are any, of summed tallies."""
        samples = tally["samples"].item()
        return {name: total.item() / samples for name, total in tally.items() if name != "samples"}


def kind_of(y: Tensor) -> TargetKind:
    """Of targets: (B,) class indices, of an integer type, or (B, K) reals. The one place where this is told by the type."""
    return "vectors" if y.is_floating_point() else "classes"


def at_least_float32(outputs: Tensor) -> Tensor:
    """Outputs that a network computed in half precision as float32, in which losses are; others as they are."""
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs
