"""Affine and convolutional layers whose backward pass takes other weights than their forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from effdl.errors import ConfigError
from effdl.training.recompute import NORMS

CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: conv1d_input,
    nn.Conv2d: conv2d_input,
    nn.Conv3d: conv3d_input,
}
# Whose weights scale each feature by itself, or take nothing back, so that there is no transpose to do without
AS_THEY_ARE = (*NORMS, nn.PReLU, nn.Embedding)


def through(y: Tensor, x: Tensor, weight: Tensor, layer: nn.Module) -> Tensor:
    """y, what a layer makes of x without its graph; from here x gets its gradient through ``weight``, of the layer's shape.

    The layer's own weight and bias get theirs by y's graph, as ever.
    """
    same: Tensor = _Through.apply(y, x, weight, layer)
    return same


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, layer: nn.Module) -> Tensor:
        ctx.mark_dirty(y)  # itself and no view of it, which an in-place activation could not overwrite
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        ctx.save_for_backward(weight)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        found = input_gradient(ctx.layer, ctx.shape, weight.to(gradients[0].dtype), gradients[0])
        return gradients[0], found.to(ctx.dtype), None, None


def input_gradient(layer: nn.Module, shape: Sequence[int], weight: Tensor, gradient: Tensor) -> Tensor:
    """Of what an affine or convolutional layer gets, of this shape: its outputs' gradient, taken back through ``weight``."""
    if isinstance(layer, nn.Linear):
        return gradient @ weight
    geometry: Any = layer
    padding = geometry.padding if not isinstance(geometry.padding, str) else _same(geometry)
    call = CONVOLUTIONS[type(layer)]
    return call(list(shape), weight, gradient, geometry.stride, padding, geometry.dilation, geometry.groups)


def _same(layer: Any) -> list[int]:
    """Padding on each side where it is given as a word."""
    return [0 if layer.padding == "valid" else d * (k - 1) // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]


def layers(blocks: nn.Sequential, head: nn.Module) -> dict[str, nn.Module]:
    """The affine and convolutional layers of blocks and head, by name, in their order; a block with one has its own name.

    Raises:
        ConfigError: a module has weights in another way, so that what goes back through them cannot be chosen.
    """
    found: dict[str, nn.Module] = {}
    for block, part in [*blocks.named_children(), ("head", head)]:
        within = [
            (name, module) for name, module in part.named_modules() if next(iter(module.parameters(False)), None) is not None
        ]
        mine = [(name, module) for name, module in within if _is_layer(block, name, module)]
        found |= {block if len(mine) == 1 else f"{block}.{name}": module for name, module in mine}
    return found


def _is_layer(block: str, name: str, module: nn.Module) -> bool:
    """Whether its backward pass can take another weight; False where it has none to take. Raises ConfigError."""
    if isinstance(module, AS_THEY_ARE):
        return False
    own = next(key for key, _ in module.named_parameters(recurse=False))
    what = f"{f'{name}.' if name else ''}{own} of a {type(module).__name__}"
    where = f"method: {what}, in {'the head' if block == 'head' else f'block {block}'},"
    instead = "method=dfa takes any block"
    if type(module) is not nn.Linear and type(module) not in CONVOLUTIONS:
        raise ConfigError(
            f"{where} is no weight of an nn.Linear or a convolution, so that feedback in its place is not defined; {instead}"
        )
    geometry: Any = module
    if type(module) is not nn.Linear and (geometry.padding_mode != "zeros" or _is_lopsided(geometry)):
        raise ConfigError(
            f"{where} goes with another padding than as many zeros on each side, through which nothing is fed back; {instead}"
        )
    return True


def _is_lopsided(layer: Any) -> bool:
    return layer.padding == "same" and any(d * (k - 1) % 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
