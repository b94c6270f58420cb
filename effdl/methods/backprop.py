"""Full backpropagation: the engine with one segment that holds the whole network, under its own head."""

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.methods.method import Method
from effdl.objectives.objective import Objective
from effdl.setting import Count, NonNegative, Switch, setting
from effdl.training.decision_rule import DecisionRule
from effdl.training.form import stack_form
from effdl.training.handle import RunHandle
from effdl.training.loop import evaluate
from effdl.training.segments import SegmentPlan, Shapes, Training


@setting
class Backprop(Method):
    """End-to-end backpropagation, the baseline of every table.

    epochs: 100 in table 6.1, 300 in table 6.2.
    checkpoint: "block" recomputes each block's activations in the backward pass instead of keeping them (Chen et al. 2016):
        the same numbers for less memory and more time.
    patience: stop after so many epochs without a better validation score, with the last weights.
    keep_features_mib: standardised inputs are kept in memory where they fit this bound.
    measure_train: measure the trained network on all training samples, none of them varied: train/acc, train/mse, and
        train/end_loss beside train/loss, which is the mean over the last epoch's steps as they were made.
    """

    # Of 1, memory counted the outputs of the last block, which nobody takes, as held through each step.
    numerics_version: ClassVar[int] = 2

    epochs: Count = 10
    checkpoint: Literal["block"] | None = None
    patience: Count | None = None
    keep_features_mib: NonNegative = 2048.0
    measure_train: Switch = False

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        def rule(blocks: nn.Sequential, shapes: Shapes) -> DecisionRule:
            return DecisionRule(blocks, model.head, problem.objective, checkpoint=self.checkpoint is not None)

        plan = SegmentPlan(0, len(model), self.epochs, rule)
        return Training([plan], int(self.keep_features_mib * 2**20), patience=self.patience)

    def stack_key(self, network: BlockChain) -> Hashable | None:
        return None if self.checkpoint else stack_form(network)

    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        network = super().fit(problem, model, run)
        if self.measure_train:
            self._note_train(network, problem, run)
        return network

    def _note_train(self, network: nn.Module, problem: Problem, run: RunHandle) -> None:
        batches = problem.train_split.batches(problem.batch_size)
        with run.timer("eval"), run.hardware.autocast():
            found = run.ranks.agree(lambda: evaluate(network, batches, problem.objective))
        run.note({f"train/{'end_loss' if name == 'loss' else name}": value for name, value in found.items()})

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> nn.Module:
        return model
