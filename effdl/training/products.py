"""Products: gradients of linear layers' weights that are not written down, but multiplied straight into what is updated."""

from abc import ABC
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from effdl.training.called import called

# (N, out) and (N, in): the gradient of weights (out, in) is the first, transposed, times the second
Product = tuple[Tensor, Tensor]


class TakesProducts(torch.optim.Optimizer, ABC):
    """An optimizer that takes gradients as products.

    ``waiting``: those of the next step, by weight; they come on top of what is in ``.grad``.
    """

    waiting: dict[Tensor, list[Product]]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.waiting = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Gradients are forgotten, whatever is said; without torch's profiling around, which a small step feels."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
        self.waiting.clear()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, wait: Callable[[Product], None]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wait = wait
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        ctx.wait((rows, x.reshape(-1, x.shape[-1])))
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return of_x, None, rows.sum(0) if ctx.needs_input_grad[2] else None, None


def linear_layers(module: nn.Module, optimizer: TakesProducts) -> list[nn.Linear]:
    """Those whose weights the optimizer updates."""
    learning = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    return [part for part in module.modules() if type(part) is nn.Linear and id(part.weight) in learning]


def into_products(layers: Iterable[nn.Linear], optimizer: TakesProducts) -> AbstractContextManager[None]:
    """Within, forward and backward passes leave products for the weights of these layers, and gradients for all else.

    Where autocast computes in another type than the weights', they leave gradients as ever.
    """
    return called({layer: partial(_forward, layer, optimizer.waiting, layer.forward) for layer in layers})


def _forward(layer: nn.Linear, waiting: dict[Tensor, list[Product]], forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled() or x.dtype != layer.weight.dtype or torch.is_autocast_enabled(x.device.type):
        return forward(x)
    wait = waiting.setdefault(layer.weight, []).append
    made: Tensor = _Linear.apply(x, layer.weight, layer.bias, wait)
    return made
