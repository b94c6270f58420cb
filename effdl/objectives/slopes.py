"""Losses that are worked out together with their slopes, so that a backward pass has nothing left to do but multiply."""

from typing import Any, Protocol

import torch
from torch import Tensor

from effdl.objectives.objective import Objective, at_least_float32, kind_of

CHUNK = 2**18  # outputs of images that are worked on at once: what a core's cache holds, a third faster than all of them


class Sloped(Protocol):
    """Losses of outputs x (B, K, ...) and targets y (B, ...) or (B, K), one for each of (B, ...), see `objectives.coded`."""

    def losses_and_slopes(self, x: Tensor, y: Tensor, most: float) -> tuple[Tensor, Tensor]:
        """Losses and, new, ∂ℓ/∂x, none beyond ``most``; x in float32 or float64."""

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        """∂ℓ/∂x again, to be differentiated."""


def with_slopes(objective: Sloped, outputs: Tensor, y: Tensor) -> Tensor:
    """Losses (B, ...) of outputs (B, K, ...), in their dtype. Of half precision they are worked out in float32.

    For the backward pass one tensor is kept, of the size of the outputs. It may itself be differentiated, and all of it be
    mapped by torch.func.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(outputs):
        return _Mapped.apply(outputs, y, objective)[0]  # type: ignore[no-any-return]
    return _WithSlopes.apply(outputs, y, objective)  # type: ignore[no-any-return]


class _WithSlopes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, objective: Sloped) -> Tensor:
        ctx.objective = objective
        losses, slopes = _all_worked(objective, x, y)
        ctx.save_for_backward(x, y, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor, None, None]:
        x, y, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants a gradient of this gradient
            slopes = ctx.objective.slope(x, y)
        return slopes * of_losses.unsqueeze(1), None, None


class _Mapped(torch.autograd.Function):
    """The same for torch.func, in the form that it asks for, by which a call takes longer than a small loss may."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, objective: Sloped) -> tuple[Tensor, Tensor]:
        return _all_worked(objective, x, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, y, ctx.objective = inputs
        ctx.save_for_backward(x, y, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor, _: Any) -> tuple[Tensor, None, None]:
        return _WithSlopes.backward(ctx, of_losses)


def _all_worked(objective: Sloped, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and slopes, of images some rows at a time."""
    if x.dim() == 2:
        return _worked(objective, x, y)
    if kind_of(y) == "pixels":
        y = y.masked_fill(y == Objective.ignore_index, 0)
    losses, slopes = x.new_empty(x.shape[0], *x.shape[2:]), torch.empty_like(x)
    rows = max(1, CHUNK // max(1, x[0, :, 0].numel()))
    for i in range(len(x)):
        for at in range(0, x.shape[2], rows):
            part = slice(i, i + 1), slice(at, at + rows)
            whole = part[0], slice(None), part[1]
            losses[part], slopes[whole] = _worked(objective, x[whole], y[part])
    return losses, slopes


def _worked(objective: Sloped, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    most = torch.finfo(x.dtype).max
    losses, slopes = objective.losses_and_slopes(at_least_float32(x), y, most)
    losses = losses.clamp(-most, most)
    if slopes.dtype == x.dtype:
        return losses, slopes
    return losses.to(x.dtype), slopes.clamp_(-most, most).to(x.dtype)
