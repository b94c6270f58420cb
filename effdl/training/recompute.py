"""Recomputation finer than by block: what layers and normalisations put out is made again when the backward pass needs it."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from effdl.training.by_channels import Autocast, by_channels

Recompute = bool | Literal["block", "parts", "channels"] | tuple[int, ...]  # True: "block"; or only blocks at these places
LAYERS = (_ConvNd, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
# Activations whose gradient needs what they got: in place, they copy it first.
COPYING = (nn.SiLU, nn.Hardswish, nn.Mish, nn.Hardsigmoid)


def checkpointed(block: nn.Module, x: Tensor, call: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """block(x) whose activations are recomputed in the backward pass (Chen et al. 2016), dropout masks and all.

    call: the block as it is called, compiled for example.
    """
    out: Tensor = checkpoint(call or block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), still_statistics(block)))
    return out


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Within, training-mode normalisation leaves its running statistics alone: a recomputation would count twice."""
    norms = [m for m in module.modules() if isinstance(m, _NormBase)]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


def in_parts(block: nn.Module, x: Tensor, autocast: Autocast = nullcontext, channels: bool = False) -> Tensor:
    """block(x), for whose backward pass of layers only what they get is kept, besides what other parts save.

    What they and the normalisations put out is computed again, just as before, each time that it is needed: a convolution
    followed by normalisation and activation is worked out three times instead of once. While the backward pass is in one part
    of a block, the others hold one map for each of their layers. Of blocks that call their layers as functions nothing is
    spared.

    Args:
        autocast: in which it is called, to be entered for recomputation.
        channels: where layers are called in sequence, also a few channels at a time, see `by_channels`.
    """
    known = _Known(autocast)
    with ExitStack() as held:
        for part in block.modules():
            if isinstance(part, COPYING) and part.inplace:
                part.inplace = False
                held.callback(setattr, part, "inplace", True)
            elif _is_layer(part):
                held.callback(part.register_forward_pre_hook(known.keep).remove)
                held.callback(part.register_forward_hook(known.remember).remove)
            elif type(part) in NORMS:
                held.callback(part.register_forward_hook(known.remember).remove)
            if channels and isinstance(part, nn.Sequential) and (forward := by_channels(part, autocast)) is not None:
                part.forward = forward  # type: ignore[method-assign]
                held.callback(delattr, part, "forward")
        held.enter_context(torch.autograd.graph.saved_tensors_hooks(known.pack, known.unpack))
        out: Tensor = block(x)
    return out


def _is_layer(part: nn.Module) -> bool:
    """Whether its output depends on its input and weights alone."""
    return isinstance(part, LAYERS) and not (hasattr(part, "parametrizations") or part._forward_pre_hooks)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a tensor again: a module, and what it got, itself perhaps to be made."""

    module: nn.Module
    source: "Tensor | _Recipe"
    version: int

    def made(self) -> Tensor:
        """Raises RuntimeError where what the module got was overwritten since."""
        x = self.source.made() if isinstance(self.source, _Recipe) else self.source
        if isinstance(self.source, Tensor) and x._version != self.version:
            raise RuntimeError(f"what {type(self.module).__name__} got was modified by an inplace operation")
        with still_statistics(self.module):
            out: Tensor = self.module(x)
        return out


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor as it was put out."""

    recipe: _Recipe
    form: tuple[Any, ...]
    alive: "weakref.ref[Any]"


class _Known:
    """Of one forward pass what layers put out, as long as it is alive."""

    def __init__(self, autocast: Autocast) -> None:
        self._made: dict[int, _Made] = {}
        self._autocast = autocast

    def keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """What a layer gets is kept, however it was made: from it the layer's output is made again."""
        if args and isinstance(args[0], Tensor):
            self._made.pop(_address(args[0]), None)

    def remember(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
            return
        (x,) = args
        if (address := _address(out)) == _address(x):
            return
        recipe = _Recipe(module, self._recipe(x) or x.detach(), x._version)
        alive = weakref.ref(out.untyped_storage(), lambda _: self._made.pop(address, None))
        self._made[address] = _Made(recipe, _form(out), alive)

    def pack(self, tensor: Tensor) -> Tensor | _Recipe:
        return self._recipe(tensor) or tensor

    def unpack(self, packed: Tensor | _Recipe) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad(), self._autocast():
            return packed.made()

    def _recipe(self, tensor: Tensor) -> _Recipe | None:
        """How this tensor can be made; None where it is none of those, or was written to since."""
        made = self._made.get(_address(tensor))
        return made.recipe if made is not None and made.form == _form(tensor) else None


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor._version
