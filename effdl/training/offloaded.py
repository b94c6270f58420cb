"""What of one training is off its device: blocks that do not learn, the head, learners that wait, the best network's copy."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.training.copies import held
from effdl.training.learner import Learner
from effdl.training.offload import Offload, Part, Streamed, tensors
from effdl.training.selection import clones
from effdl.training.untrained import OfBatch, Untrained, normalises


class Offloaded:
    """A chain and its learners under an `Offload`: only what learns, and one block at a time below it, is on the device.

    Tensors that share their memory with another block's, or with the input block, stay, and so does that block. A chain's head
    comes with a learner that holds it.

    untrained: as in `segments.Training`.
    """

    def __init__(self, offload: Offload, chain: BlockChain, untrained: Untrained = "eval") -> None:
        self.offload, self._chain = offload, chain
        staying = _shared(chain) if offload.moves else []
        self.staying_bytes = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in staying}.values())
        self._parts = [offload.part(name, partial(tensors, block), staying) for name, block in chain.blocks.named_children()]
        self._head = offload.part("head", partial(tensors, chain.head), staying)
        self._learners: dict[int, Part] = {}
        self._best: Part | None = None
        self._blocks: list[nn.Module] = [
            Streamed(block, part) if offload.moves else block for block, part in zip(chain.blocks, self._parts, strict=True)
        ]

        by_batch = [i for i, block in enumerate(chain.blocks) if untrained == "batch_statistics" and normalises(block)]
        self._of_batch = {i: OfBatch(self._blocks[i]) for i in by_batch}

    def called(self, i: int, has_learned: bool) -> nn.Module:
        """A block as it is to be called from above; each time the same object."""
        return self._blocks[i] if has_learned else self._of_batch.get(i, self._blocks[i])

    def come(self, start: int, stop: int) -> None:
        """The blocks [start, stop), to learn."""
        for part in self._parts[start:stop]:
            part.come()

    def rest(self) -> None:
        """All of the chain but its input block leaves the device."""
        if not self.offload.moves:
            return
        for part in (*self._parts, self._head):
            part.leave()

    def wake(self, segment: int, learner: Learner) -> None:
        """A learner, with its blocks and all that is its own."""
        if not self.offload.moves:
            return
        learning = {id(block) for block in learner.rule.blocks}
        for block, blocks in zip(self._chain.blocks, self._parts, strict=True):
            if id(block) in learning:
                blocks.come()
        if (part := self._learners.pop(segment, None)) is not None:
            part.come()
        if any(module is self._chain.head for module in learner.rule.modules()):
            self._head.come()

    def wait(self, segment: int, learner: Learner) -> None:
        """A learner, until its next turn, without its blocks."""
        if self.offload.moves and segment not in self._learners:
            self._learners[segment] = self.offload.part(f"learner{segment}", self._own(learner))
            self._learners[segment].leave()

    def copied(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the best network's weights, which lie off the device."""
        if not self.offload.moves or self.offload.outline:
            return clones(weights)
        copies, self._best = self.offload.copies("best", weights)
        return copies

    def all_come(self) -> None:
        """The whole chain, back to where it was; raises RecordError where the best network's copy is not what it was."""
        if self._best is not None:
            self._best.check()
        self.come(0, len(self._parts))
        self._head.come()

    def _own(self, learner: Learner) -> Callable[[], Iterable[Tensor]]:
        """What is neither the chain's nor small change: the rule's own tensors, and the optimizer's."""
        ours = {id(t) for t in tensors(self._chain)}
        return lambda: [t for t in (*tensors(learner.rule), *held(learner.optimizer)) if id(t) not in ours]


def _shared(chain: BlockChain) -> list[Tensor]:
    """Tensors of blocks and head whose memory another block, the head or the input block has too."""
    parts = [tensors(part) for part in (chain.input, *chain.blocks, chain.head)]
    owners = Counter(address for part in parts for address in {t.untyped_storage()._cdata for t in part})
    return [t for part in parts[1:] for t in part if owners[t.untyped_storage()._cdata] > 1]
