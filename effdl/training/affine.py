"""Affine layers of many networks as one product: three batched products forward and backward, and no copy between."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Stacked(torch.autograd.Function):
    """x Wᵀ + b of each member: (members, B, in), (members, out, in) and (members, out) -> (members, B, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        product = weight.transpose(1, 2)
        return torch.bmm(x, product) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """gᵀ x is laid out as the weights are: autograd's own of a transposed product is not, and would be copied."""
        (gradient,), (x, weight), needs = gradients, ctx.saved_tensors, ctx.needs_input_grad
        of_x = torch.bmm(gradient, weight) if needs[0] else None
        of_weight = torch.bmm(gradient.transpose(1, 2), x) if needs[1] else None
        return of_x, of_weight, gradient.sum(1) if needs[2] else None


class _Affine(torch.autograd.Function):
    """`torch.nn.functional.linear` for x (B, in), which ``torch.func.vmap`` maps by `_Stacked`."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight, gradients[0].T @ x, gradients[0].sum(0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> tuple[Tensor, int]:
        first = [
            None if tensor is None else tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims, strict=True)
        ]
        return _Stacked.apply(*first), 0


class Affine(nn.Module):
    """A linear layer that is called for many networks at once, with its parameters' names."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = _Affine.apply(x, self.weight, self.bias)
        return out


def stackable(module: nn.Module) -> nn.Module:
    """The module with its linear layers put in such a form, itself or within."""
    if type(module) is nn.Linear:
        return Affine(module)
    for name, part in module.named_children():
        setattr(module, name, stackable(part))
    return module
