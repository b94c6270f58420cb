"""Rule: how the blocks of one segment learn from a batch, and which network they make."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError
from effdl.training.compiled import Compiled
from effdl.training.dense import Dense
from effdl.training.hardware import Hardware
from effdl.training.recompute import Recompute, checkpointed, in_parts


class Rule(nn.Module, ABC):
    """How consecutive blocks learn together: by what a step does to their gradients. An optimizer then applies these.

    All parameters of the module learn: those of the blocks, and of whatever else a member registers (a decision block, say),
    which is thrown away with it, unless its predictor takes it along.

    Args:
        blocks: the network's own, called in order.
        checkpoint: "block" (or True) recomputes each block in the backward pass instead of keeping its activations, "parts" and
            "channels" what its layers put out, see `recompute.in_parts`; places, from 0, recompute the blocks there alone.

    ``hardware``: in whose precision forward passes and losses are to be worked out, by ``hardware.autocast()``; whoever trains
    the rule sets it. ``yields``: whether somebody takes what the blocks put out. Where nobody does, it need not be held through
    the backward pass, which saves 7% of the peak in CNN-4, 4% in VGG-13 (table 6.1). ``scales``: whether its gradients are of
    losses multiplied by ``Batch.scale``. ``wants_inputs``: whether its batches are to bring the samples as they are stored, as
    ``Batch.inputs``, whatever lies below; of segments that learn at once, one that does is enough for all.
    """

    scales: ClassVar[bool] = False
    wants_inputs: bool = False

    def __init__(self, blocks: nn.Sequential, checkpoint: Recompute = False) -> None:
        super().__init__()
        self.blocks = blocks
        self.checkpoint = checkpoint
        self.hardware = Hardware()
        self.yields = True
        self._compiled: tuple[Compiled, ...] = ()

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A training batch as the rule wants it: raw inputs, before any block, the labels beside them; by default as it is.

        A rule that has its own is fed through all blocks below anew in each epoch, and its `predictor` is given, and measured
        on, the network from raw inputs. All segments of a training prepare alike. Of several processes each prepares its part.

        Args:
            generator: on the CPU, the only source of chance; seeded by the problem's seed for this batch alone.
        """
        return batch

    @property
    def prepares(self) -> bool:
        """Whether it has a `prepare` of its own."""
        return type(self).prepare is not Rule.prepare

    def learn(self, batch: Batch, epoch: int) -> Batch:
        """Forward and backward for one batch; gradients stay in ``.grad``. By default those of what `descended` gives.

        Nothing may go back below the segment: take ``batch.x.detach()``. Random numbers come from torch's global generator,
        which is seeded for this step alone.

        Args:
            epoch: how many the segment has learned from before.

        Returns:
            The batch with what the blocks put out on it, detached, as ``x`` (or of shape (0,) where it ``yields`` nothing) and
            ``loss`` (B,) filled, see `Batch.passed_on`.
        """
        descended, learned = self.descended(batch, epoch)
        descended.backward()
        return learned

    def descended(self, batch: Batch, epoch: int) -> tuple[Tensor, Batch]:
        """The same without the backward pass: a scalar, of which a step takes the gradients, and what `learn` returns.

        It changes nothing, so that many networks can learn by it as one (`stack_key`). Where a rule's gradients are no loss's,
        the scalar is a product of what it wants to go back with what that goes back from, and inner gradients are taken by
        ``torch.func``.
        """
        raise ConfigError(f"the rule {type(self).__name__} writes neither learn nor descended, see CONTRIBUTING.md")

    def stack_key(self, epoch: int) -> Hashable | None:
        """Rules of a class with equal keys learn as one by `descended`, their parameters and buffers stacked, see
        `training.stacked`; by default None: each by itself.

        A key holds all that `descended` depends on beside tensors: `form.stack_form` of the modules, the objective, and the
        epoch where it counts. What draws random numbers, or changes a buffer, has none.
        """
        return None

    def dense(self) -> Dense | None:
        """Its step written out, see `dense.written_out`, for optimizers that take products; None where there is none.

        It is of the rule as it is when the first step is taken, and gives `learn`'s gradients, but for rounding.
        """
        return None

    @abstractmethod
    def predictor(self, chain: BlockChain) -> nn.Module:
        """The network from the chain's inputs to logits that is evaluated; the chain ends with the segment's last block."""

    def check(self, outputs: Tensor, wanted: int) -> None:
        """Raise a ConfigError where it does not go with what the blocks put out, or with so many outputs of the problem."""
        return

    def stand_ins(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What its backward pass takes in the place of which weights: (feedback, weights), of one shape, by the layer's name.

        Detached. {} where it goes back by the weights themselves.
        """
        return {}

    def activations(self, x: Tensor, local: bool = False) -> Iterator[Tensor]:
        """What each block puts out, from the bottom up.

        local: each block gets what the one below put out without its graph, so that a backward pass ends at the block's input.
        """
        for i, block in enumerate(self.blocks):
            call = self._compiled[i] if self._compiled else block
            x = x.detach() if local else x
            if self.checkpoint in ("parts", "channels"):
                x = in_parts(block, x, self.hardware.autocast, self.checkpoint == "channels")
            else:
                again = i in self.checkpoint if isinstance(self.checkpoint, tuple) else self.checkpoint
                x = checkpointed(block, x, call) if again else call(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """What the last block puts out."""
        for x in self.activations(x):  # noqa: B007, B020 an activation may go as soon as the next is there
            pass
        return x

    def compile_blocks(self) -> None:
        """From now on call the blocks as torch.compile makes them; the modules stay what they are."""
        self._compiled = tuple(Compiled(block) for block in self.blocks)


def checked(rule: Rule, has_products: Callable[[], bool] = lambda: False) -> Callable[[Batch, int], Batch]:
    """`Rule.learn`, held to what it promises. For a single step: it takes a little more time, and holds a sample.

    has_products: whether it left gradients as products, see `products.TakesProducts`.

    Raises:
        ConfigError: it left no gradient, gave no loss of each sample, or its x is not what its blocks put out.
    """

    def learn(batch: Batch, epoch: int) -> Batch:
        made: list[Tensor] = []
        # A compiled block would be compiled anew with the hook, which breaks its graph.
        last = nn.Identity() if rule._compiled else rule.blocks[-1]
        hook = last.register_forward_hook(lambda module, args, out: made.append(out.detach()[:1].clone()))
        try:
            found = rule.learn(batch, epoch)
        finally:
            hook.remove()
        name = type(rule).__name__
        if found.loss is None or found.loss.shape != (len(batch),):
            raise ConfigError(
                f"the rule {name} gives no loss of each sample: return batch.passed_on(outputs.detach(), loss.detach()) with a "
                "loss of shape (B,)"
            )
        if found.loss.requires_grad or found.x.requires_grad:
            raise ConfigError(
                f"the rule {name} passes on a graph, which would be held until the epoch ends: return "
                "batch.passed_on(outputs.detach(), loss.detach())"
            )
        if not has_products() and not any(p.grad is not None for p in rule.parameters()):
            raise ConfigError(
                f"the rule {name} left no gradient in a step: its learn ends with a backward pass, or fills .grad"
            )
        plain = [out for out in made if not torch._C._functorch.is_functorch_wrapped_tensor(out)]
        if found.x.numel() and plain and not any(_same(found.x[:1], out) for out in plain):
            raise ConfigError(
                f"the rule {name} passes on something else than what its last block put out: return "
                "batch.passed_on(outputs.detach(), loss.detach())"
            )
        return found

    return learn


def _same(a: Tensor, b: Tensor) -> bool:
    """Where neither is a number, too."""
    return a.shape == b.shape and bool(torch.equal(a.double().nan_to_num(), b.double().nan_to_num()))
