"""FeedbackRule: forward passes as ever, and a backward pass of its own from the true error of the outputs."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.batch import Batch
from effdl.objectives.objective import Objective, at_least_float32
from effdl.training.decision_rule import check_outputs
from effdl.training.loop import reduce_loss
from effdl.training.recompute import Recompute
from effdl.training.rule import Rule


class FeedbackRule(Rule):
    """Blocks under the network's own head, all at once; what goes back through them is a member's to say.

    The member ties its own backward pass into the graph of the loss, so that a step is `descended` and one `backward`, as in
    backpropagation: the loss is the true one, its automatic gradient is the rule's.

    Args:
        head: from the last block's outputs to logits (B, K); learns with them.
        feedback: matrices that stay as they are, which the member gets back by `matrix`; None where it takes the network's own
            weights, transposed or by their signs, as they are at each step: then it ``follows`` them.
        checkpoint: see `Rule`.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        head: nn.Module,
        objective: Objective,
        feedback: Sequence[Tensor] | None = None,
        checkpoint: Recompute = False,
    ) -> None:
        super().__init__(blocks, checkpoint)
        self.head, self.objective = head, objective
        self.follows = feedback is None
        for i, matrix in enumerate(feedback or ()):
            self.register_buffer(f"feedback{i}", matrix)

    def matrix(self, place: int) -> Tensor:
        """The matrix at a place of ``feedback``."""
        return self.get_buffer(f"feedback{place}")

    @abstractmethod
    def passed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the blocks put out for x (B, ...), and the logits (B, K), whose graph is the rule's backward pass."""

    def feeding_back(self) -> AbstractContextManager[object]:
        """Entered for a step, its backward pass included."""
        return nullcontext()

    def descended(self, batch: Batch, epoch: int) -> tuple[Tensor, Batch]:
        """The mean loss, whose automatic gradient is the rule's update, and what `learn` returns; within `feeding_back`.

        It changes nothing, and is a function of the rule's parameters and buffers and the batch.
        """
        with self.hardware.autocast():
            outputs, logits = self.passed(batch.x.detach())
            loss = self.objective.loss(at_least_float32(logits), batch.y)
        # What nobody takes is not held through the backward pass.
        put_out = outputs.detach() if self.yields else outputs.new_empty(0)
        return reduce_loss(loss, batch.sample_weight), batch.passed_on(put_out, loss.detach())

    def learn(self, batch: Batch, epoch: int) -> Batch:
        with self.feeding_back():
            loss, learned = self.descended(batch, epoch)
            loss.backward()
        return learned

    def check(self, outputs: Tensor, wanted: int) -> None:
        check_outputs(self.head, outputs, wanted)

    def predictor(self, chain: BlockChain) -> BlockChain:
        return chain.with_head(self.head)
