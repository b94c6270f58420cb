"""What a forward pass saves for the backward pass lies on the host or on disk until that needs it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from effdl.training.offload import Offload

_numbers = count()


@contextmanager
def saved_away(offload: Offload | None, staying: Callable[[], Iterable[Tensor]]) -> Iterator[None]:
    """Within, tensors that autograd saves leave the device, and come back one by one as the backward pass asks for them.

    As torch.autograd.graph.save_on_cpu, but to the disk too, and without those that stay. Of a block that is recomputed only
    its input is saved, so that what is left on the device is about one block's activations.

    Args:
        offload: where they lie; None, or one by which nothing moves, leaves them where they are.
        staying: tensors whose memory is there all the same: weights, buffers, the batch.
    """
    if offload is None or not offload.moves:
        yield
        return
    stay = {_address(tensor) for tensor in staying()}

    def pack(tensor: Tensor) -> "Tensor | _Away":
        if _address(tensor) in stay or tensor.numel() == 0:
            return tensor
        return _Outline(tensor) if offload.outline else _Laid(offload, tensor)

    def unpack(saved: "Tensor | _Away") -> Tensor:
        return saved if isinstance(saved, Tensor) else saved.back()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


class _Away(Protocol):
    def back(self) -> Tensor:
        """The tensor, on the device."""


class _Laid:
    """A tensor's numbers off the device, and its form there."""

    def __init__(self, offload: Offload, tensor: Tensor) -> None:
        dense = _dense(tensor.detach())
        self._dtype, self._shape, self._strides, self._device = dense.dtype, dense.shape, dense.stride(), dense.device
        flat = dense.as_strided((dense.numel(),), (1,))
        self._held = offload.lay(f"{next(_numbers)}-saved", [flat.view(torch.uint8)])

    def back(self) -> Tensor:
        (data,) = self._held.read()
        return data.to(self._device).view(self._dtype).as_strided(self._shape, self._strides)


class _Outline:
    """The form of a fake tensor, of which only the bytes are asked for."""

    def __init__(self, tensor: Tensor) -> None:
        dense = _dense(tensor.detach())
        self._dtype, self._shape, self._strides, self._device = dense.dtype, dense.shape, dense.stride(), dense.device

    def back(self) -> Tensor:
        return torch.empty_strided(self._shape, self._strides, dtype=self._dtype, device=self._device)


def _dense(tensor: Tensor) -> Tensor:
    """Itself where its numbers lie without gaps, in the order of dimensions or of channels last; else a copy that does."""
    formats = [torch.contiguous_format, *([torch.channels_last] if tensor.dim() == 4 else [])]
    return tensor if any(tensor.is_contiguous(memory_format=form) for form in formats) else tensor.contiguous()


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
