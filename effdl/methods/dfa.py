"""Direct feedback alignment (Nøkland 2016), the learning rule of Demirbilek's thesis."""

from collections.abc import Callable, Hashable

from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.methods.end_to_end import EndToEnd
from effdl.setting import Switch, setting
from effdl.training.direct_feedback import DirectFeedback, hidden, widths
from effdl.training.feedback import Feedback, drawn
from effdl.training.form import stack_form
from effdl.training.handle import RunHandle
from effdl.training.segments import Shapes


@setting
class Dfa(EndToEnd):
    """Each block learns from the output's error through a fixed random matrix of its own, see `DirectFeedback`.

    It takes any chain: the error arrives at what a block puts out, and its own weights, several layers or one, learn by
    the block's own derivatives. Convolutional blocks too, but expect little of them: the literature agrees that DFA trains
    perceptrons, and attention and graph networks (Launay et al. 2020), nearly as well as backpropagation, and fails on
    convolutions, which share too few weights to align with the error of many places (Bartunov et al. 2018; Launay et al.
    2019; Refinetti et al. 2021). A matrix has as many entries as a block has output features times outputs.

    feedback: how the matrices B (outputs, features) are drawn, see `feedback.drawn`; n is the features of the block's output.
        "uniform" is the thesis's; "transpose" is no random matrix but the product of the weights above, at each step: that is
        backpropagation, of chains that are linear above the first block.
    one_matrix: all layers' matrices are slices of a single one (Launay et al. 2020), as wide as the widest.
    """

    feedback: Feedback = "uniform"
    one_matrix: Switch = False

    def rule(self, problem: Problem, model: BlockChain, run: RunHandle) -> Callable[[nn.Sequential, Shapes], DirectFeedback]:
        def made(blocks: nn.Sequential, shapes: Shapes) -> DirectFeedback:
            features = widths(shapes)[: hidden(blocks, model.head)]
            matrices = None
            if self.feedback != "transpose":
                of = max(features, default=None) if self.one_matrix else None
                seeds = [run.seed("feedback", 0 if self.one_matrix else i) for i in range(len(features))]
                pairs = zip(features, seeds, strict=True)
                matrices = [drawn(self.feedback, problem.outputs, n, seed, of) for n, seed in pairs]
            return DirectFeedback(blocks, model.head, problem.objective, matrices, checkpoint=self.checkpoint is not None)

        return made

    def stack_key(self, network: BlockChain) -> Hashable | None:
        return None if self.checkpoint or self.feedback == "transpose" else stack_form(network)

    @property
    def draws(self) -> tuple[str, ...]:
        return (*super().draws, "feedback matrices")
