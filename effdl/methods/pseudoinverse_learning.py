"""Pseudoinverse learning of Guo and Lyu (2004), which chapter 7 sets itself against (§7.4)."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.methods.closed_form import Carried, ClosedForm, Slot
from effdl.methods.features import Fitted
from effdl.setting import Switch, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware

MATRICES = 5  # (m, m) at once: features, their SVD's two, the pseudoinverse, and the next features


@setting
class PseudoinverseLearning(ClosedForm):
    """Each hidden layer's weights are the pseudoinverse of the features below, W = Z⁺, whatever the targets (§7.4).

    Hence all hidden layers have as many units as there are training samples, and all but the first and last m² weights.
    """

    saves_memory: ClassVar[str] = "fewer samples (dataset.train_limit), which are also the units of each hidden layer"

    bias: Switch = False

    def _check_memory(self, problem: Facts, widths: Sequence[int], hardware: Hardware) -> None:
        one = self._bytes(problem.train, problem.train) / 2**30
        if set(widths) != {problem.train}:
            raise ConfigError(
                f"arch.hidden: pseudoinverse learning has as many units in each hidden layer as training samples, "
                f"{problem.train:,}, with {one:,.3g} GiB of weights between two of them: arch.hidden=[{problem.train}]"
            )
        if MATRICES * one > (there := hardware.memory() / 2**30):
            raise ConfigError(
                f"dataset.train_limit: square matrices of {problem.train:,} samples take {MATRICES * one:,.1f} GiB, of "
                f"{there:,.1f} GiB on this machine; take fewer samples"
            )
        super()._check_memory(problem, widths, hardware)

    def layer(self, slot: Slot, carried: Carried, run: RunHandle) -> Fitted:
        below, width = slot.below, slot.width
        if slot.index == 0:
            one = self._bytes(width, width) / 2**20
            run.say(f"{width:,} units a hidden layer: {one:,.3g} MiB a matrix, about {MATRICES * one:,.3g} MiB at once")
        return slot.fitted(below.fit(torch.eye(width, dtype=below.design.like.dtype, device=below.design.like.device)))
