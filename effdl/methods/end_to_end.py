"""EndToEnd: the whole network learns at once, under its own head, by one rule."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.methods.method import Method
from effdl.objectives.objective import Objective
from effdl.setting import Count, NonNegative, Switch, setting
from effdl.training.handle import RunHandle
from effdl.training.loop import evaluate
from effdl.training.rule import Rule
from effdl.training.segments import SegmentPlan, Shapes, Training


@setting
class EndToEnd(Method):
    """A method whose one segment holds all blocks; what differs is the rule by which a step goes back through them.

    epochs: passes through the training samples.
    checkpoint: "block" recomputes each block's activations in the backward pass instead of keeping them (Chen et al. 2016):
        the same numbers for less memory and more time.
    patience: stop after so many epochs without a better validation score, with the last weights.
    keep_features_mib: standardised inputs are kept in memory where they fit this bound.
    measure_train: measure the trained network on all training samples, none of them varied, where they are made anew on those
        of the last of ``epochs``: train/acc, train/mse, and train/end_loss beside train/loss, which is the mean over the last
        epoch's steps as they were made.
    """

    epochs: Count = 10
    checkpoint: Literal["block"] | None = None
    patience: Count | None = None
    keep_features_mib: NonNegative = 2048.0
    measure_train: Switch = False

    @abstractmethod
    def rule(self, problem: Problem, model: BlockChain, run: RunHandle) -> Callable[[nn.Sequential, Shapes], Rule]:
        """What makes the rule of all blocks, see `SegmentPlan`."""

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        plan = SegmentPlan(0, len(model), self.epochs, self.rule(problem, model, run))
        return Training([plan], int(self.keep_features_mib * 2**20), patience=self.patience)

    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        network = super().fit(problem, model, run)
        if self.measure_train:
            self._note_train(network, problem, run)
        return network

    def _note_train(self, network: nn.Module, problem: Problem, run: RunHandle) -> None:
        batches = problem.made(self.epochs - 1).batches(problem.batch_size)
        with run.timer("eval"), run.hardware.autocast():
            found = run.ranks.agree(lambda: evaluate(network, batches, problem.objective))
        run.note({f"train/{'end_loss' if name == 'loss' else name}": value for name, value in found.items()})

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> nn.Module:
        return model
