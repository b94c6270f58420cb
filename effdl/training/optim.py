"""Optimizers and schedules as settings; a segment scales their base values by its layer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from effdl.setting import NonNegative, Positive, Probability, Setting, Switch, setting
from effdl.training.rmsprop import RmspropInRoot


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


Build = Callable[..., torch.optim.Optimizer]


@setting
class Optimizer(Setting, ABC):
    """A rule for updates. lr and weight_decay are the base values, at the first segment.

    weight_decay λ is a part of the gradient, λθ, but for AdamW. Where constants are those of Demirbilek's §1.4, which prints
    the rules, a choice with torch's own stands beside.
    """

    lr: Positive = 0.05
    weight_decay: NonNegative = 0.0
    schedule: Schedule | None = None

    @property
    @abstractmethod
    def rule(self) -> Build:
        """(parameters, lr, weight_decay, foreach) -> the torch optimizer."""

    def build(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        """The torch optimizer for one segment, its base values scaled for that segment's layer.

        It holds no weights that do not learn, so that these neither decay nor take any state; unless none does.
        """
        given = list(parameters)
        learning = [p for p in given if p.requires_grad] or given
        return self.rule(
            learning,
            lr=self.lr * lr_scale,
            weight_decay=self.weight_decay * weight_decay_scale,
            foreach=foreach(learning),
        )


def foreach(parameters: list[nn.Parameter]) -> bool:
    """Stated, because torch's own default differs between CPU and CUDA, and with it the memory."""
    return bool(parameters) and parameters[0].is_cuda


@setting
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum. §6.4 prints lr 0.05 and weight decay 8e-5; momentum 0.9 is assumed.

    nesterov: v = γv + η∇J(θ − γv), θ = θ − v; the weights that one has are the points θ − γv, as in torch.
    """

    momentum: Probability = 0.9
    nesterov: Switch = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0")

    @property
    def rule(self) -> Build:
        return partial(torch.optim.SGD, momentum=self.momentum, nesterov=self.nesterov)


@setting
class Adagrad(Optimizer):
    """θ = θ − η g / √(G + ε), G being the sum of all g² (Duchi et al. 2011; Demirbilek §1.4.2).

    eps: ε; 1e-8 in the text, 1e-10 in torch. eps_in_root: as the text prints it, else √G + ε, as torch has it; it matters where
    gradients are as small as √ε.
    """

    lr: Positive = 0.01
    eps: Positive = 1e-8
    eps_in_root: Switch = True

    @property
    def rule(self) -> Build:
        if self.eps_in_root:  # G begins at ε
            return partial(torch.optim.Adagrad, initial_accumulator_value=self.eps, eps=0.0)
        return partial(torch.optim.Adagrad, eps=self.eps)


@setting
class Adadelta(Optimizer):
    """θ = θ − η d, d = √(D + ε) / √(E + ε) g, with running means E of g² and D of the d² before (Zeiler 2012; §1.4.2).

    rho: ρ, of E = ρE + (1 − ρ)g². eps: ε; 1e-8 in Demirbilek's text, 1e-6 in torch. First steps are √(ε / (1 − ρ)) η long
    whatever the gradient, a tenth of torch's.
    """

    lr: Positive = 1.0
    rho: Probability = 0.9
    eps: Positive = 1e-8

    @property
    def rule(self) -> Build:
        return partial(torch.optim.Adadelta, rho=self.rho, eps=self.eps)


@setting
class Rmsprop(Optimizer):
    """θ = θ − η g / √(E + ε), E = αE + (1 − α)g² (Hinton's lectures; Demirbilek §1.4.2, whose ρ torch calls alpha).

    alpha: 0.9 in the text, 0.99 in torch. eps, eps_in_root: as in Adagrad.
    """

    lr: Positive = 1e-3
    alpha: Probability = 0.9
    eps: Positive = 1e-8
    eps_in_root: Switch = True

    @property
    def rule(self) -> Build:
        return partial(RmspropInRoot if self.eps_in_root else torch.optim.RMSprop, alpha=self.alpha, eps=self.eps)


@setting
class Adam(Optimizer):
    """θ = θ − η m̂ / (√v̂ + ε), of running means of g and g², both freed of their bias (Kingma and Ba 2015; §1.4.2)."""

    lr: Positive = 1e-3
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    eps: Positive = 1e-8

    @property
    def rule(self) -> Build:
        return partial(torch.optim.Adam, betas=self.betas, eps=self.eps)


@setting
class Adamw(Optimizer):
    """Adam with decoupled weight decay, the optimizer of §6.7 (table 6.3: lr 1e-3..1e-2, weight decay 1e-6..1e-5)."""

    lr: Positive = 3e-3
    weight_decay: NonNegative = 1e-6
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    eps: Positive = 1e-8

    @property
    def rule(self) -> Build:
        return partial(torch.optim.AdamW, betas=self.betas, eps=self.eps)


def set_epoch(optimizer: torch.optim.Optimizer, schedule: Schedule | None, epoch: int, epochs: int) -> None:
    """Put the learning rate of ``epoch`` into every parameter group."""
    for group in optimizer.param_groups:
        base = group.setdefault("initial_lr", group["lr"])
        group["lr"] = base * (schedule.factor(epoch, epochs) if schedule else 1.0)
