"""What lazy methods share: all but the last block of a chain stays as it is drawn, as their features do (Demirbilek §1.3)."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.objectives.objective import Objective
from effdl.setting import Count, NonNegative, setting
from effdl.training.decision_rule import DecisionRule
from effdl.training.form import stack_form
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.loop import reseed
from effdl.training.segments import SegmentPlan, Shapes, Training


@setting
class Lazy(Method):
    """The last block of a chain learns with its head, by backpropagation, above blocks that never do.

    epochs: 20 in figure 2.1.
    patience: stop after so many epochs without a better validation score, with the last weights.
    keep_features_mib: what the frozen blocks put out is kept in memory where it fits this bound, and worked out once; else, and
        where samples are others in each epoch, for every batch.
    """

    epochs: Count = 10
    patience: Count | None = None
    keep_features_mib: NonNegative = 2048.0

    @abstractmethod
    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> BlockChain:
        """A network whose weights other than the trained ones are drawn from the global generator, or those of the model."""

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        if arch.linear == ():
            raise ConfigError(
                f"arch: {type(self).__name__} trains above hidden layers, and this network has none; take arch=mlp"
            )

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        def rule(blocks: nn.Sequential, shapes: Shapes) -> DecisionRule:
            return DecisionRule(blocks, model.head, problem.objective)

        top = len(model)
        return Training(
            [SegmentPlan(top - 1, top, self.epochs, rule)], int(self.keep_features_mib * 2**20), patience=self.patience
        )

    def stack_key(self, network: BlockChain) -> Hashable | None:
        return stack_form(network)

    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        reseed(run.seed("features"))
        return super().fit(problem, model, run)


def check_linear(name: str, arch: ArchFacts) -> None:
    """Raise a ConfigError where a network is known to have blocks of other than linear layers. name: of the method."""
    if arch.linear is None:
        raise ConfigError(
            f"arch: {name} takes blocks of one linear layer and an activation, which this network's are not; take arch=mlp "
            "without batch_norm, or method=shallow, which takes any"
        )


@torch.no_grad()
def like(layer: nn.Linear, draw: nn.Linear) -> nn.Linear:
    """A drawn layer with the type and on the device of another; numbers are drawn on the CPU, so that devices agree."""
    made = nn.Linear(
        layer.in_features, layer.out_features, layer.bias is not None, device=layer.weight.device, dtype=layer.weight.dtype
    )
    for mine, theirs in zip(made.parameters(), draw.parameters(), strict=True):
        mine.copy_(theirs)
    return made
