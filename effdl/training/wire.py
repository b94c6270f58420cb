"""Wire: the forms in which weights, or changes of them, go from process to process."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from effdl.compression import contents, decode, encode
from effdl.compression.content import from_raw, raw

Coded = Literal["plain", "huffman", "ans", "zstd", "auto"]
Form = Literal["tensors", "lossless", "float16", "bfloat16", "plain", "huffman", "ans", "zstd", "auto"]
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
BESIDE = 2**16  # bytes of a packet beside its tensors' own, and 512 more for each of these


class Wire:
    """Tensors by name as bytes, and back.

    Args:
        form: "tensors" one behind another, unchecked; a packet of them exact ("lossless") or in half precision; or of quantised
            matrices, by a coder.
        bits: of quantised ones, by default chosen by the entropy.
    """

    def __init__(self, form: Form, bits: int | None = None) -> None:
        self.form, self.bits = form, bits

    @property
    def quantises(self) -> bool:
        return self.form in get_args(Coded)

    @property
    def is_exact(self) -> bool:
        return self.form in ("tensors", "lossless")

    def write(self, tensors: Mapping[str, Tensor]) -> bytes:
        if self.form == "tensors":
            return b"".join(map(raw, tensors.values()))
        if self.quantises:
            return encode(tensors, self.bits, self.form)
        dtype = HALF.get(self.form)
        return encode({name: t if dtype is None else t.to(dtype) for name, t in tensors.items()}, bits={})

    def read(self, data: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As ``like`` in names, shapes, types and devices. Raises ValueError where it is not what was written."""
        if self.form == "tensors":
            found, view, at = dict[str, Tensor](), memoryview(data), 0
            for name, tensor in like.items():
                found[name] = from_raw(view[at : at + tensor.nbytes], tuple(tensor.shape), tensor.dtype).to(tensor.device)
                at += tensor.nbytes
            if at != len(data):
                raise ValueError("it has more bytes than there are tensors for")
            return found
        dtype = HALF.get(self.form)
        sent = {n: t if dtype is None else torch.empty(t.shape, dtype=dtype, device="meta") for n, t in like.items()}
        return {name: t.to(like[name]) for name, t in decode(data, sent).items()}

    def most(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes that what is written of such tensors can have."""
        return sum(t.nbytes + 512 + len(name) for name, t in tensors.items()) + BESIDE


def taken(packet: bytes) -> str | None:
    """The coder of most of what a packet holds; None where nothing was worth to be coded."""
    by_kind = dict[str, int]()
    for layer in contents(packet):
        if layer.bits:
            by_kind[layer.kind] = by_kind.get(layer.kind, 0) + layer.bytes
    return max(by_kind, key=by_kind.__getitem__, default=None)
