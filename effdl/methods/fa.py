"""Feedback alignment (Lillicrap, Cownden, Tweed and Akerman 2016)."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.methods.end_to_end import EndToEnd
from effdl.setting import setting
from effdl.training.backward_weights import layers
from effdl.training.feedback import Feedback, drawn
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.layer_feedback import FixedFeedback, refuse_compiled
from effdl.training.segments import Shapes


@setting
class Fa(EndToEnd):
    """Backpropagation whose layers send the error down through fixed random weights, see `LayerFeedback`.

    Every layer with weights has to be `nn.Linear`, a convolution, or a normalisation. With one hidden linear layer it is DFA.

    feedback: how a layer's feedback weights are drawn, in the shape of its own, see `feedback.drawn`; n is its fan-in.
        "transpose" is no random matrix but its own weights, which is backpropagation.
    """

    feedback: Feedback = "uniform"

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        refuse_compiled(hardware)

    def rule(self, problem: Problem, model: BlockChain, run: RunHandle) -> Callable[[nn.Sequential, Shapes], FixedFeedback]:
        def made(blocks: nn.Sequential, shapes: Shapes) -> FixedFeedback:
            matrices = None
            if self.feedback != "transpose":
                matrices = []
                for i, layer in enumerate([*layers(blocks, model.head).values()][1:]):
                    weight: Any = layer.weight
                    shape = weight.shape
                    rows, fan_in = shape[0], math.prod(shape[1:])
                    matrices.append(drawn(self.feedback, rows, fan_in, run.seed("feedback", i)).view(shape))
            return FixedFeedback(blocks, model.head, problem.objective, matrices, checkpoint=self.checkpoint is not None)

        return made

    @property
    def draws(self) -> tuple[str, ...]:
        return (*super().draws, "feedback weights")
