"""Accuracy under the fast gradient sign method (Goodfellow, Shlens and Szegedy 2015)."""

from collections.abc import Iterator
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective, at_least_float32
from effdl.probes.probe import Probe
from effdl.setting import NonNegative, setting
from effdl.training.look import Look
from effdl.training.loop import evaluate


@setting
class Fgsm(Probe):
    """Validation accuracy on x + eps sign(∂L/∂x), x being stored inputs and L the true loss, by automatic differentiation,
    whatever rule the network learned by.

    ``acc/<eps>``: for each eps, and ``acc/0`` without. ``gradient``: the mean over samples of ‖∂L/∂x‖, at unit range.
    ``unmoved``: the share of samples without any gradient, which no eps moves: it is taken in float64, on a copy of the
    network, since in float32 that of a sample of which a network is sure (a logit of 17) rounds to 0, and it would seem robust.

    eps: of images in shares of the largest value that a training image has (255 where there is white), and what leaves 0 and
    that value is clipped to them; of vectors in their own unit, unclipped. Goodfellow et al. have 0.25 for MNIST.
    """

    begins: ClassVar[bool] = False

    eps: tuple[NonNegative, ...] = (0.05, 0.1, 0.25)

    def __post_init__(self) -> None:
        if not self.eps:
            raise ValueError("probe.fgsm.eps is empty: name at least one, for example [0.1]")

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        if problem.targets != "classes":
            raise ConfigError(f"probe=fgsm: measures accuracy, and these targets are {problem.targets}; leave the probe out")
        if problem.val < 1:
            raise ConfigError("probe=fgsm: there are no validation samples to measure on; dataset.val_size=5000, say")

    def measure(self, look: Look) -> dict[str, float]:
        learning = look.learning
        if learning is None or learning.problem is None or (network := learning.network) is None:
            return {}
        problem, rule = learning.problem, learning.rule
        is_image = len(problem.input_shape) == 3
        highest = problem.train_split.moments().highest if is_image else 1.0
        if highest <= 0:
            raise ConfigError("probe=fgsm: training images have no value above 0, so eps has no unit; leave the probe out")
        device, precise = next(rule.parameters()).device, deepcopy(network).double()
        lengths = torch.cat([slope.flatten(1).norm(dim=1) for _, slope in sloped(precise, problem, learning.objective, device)])
        found = {"gradient": float(lengths.mean()) * highest, "unmoved": float((lengths == 0).double().mean())}
        for eps in sorted({0.0, *self.eps}):
            pairs = sloped(precise, problem, learning.objective, device)
            moved = (b.passed_on(fgsm(b.x, slope, eps * highest, highest if is_image else None)) for b, slope in pairs)
            found[f"acc/{eps:g}"] = evaluate(network, moved, learning.objective)["acc"]
        return found


def fgsm(x: Tensor, slope: Tensor, eps: float, highest: float | None) -> Tensor:
    """x + eps sign(slope), in [0, highest] where there is one."""
    moved = x + eps * slope.sign()
    return moved if highest is None else moved.clamp(0, highest)


def gradient(network: nn.Module, objective: Objective, x: Tensor, y: Tensor) -> Tensor:
    """Of each sample's loss with regard to its stored inputs x (B, ...), as floats of the network's kind; no other changes."""
    kind = next(network.parameters()).dtype
    with torch.enable_grad():
        x = x.detach().to(kind).requires_grad_()
        (found,) = torch.autograd.grad(objective.loss(at_least_float32(network(x)), y).sum(), x)
    return found


def sloped(network: nn.Module, problem: Problem, objective: Objective, device: torch.device) -> Iterator[tuple[Batch, Tensor]]:
    """Validation batches, each with its gradient."""
    for stored in problem.val():
        batch = stored.to(device)
        yield batch, gradient(network, objective, batch.x, batch.y)
