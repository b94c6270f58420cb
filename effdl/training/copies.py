"""Copies of modules and learners on other tensors: fake ones, or ones of another type."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from effdl.training.hardware import Hardware
from effdl.training.learner import Learner

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def clone(thing: T, convert: Callable[[Tensor], Tensor]) -> T:
    """A deep copy whose parameters, buffers and optimizer state are ``convert``-ed: fake ones take no memory."""
    return copy.deepcopy(thing, converted(thing, convert))


def converted(thing: object, convert: Callable[[Tensor], Tensor]) -> dict[int, Any]:
    """What `copy.deepcopy` is to put in the place of each parameter, buffer and tensor of an optimizer's state, by its id."""
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for module in _modules(thing):
            memo |= {id(p): nn.Parameter(convert(p), p.requires_grad) for p in module.parameters()}
            memo |= {id(b): convert(b) for b in module.buffers()}
        if isinstance(thing, Learner):
            memo |= {id(t): convert(t) for t in held(thing.optimizer)}
    return memo


def held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors of its state."""
    return [leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor)]


def counters(thing: object) -> list[Tensor]:
    """Of a learner's optimizer what counts steps: on the CPU, to be read as a number, as Adagrad's are before the first."""
    tensors = held(thing.optimizer) if isinstance(thing, Learner) else []
    return [tensor for tensor in tensors if tensor.dim() == 0 and tensor.device.type == "cpu"]


def tensors_of(thing: object) -> Iterator[Tensor]:
    """Parameters and buffers of a module or learner, and its optimizer's state."""
    for module in _modules(thing):
        yield from module.parameters()
        yield from module.buffers()
    if isinstance(thing, Learner):
        yield from held(thing.optimizer)


def _modules(thing: object) -> list[nn.Module]:
    return [thing.rule] if isinstance(thing, Learner) else [thing]  # type: ignore[list-item]


def matched(like: Tensor, module: M, is_outline: bool, hardware: Hardware) -> M:
    """The module on this tensor's device, of its type, in the hardware's layout."""
    if not is_outline:
        return hardware.place(module.to(dtype=like.dtype), like.device)
    if all((p.device, p.dtype) == (like.device, like.dtype) for p in module.parameters()):
        return module
    # `to` exchanges parameters, which fake ones do not take
    return clone(module, lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))
