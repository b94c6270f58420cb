"""Sign-symmetric feedback: uniform sign-concordant feedback (Liao, Leibo and Poggio 2016)."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.methods.end_to_end import EndToEnd
from effdl.setting import setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.layer_feedback import SignFeedback, refuse_compiled
from effdl.training.segments import Shapes


@setting
class Usf(EndToEnd):
    """Backpropagation whose layers send the error down through the signs of their weights, see `LayerFeedback`.

    The strongest of the rules without weight transport: near backpropagation on ImageNet (Xiao et al. 2019; Moskovitz et al.
    2018), where feedback alignment fails. It does transport signs.

    magnitude: of all feedback weights of a layer: "norm" makes them as long as its weights are at the moment, ‖W‖_F; "one" is
        sign(W) itself, as first published, which needs normalisation and small steps, see `feedback.sign_symmetric`.
    """

    magnitude: Literal["norm", "one"] = "norm"

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        refuse_compiled(hardware)

    def rule(self, problem: Problem, model: BlockChain, run: RunHandle) -> Callable[[nn.Sequential, Shapes], SignFeedback]:
        def made(blocks: nn.Sequential, shapes: Shapes) -> SignFeedback:
            checkpoint = self.checkpoint is not None
            return SignFeedback(blocks, model.head, problem.objective, self.magnitude, checkpoint=checkpoint)

        return made
