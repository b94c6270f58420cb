"""The largest entries of a tensor, alone, with their places: sparsified sending, as §3.1 has it beside quantisation."""

import math

import torch
from torch import Tensor


def largest(tensor: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(places, values) of the ⌈share·n⌉ entries of largest magnitude, of at least one; places rise.

    Places are int32 (k,), or the bits of a mask as bytes, uint8 (⌈n/8⌉,), whichever is shorter.

    Args:
        tensor: of at least one and at most 2^31 entries, of any shape.
        share: over 0, to 1.

    Example:
        >>> largest(torch.tensor([1.0, -3.0] + [0.5] * 98), share=0.01)
        (tensor([1], dtype=torch.int32), tensor([-3.]))
    """
    flat = tensor.reshape(-1)
    count = min(len(flat), max(1, math.ceil(share * len(flat))))
    places = flat.abs().topk(count, sorted=False).indices.sort().values
    if 32 * count <= len(flat):
        return places.int(), flat[places]
    mask = torch.zeros(-(-len(flat) // 8) * 8, dtype=torch.uint8, device=flat.device)
    mask[places] = 1
    return (mask.view(-1, 8) * _BITS.to(flat.device)).sum(1, dtype=torch.uint8), flat[places]


def spread(places: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """A tensor of the shape of ``like`` with the values at their places and 0 elsewhere.

    Raises ValueError where there are no such places.
    """
    flat = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
    at = places.to(like.device)
    if places.dtype == torch.uint8:
        if len(places) != -(-len(flat) // 8):
            raise ValueError("the mask of a sparse tensor is of another")
        at = (at[:, None] & _BITS.to(like.device)).reshape(-1).nonzero().view(-1)
    at = at.long()
    if len(at) != len(values) or (len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(flat)):
        raise ValueError("a sparse tensor has places that it has no values for, or that there are none of")
    flat[at] = values.to(flat)
    return flat.view_as(like)


_BITS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
