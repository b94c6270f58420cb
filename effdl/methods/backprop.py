"""Full backpropagation: the engine with one segment that holds the whole network, under its own head."""

from collections.abc import Callable, Hashable
from typing import ClassVar

from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.methods.end_to_end import EndToEnd
from effdl.setting import Count, setting
from effdl.training.decision_rule import DecisionRule
from effdl.training.form import stack_form
from effdl.training.handle import RunHandle
from effdl.training.offload import Offload, Place
from effdl.training.segments import Shapes


@setting
class Backprop(EndToEnd):
    """End-to-end backpropagation, the baseline of every table.

    epochs: 100 in table 6.1, 300 in table 6.2.
    accumulate: parts in which a batch goes forward and back, one after another, before its one update, for less memory; the
        numbers are those of the whole batch but for rounding, batch normalisation and dropout.
    offload: where activations lie between the forward and the backward pass of a step, see `saved.saved_away`: null leaves them
        on the device; "host" moves them from a GPU to the machine's memory (on a CPU that is the device itself, and nothing
        moves); "disk" to files in the run's folder. With ``checkpoint`` these are the inputs of blocks alone. The same numbers
        for less memory and more time.
    """

    # Of 1, memory counted the outputs of the last block, which nobody takes, as held through each step.
    numerics_version: ClassVar[int] = 2
    takes_pixels: ClassVar[bool] = True

    accumulate: Count = 1
    offload: Place | None = None

    def rule(self, problem: Problem, model: BlockChain, run: RunHandle) -> Callable[[nn.Sequential, Shapes], DecisionRule]:
        def made(blocks: nn.Sequential, shapes: Shapes) -> DecisionRule:
            device = next(blocks.parameters()).device
            return DecisionRule(
                blocks,
                model.head,
                problem.objective,
                checkpoint=self.checkpoint is not None,
                accumulate=self.accumulate,
                away=Offload(self.offload, device, lambda: run.folder("saved"), problem.is_outline),
            )

        return made

    def stack_key(self, network: BlockChain) -> Hashable | None:
        return None if self.checkpoint or self.accumulate > 1 or self.offload else stack_form(network)
