"""The tiny problem, network and observers with which the engine's tests train for real: 6×6 images, three blocks."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.methods.lazy import Lazy
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.testing import CLASSES as CLASSES
from effdl.testing import PERCEPTRON as PERCEPTRON
from effdl.testing import SIDE as SIDE
from effdl.testing import WIDTHS as WIDTHS
from effdl.testing import WatchedRun as WatchedRun
from effdl.testing import chain as chain
from effdl.testing import copied as copied
from effdl.testing import images as images
from effdl.testing import perceptron as perceptron
from effdl.testing import problem as problem
from effdl.testing import same as same


def fitting(method: Any) -> Any:
    """The same for a network of three blocks, which are too few for some presets' partitions."""
    return replace(method, partitions=2) if getattr(method, "partitions", None) else method


def network_for(method: Any) -> Any:
    """Three convolutional blocks; a perceptron, which is wide enough, where blocks stay as they are drawn."""
    return perceptron() if isinstance(method, Lazy) else chain()


def facts(of: Problem) -> Facts:
    return of.facts


def interrupt_at_saves(monkeypatch: Any, *when: int) -> None:
    """Every run checkpoints whenever it can, and those saves, counted from 1, end in a KeyboardInterrupt."""
    save, saves = Run.save, []

    def save_and_stop(self: Run, state: Any) -> None:
        monkeypatch.setattr(self, "_saved_at", float("-inf"))
        save(self, state)
        saves.append(1)
        if len(saves) in when:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", save_and_stop)


def resumed(spec: Any, root: Path, monkeypatch: Any, *when: int) -> dict[str, Any]:
    """What a run ends in that is interrupted at those saves and each time started again."""
    interrupt_at_saves(monkeypatch, *when)
    for _ in when:
        with pytest.raises(KeyboardInterrupt):
            carry_out(spec, root)
    return carry_out(spec, root)


def flip_at_the_same_time(path: Path) -> None:
    """A bit of a file flips, and neither its size nor its time tells of it."""
    found, data = path.stat(), bytearray(path.read_bytes())
    data[70] ^= 8
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


class WatchedOptimizer:
    """An optimizer setting that remembers what it built, each step's learning rate, and the weights after each step."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.schedule = inner, inner.schedule
        self.built: list[torch.optim.Optimizer] = []
        self.rates: list[list[float]] = []
        self.weights: list[list[list[Tensor]]] = []

    def build(self, parameters: Any, lr_scale: float = 1.0, weight_decay_scale: float = 1.0) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = self.inner.build(parameters, lr_scale, weight_decay_scale)
        rates: list[float] = []
        weights: list[list[Tensor]] = []

        def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            group = optimizer.param_groups[0]
            rates.append(group["lr"])
            weights.append([p.detach().clone() for p in group["params"]])

        made.register_step_post_hook(after_step)
        self.built.append(made)
        self.rates.append(rates)
        self.weights.append(weights)
        return made

    def _used(self) -> list[int]:
        return [i for i, rates in enumerate(self.rates) if rates]

    @property
    def trained(self) -> list[torch.optim.Optimizer]:
        """Those that made steps, one a segment, in order (the engine also builds some to count memory)."""
        return [self.built[i] for i in self._used()]

    @property
    def rates_of_trained(self) -> list[list[float]]:
        return [self.rates[i] for i in self._used()]

    @property
    def weights_of_trained(self) -> list[list[list[Tensor]]]:
        return [self.weights[i] for i in self._used()]
