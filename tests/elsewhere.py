"""A stand-in for a GPU: tensors on the `meta` device, which hold no values, under a mode that refuses whatever a GPU would.

What runs under it makes no tensor on the wrong device: an operation on tensors of two devices raises, as on a GPU, but for
what torch lets through there as well. Where values would have to come back, made-up ones do.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
ELSEWHERE = torch.device("meta")
TRANSFERS = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.index_put.default)


class Elsewhere(TorchDispatchMode):
    """Within, `meta` is a device like any other. operations: how many it has seen there."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [t for t in tensors if t.device == ELSEWHERE]
        self.operations += bool(there)
        if there and func not in TRANSFERS:
            here = [t for t in _strict(func, args, tensors) if t.device != ELSEWHERE and t.dim() > 0]
            if here:
                raise RuntimeError(f"{func}: a tensor of shape {[*here[0].shape]} is on the CPU, others are on the device")
        return self._values(func, args, kwargs) if there else func(*args, **kwargs)

    def _values(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation; where its answer depends on values, a made-up one of the right form."""
        if func is aten._local_scalar_dense.default:
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        if func is aten.nonzero.default:
            return args[0].new_empty((max(1, args[0].numel() // 2), args[0].dim()), dtype=torch.long)
        if func is aten.bincount.default:
            return torch.ones(args[2] if len(args) > 2 else kwargs["minlength"], dtype=torch.long, device=ELSEWHERE)
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or ELSEWHERE) != ELSEWHERE:
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=kwargs["device"])
        return func(*args, **kwargs)


def _strict(func: Any, args: Any, tensors: list[Tensor]) -> Iterator[Tensor]:
    """Arguments that must be where the others are: not the positions of an indexing operation, which may be on the CPU."""
    yield from [args[0]] if func in INDEXED else tensors
