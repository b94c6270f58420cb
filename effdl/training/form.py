"""What can be told of a module without running it: its plain attributes, and the form of its tensors."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.setting import Setting

OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}  # of every module, and described by their content
PLAIN = (int, float, str, bool, type(None), torch.dtype, torch.device)


def is_plain(value: Any) -> bool:
    """Whether the value's repr says all of it."""
    if type(value) in (list, tuple, torch.Size):
        return all(map(is_plain, value))
    if type(value) in (dict, OrderedDict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    return type(value) in PLAIN or isinstance(value, Setting)


def form_of(*modules: nn.Module) -> tuple[Any, ...] | None:
    """All that the memory of a training step of these modules depends on: equal forms, equal bytes; None if it cannot be told.

    Of numbers that are no whole ones (rates, momenta) only the sign counts, and whether they are 1.
    """
    form: list[Any] = []
    for name, part in nn.ModuleList(modules).named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(part).items() if key not in OWN and not _is_empty(value)}
        if not is_plain(own):
            return None
        tensors = [
            (key, t is not None and (t.shape, t.dtype, t.stride(), t.requires_grad))
            for key, t in (*part._parameters.items(), *part._buffers.items())
        ]
        attributes = repr(sorted((key, _rough(value)) for key, value in own.items()))
        form.append((name.count("."), type(part), attributes, tuple(tensors)))
    return tuple(form)


# Modules that neither draw nor change anything, are called alike in both modes, and can be mapped by torch.func.vmap; one's own
# says so of itself, by ``stacks = True`` in its class.
STACKS = frozenset(
    {
        *(BlockChain, InputBlock, nn.ModuleList, nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, nn.LayerNorm),
        *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.CELU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.LeakyReLU),
    }
)


def stack_form(*modules: nn.Module) -> tuple[Any, ...] | None:
    """All that modules compute depends on, but for the values of their parameters and buffers: equal forms, and they can be
    called as one by ``torch.func.vmap``; None where it cannot be told, or not all of them are of `STACKS`."""
    form: list[Any] = []
    whole = nn.ModuleList(modules)
    tensors = [t for part in whole.modules() for t in (*part._parameters.values(), *part._buffers.values()) if t is not None]
    if len(tensors) != len(set(map(id, tensors))):  # of two that are one, a stack would make two
        return None
    for name, part in whole.named_modules(remove_duplicate=False):
        own = {k: v for k, v in vars(part).items() if k not in OWN and k != "training" and not _is_empty(v)}
        if not _stacks(type(part)) or own.get("inplace") or not is_plain(own):
            return None
        of = ((k, t) for k, t in (*part._parameters.items(), *part._buffers.items()))
        forms = tuple((k, t is not None and (t.shape, t.dtype, t.device, t.requires_grad)) for k, t in of)
        form.append((name, type(part), repr(sorted(own.items())), forms))
    return tuple(form)


def _stacks(kind: type[nn.Module]) -> bool:
    """A class that extends such a one says it anew."""
    return kind in STACKS or vars(kind).get("stacks") is True


def _is_empty(value: Any) -> bool:
    """Of the attributes of any module ten hold its hooks, of which there are mostly none."""
    return type(value) is OrderedDict and not value


def _rough(value: Any) -> Any:
    return value if type(value) is not float or value in (0.0, 1.0) else math.copysign(0.5, value)
