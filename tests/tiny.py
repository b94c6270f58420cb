"""The tiny problem, network and observers with which the engine's tests train for real: 6×6 images, three blocks."""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.archs.classifier import Classifier
from effdl.archs.mlp import Mlp
from effdl.datasets.problem import Facts, Problem, Samples
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.training.loop import reseed

CLASSES, SIDE = 3, 6
WIDTHS = (1, 4, 5, 6)
PERCEPTRON = (60, 40)


def images(count: int, seed: int) -> Samples:
    """Class c has its rows 2c and 2c + 1 brighter than the noise around them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = torch.randint(0, 100, (count, 1, SIDE, SIDE), generator=generator)
    rows = torch.arange(SIDE) // 2 == y[:, None]
    return Samples((x + 60 * rows[:, None, :, None]).to(torch.uint8), y)


def problem(objective: Any = None, *, train: int = 40, val: int = 20, batch_size: int = 8, seed: int = 0) -> Problem:
    split = images(train, 1), images(val, 2)
    return Problem(*split, objective or SoftmaxCe(), outputs=CLASSES, batch_size=batch_size, seed=seed)


def facts(of: Problem) -> Facts:
    return of.facts


def chain(seed: int = 0, dropout: float = 0.2) -> BlockChain:
    """Three blocks of convolution, batch normalisation, ReLU and dropout, under a linear head."""
    reseed(seed)
    blocks = OrderedDict(
        (
            f"conv{i + 1}",
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(dropout)),
        )
        for i, (a, b) in enumerate(pairwise(WIDTHS))
    )
    block = InputBlock((1, SIDE, SIDE))
    block.fit(images(40, 1).x)
    return BlockChain(blocks, Classifier((WIDTHS[-1], SIDE, SIDE), CLASSES, size=2), block)


def perceptron(seed: int = 0) -> BlockChain:
    """Two blocks of a linear layer and ReLU under a linear head, for the same images; so wide that drawn weights do."""
    reseed(seed)
    made = Mlp(hidden=PERCEPTRON).build(facts(problem()))
    made.input.fit(images(40, 1).x)
    return made


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: Any, b: Any) -> bool:
    """Bit-equal tensors throughout two nested states."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


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


class WatchedRun:
    """A run that keeps, for every recorded epoch, (segment, a copy of the chain's state)."""

    def __init__(self, inner: Any, model: nn.Module) -> None:
        self.inner, self.model = inner, model
        self.epochs: list[tuple[int, dict[str, Tensor]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def record(self, segment: int, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append((segment, copied(self.model)))
        self.inner.record(segment, epoch, metrics)
