"""The backward pass of a convolution, its normalisation and activation, a few output channels at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Autocast = Callable[[], AbstractContextManager[Any]]
GROUPS = 4
# What treats every channel by itself, and has no weights
FOLLOWING = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.Tanh, nn.Sigmoid,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip


def by_channels(sequence: nn.Sequential, autocast: Autocast = nullcontext) -> Callable[[Tensor], Tensor] | None:
    """The sequence, in training mode, as one function, where it holds convolutions that batch normalisation follows; else None.

    Of a convolution, its normalisation and what follows them channel by channel only the input is kept. The backward pass works
    them out again for a quarter of the output channels at a time. Outputs are the same bits, gradients the same up to rounding.
    """
    parts = list(_parts(list(sequence)))
    if type(sequence).forward is not nn.Sequential.forward or all(isinstance(part, nn.Module) for part in parts):
        return None

    def forward(x: Tensor) -> Tensor:
        for part in parts:
            if isinstance(part, nn.Module):
                x = part(x)
            else:
                x = _ByChannels.apply(x, part, autocast, *_weights(part[0]), *_weights(part[1]))
        return x

    return forward


Layers = list[nn.Module]  # a convolution, its normalisation, and what follows


def _parts(modules: Sequence[nn.Module]) -> Iterator[nn.Module | Layers]:
    """Modules, and runs of them that are worked out by channels."""
    place = 0
    while place < len(modules):
        end = place + 2
        if not (_is_plain(modules[place]) and end <= len(modules) and _normalises(modules[place + 1])):
            yield modules[place]
            place += 1
            continue
        while end < len(modules) and type(modules[end]) in FOLLOWING:
            end += 1
        yield list(modules[place:end])
        place = end


def _is_plain(module: nn.Module) -> bool:
    """Whether an output channel comes from all inputs, or from that one alone."""
    if type(module) is not nn.Conv2d or hasattr(module, "parametrizations") or isinstance(module.padding, str):
        return False
    depthwise = module.groups == module.in_channels == module.out_channels
    return module.padding_mode == "zeros" and (module.groups == 1 or depthwise)


def _normalises(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.training and module.affine


def _weights(module: nn.Module) -> list[Tensor]:
    return list(module.parameters())


class _ByChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Layers, autocast: Autocast, *weights: Tensor) -> Tensor:
        ctx.layers, ctx.autocast = layers, autocast
        out = x
        for layer in layers:
            out = layer(out)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        conv, of_x = ctx.layers[0], ctx.needs_input_grad[0]
        weights = [*_weights(conv), *_weights(ctx.layers[1])]
        found = [torch.empty_like(weight) for weight in weights]
        whole = torch.zeros_like(x) if of_x else None
        size = -(-conv.out_channels // GROUPS)
        for start in range(0, conv.out_channels, size):
            channels = slice(start, start + size)
            fed = (x if conv.groups == 1 else x[:, channels]).detach().requires_grad_(of_x)
            some = [weight.detach()[channels].requires_grad_() for weight in weights]
            got = _gradients(ctx, fed, some, gradient[:, channels])
            for put, one in zip(found, got[-len(found) :], strict=True):
                put[channels] = one
            if whole is not None:
                (whole if conv.groups == 1 else whole[:, channels]).add_(got[0])
        return whole, None, None, *found


def _gradients(ctx: Any, x: Tensor, weights: list[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Of x, where it asks for one, and of the weights of some channels."""
    conv, norm, *following = ctx.layers
    bias = weights[1] if conv.bias is not None else None
    groups = 1 if conv.groups == 1 else len(weights[0])
    with torch.enable_grad(), ctx.autocast():
        out = F.conv2d(x, weights[0], bias, conv.stride, conv.padding, conv.dilation, groups)
        out = F.batch_norm(out, None, None, weights[-2], weights[-1], training=True, eps=norm.eps)
        for module in following:
            out = module(out)
    return torch.autograd.grad(out, [*([x] if x.requires_grad else []), *weights], gradient)
