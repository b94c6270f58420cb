"""Direct feedback alignment: every block learns from the output's error through a matrix of its own."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from effdl.archs.linear import LinearLayer, linear_layer
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective, at_least_float32
from effdl.training.dense import Dense, written_out
from effdl.training.feedback_rule import FeedbackRule
from effdl.training.form import stack_form
from effdl.training.recompute import Recompute


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, feedback: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = h.shape, h.dtype
        ctx.save_for_backward(feedback)
        return at_least_float32(h[:0]).new_zeros(()).expand(len(h), len(feedback))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None]:
        (feedback,) = ctx.saved_tensors
        return (error @ feedback.to(error.dtype)).view(ctx.shape).to(ctx.dtype), None


def tied(h: Tensor, feedback: Tensor) -> Tensor:
    """Zeros in the place of logits, for which h (B, ...) gets the gradient e B: of theirs, e (B, K), by B (K, features).

    Added to logits they change none, and bring h their error. They take no memory, and since they are tied block by block as
    the forward pass goes up, the backward pass is through with one block before it begins with the next below.
    """
    if _is_mapped(h):  # whose transforms want operations that they know, for more work
        product = at_least_float32(h).flatten(1) @ feedback.T
        return product - product.detach()
    zeros: Tensor = _Tied.apply(h, feedback)
    return zeros


def _is_mapped(h: Tensor) -> bool:
    """Whether torch.func looks on; then the tensor itself does not tell whether somebody wants its gradient."""
    return torch._C._functorch.is_functorch_wrapped_tensor(h)


class DirectFeedback(FeedbackRule):
    """∂L/∂h_i = e B_i for what block i puts out, e = ∂L/∂logits (Nøkland 2016); within a block by its own derivatives.

    So of the thesis' one hidden layer ∂L/∂W₁ = Xᵀ[(ŷ − y)B ⊙ f′(a₁)] (Demirbilek, §1.2, where the order of the factors is
    misprinted). The head learns by its true gradient. Where it has no weights, the last block is the output layer and does.

    Args:
        feedback: B_i (K, features) of each block that is no output layer, from the bottom up; None: the product of the weights
            above, which is the transpose that backpropagation takes, at each step as it is.

    Raises:
        ConfigError: feedback is None, and what is above a block is no matrix.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        head: nn.Module,
        objective: Objective,
        feedback: Sequence[Tensor] | None,
        checkpoint: Recompute = False,
    ) -> None:
        super().__init__(blocks, head, objective, feedback, checkpoint)
        self.hidden = hidden(blocks, head)
        if self.follows:
            self._check_transposes()

    def feedback(self) -> list[Tensor]:
        """B_i of each block that is no output layer."""
        if self.follows:
            return [product.detach() for product in self._products() if product is not None]
        return [self.matrix(i) for i in range(self.hidden)]

    def stack_key(self, epoch: int) -> Hashable | None:
        """Where matrices are drawn: those of the weights above are no buffers."""
        if self.follows or self.yields or self.checkpoint or self._compiled or self.hardware.precision == "bf16":
            return None
        form = stack_form(self.blocks, self.head)
        return None if form is None else (form, self.objective)

    def dense(self) -> Dense | None:
        if self.follows or self.checkpoint:
            return None
        return written_out(self.blocks, self.head, self.objective, lambda place, error, *above: error @ self.matrix(place))

    def passed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        matrices, ties, h = self.feedback(), list[Tensor](), x
        for i, h in enumerate(self.activations(x, local=True)):
            if i < self.hidden and (h.requires_grad or _is_mapped(h)):
                ties.append(tied(h, matrices[i]))
        logits = at_least_float32(self.head(h.detach() if self.hidden == len(self.blocks) else h))
        for tie in ties:
            logits = logits + tie
        return h, logits

    def stand_ins(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each block under linear layers its feedback beside the product of their weights, W_head W_L ... W_{i+1}.

        Activations between them are not counted, as usual (Refinetti et al. 2021).
        """
        pairs = zip(self._names(), self.feedback(), self._products(), strict=True)
        return {
            name: (matrix, product.detach())
            for name, matrix, product in pairs
            if product is not None and product.shape == matrix.shape
        }

    def _names(self) -> list[str]:
        return [name for name, _ in self.blocks.named_children()][: self.hidden]

    def _above(self) -> list[tuple[str, nn.Module]]:
        """What is above the lowest block, from the top down."""
        named = list(self.blocks.named_children())
        return [("head", self.head), *reversed(named[1:])][len(named) - self.hidden :]

    def _products(self) -> list[Tensor | None]:
        """Of each block, from the bottom up, the product of the weights above it; None where one above is no linear layer."""
        found: list[Tensor] = []
        for name, part in self._above():
            try:
                weight = linear_layer(name, part).linear.weight
            except ConfigError:
                break
            if found and found[-1].shape[1] != len(weight):
                break
            found.append(weight if not found else found[-1] @ weight)
        return [*[None] * (self.hidden - len(found)), *reversed(found)]

    def _check_transposes(self) -> None:
        instead = "method=fa method.feedback=transpose is backpropagation through any layers"
        if self.hidden < len(self.blocks) and not isinstance(self.head, nn.Identity | nn.Flatten):
            raise ConfigError(f"method.feedback=transpose: the head is a {type(self.head).__name__} without weights; {instead}")
        for name, part in self._above():
            what = "the head" if part is self.head else f"block {name}"
            try:
                layer = linear_layer(name, part)
            except ConfigError:
                raise ConfigError(
                    f"method.feedback=transpose: {what} is not one linear layer, so no matrix is its backward pass; {instead}"
                ) from None
            if bent := _bent(layer):
                raise ConfigError(
                    f"method.feedback=transpose: {what} has a {bent}, so no matrix is its backward pass; {instead}"
                )


def hidden(blocks: nn.Sequential, head: nn.Module) -> int:
    """How many blocks are no output layer: all, or where the head has no weights all but the last."""
    return len(blocks) - (next(head.parameters(), None) is None)


def widths(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Features of each block's output, of these shapes for one sample."""
    return [math.prod(shape) for shape in shapes]


def _bent(layer: LinearLayer) -> str | None:
    """What in a linear layer is not linear, by its class."""
    around = (*layer.before, *layer.after)
    return next((type(part).__name__ for part in around if not isinstance(part, nn.Flatten | nn.Identity)), None)
