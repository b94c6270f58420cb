"""Optimizers and schedules as settings; a segment scales their base values by its layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from effdl.setting import NonNegative, Positive, Probability, Setting, Switch, setting


class Schedule(Setting, ABC):
    """Learning rate as a function of the epoch; restarts with every segment."""

    @abstractmethod
    def factor(self, epoch: int, epochs: int) -> float:
        """What the base learning rate is multiplied by in ``epoch`` (from 0) of ``epochs``."""


@setting
class MultiStep(Schedule):
    """Multiply by ``gamma`` after each fraction of the epochs: 0.1 after 50% and 75% in the thesis (§6.7)."""

    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    gamma: Positive = 0.1

    def __post_init__(self) -> None:
        if any(a >= b for a, b in pairwise(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")

    def factor(self, epoch: int, epochs: int) -> float:
        return self.gamma ** sum(epoch >= fraction * epochs for fraction in self.milestones)


@setting
class Optimizer(Setting, ABC):
    """A rule for updates. lr and weight_decay are the base values, at the first segment."""

    lr: Positive = 0.05
    weight_decay: NonNegative = 0.0
    schedule: Schedule | None = None

    @abstractmethod
    def build(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        """The torch optimizer for one segment, its base values scaled for that segment's layer."""


def foreach(parameters: list[nn.Parameter]) -> bool:
    """Stated, because torch's own default differs between CPU and CUDA, and with it the memory."""
    return bool(parameters) and parameters[0].is_cuda


@setting
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum. §6.4 prints lr 0.05 and weight decay 8e-5; momentum 0.9 is assumed."""

    momentum: Probability = 0.9
    nesterov: Switch = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0")

    def build(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        params = list(parameters)
        return torch.optim.SGD(
            params,
            lr=self.lr * lr_scale,
            momentum=self.momentum,
            weight_decay=self.weight_decay * weight_decay_scale,
            nesterov=self.nesterov,
            foreach=foreach(params),
        )


@setting
class Adamw(Optimizer):
    """Adam with decoupled weight decay, the optimizer of §6.7 (table 6.3: lr 1e-3..1e-2, weight decay 1e-6..1e-5)."""

    lr: Positive = 3e-3
    weight_decay: NonNegative = 1e-6
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    eps: Positive = 1e-8

    def build(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        params = list(parameters)
        return torch.optim.AdamW(
            params,
            lr=self.lr * lr_scale,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay * weight_decay_scale,
            foreach=foreach(params),
        )


def set_epoch(optimizer: torch.optim.Optimizer, schedule: Schedule | None, epoch: int, epochs: int) -> None:
    """Put the learning rate of ``epoch`` into every parameter group."""
    for group in optimizer.param_groups:
        base = group.setdefault("initial_lr", group["lr"])
        group["lr"] = base * (schedule.factor(epoch, epochs) if schedule else 1.0)
