"""A state dict as one packet, and out of it again (Algorithms 1 and 2); `envelope` says how a packet is laid out."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.compression import content
from effdl.compression.bits import dynamic_bits
from effdl.compression.coders import CODERS
from effdl.compression.envelope import TYPES, Entry, Packet, entries, sealed, written
from effdl.compression.quantisation import FLOATS, Range, dequantise, quantise, value_range
from effdl.errors import shown
from effdl.neighbours.watching import Watch, unwatched

LEAST = 256  # weights of a layer that is quantised: fewer are hardly shorter than they are exact


@dataclass(frozen=True)
class Layer:
    """What a packet says of one tensor.

    kind: "raw", as it was; "constant"; else the coder of its levels.
    bits: N of its levels, 0 where it has none.
    bytes: of the packet that it takes, with name and all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    bits: int
    bytes: int


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are worth to be quantised: finite floats of two dimensions or more and at least 256 elements.

    Biases, normalisation and integer buffers are not among them, nor what has a value that is no number: `encode` sends these
    as they are.

    Example:
        >>> list(weights(torch.nn.Linear(50, 20).state_dict()))
        ['weight']
    """
    return {
        name: tensor
        for name, tensor in state.items()
        if tensor.dtype in FLOATS and tensor.dim() > 1 and tensor.numel() >= LEAST and _is_finite(tensor)
    }


def _is_finite(tensor: Tensor) -> bool:
    low, high = value_range([tensor])
    return math.isfinite(high - low)


def encode(
    state: Mapping[str, Tensor],
    bits: int | Mapping[str, int] | None = None,
    coder: str = content.AUTO,
    ends: Mapping[str, Range] | None = None,
    watch: Watch = unwatched,
) -> bytes:
    """A state dict as one packet (Algorithm 1).

    Args:
        state: dense tensors, on any device.
        bits: N of each layer that is to be quantised; others are sent as they are, bit for bit. One number is for all
            `weights`; `dynamic_bits` of these where nothing is said.
        coder: "huffman", "ans", "zstd", "plain" (N bits each), or "auto", see `content.from_levels`.
        ends: (w_min, w_max) of layers whose bins part another range than their own, see `value_range`.
        watch: is shown how far it is.

    Raises:
        ValueError: a tensor that is none, or not dense; a layer to be quantised that is not there, has no floats or not a range
            that can be parted; an unknown coder, or one whose package is not installed.

    Example:
        >>> packet = encode({"weight": torch.randn(100, 50)}, bits=8)
        >>> decode(packet)["weight"].shape
        torch.Size([100, 50])
    """
    if coder not in (content.AUTO, *CODERS):
        raise ValueError(f"coder: one of {content.AUTO}, {', '.join(CODERS)}, not {coder!r}")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in TYPES:
            raise ValueError(f"{shown(name)}: no dense tensor with values, which is all that a packet holds")
    if not isinstance(bits, Mapping):
        there = weights(state)
        bits = dynamic_bits(there, ends=ends) if bits is None else dict.fromkeys(there, bits)
    if missing := [name for name in bits if name not in state]:
        raise ValueError(f"{shown(missing[0])}: bits of a layer that is not there")
    body = [struct.pack("<I", len(state))]
    for name, tensor in watch(state.items(), len(state), "compressing layer"):
        kind, data = _content(name, tensor, bits.get(name), coder, None if ends is None else ends.get(name))
        body += written(name, tensor, kind, data)
    return sealed(b"".join(body))


def _content(name: str, tensor: Tensor, bits: int | None, coder: str, ends: Range | None) -> tuple[str, bytes]:
    exact = "raw", content.raw(tensor)
    if bits is None or not tensor.numel():
        return exact
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{shown(name)}: {tensor.dtype} is not quantised, only floats are")
    low, high = value_range([tensor])
    if low == high:
        return "constant", content.raw(tensor.reshape(-1)[:1])
    if not math.isfinite(high - low):
        raise ValueError(f"{shown(name)}: weights from {low} to {high} cannot be parted into bins; leave it out of bits")
    try:
        coded = content.from_levels(quantise(tensor, bits, ends), coder)[1]
    except ValueError as error:
        raise ValueError(f"{shown(name)}: {error}") from None
    return ("levels", coded) if len(coded) < len(exact[1]) else exact


def contents(packet: Packet) -> list[Layer]:
    """What a packet holds, without its tensors. Raises ValueError where it is none, is damaged or of a newer effdl.

    Example:
        >>> [(layer.name, layer.kind) for layer in contents(encode({"steps": torch.tensor(3)}))]
        [('steps', 'raw')]
    """
    found = list[Layer]()
    for one in entries(packet):
        kind, bits = one.kind, 0
        if kind == "levels":
            kind, bits = content.told(one.content)
        found.append(Layer(one.name, one.shape, one.dtype, kind, bits, one.bytes))
    return found


def decode(
    packet: Packet,
    like: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    watch: Watch = unwatched,
) -> dict[str, Tensor]:
    """The state dict that `encode` was given (Algorithm 2), the same bits on every machine.

    Nothing in it is carried out, and nothing is made that is larger than the packet's own bytes can be of: 256 elements each.

    Args:
        like: what the tensors must agree with, such as the receiver's own state dict, in names, shapes and types.
        device: of the tensors, and where their codes are read.

    Raises:
        ValueError: in one line, where it is no packet, is damaged, hostile or of a newer effdl, holds other layers than
            ``like``, or needs a package that is not installed.

    Example:
        >>> decode(encode({"steps": torch.tensor(3)}))
        {'steps': tensor(3)}
    """
    layers, target = list(entries(packet)), torch.device(device)
    if like is not None:
        _compare(layers, like)
    found = dict[str, Tensor]()
    for one in watch(layers, len(layers), "reading layer"):
        try:
            found[one.name] = _tensor(one, target)
        except ValueError as error:
            raise ValueError(f"packet: {shown(one.name)[:80]}: {error}") from None
    return found


def _tensor(entry: Entry, device: torch.device) -> Tensor:
    if entry.kind == "raw":
        return content.from_raw(entry.content, entry.shape, entry.dtype).to(device)
    if entry.dtype not in FLOATS or not math.prod(entry.shape):
        raise ValueError("only floats are quantised")
    if entry.kind == "constant":
        value = content.from_raw(entry.content[: entry.dtype.itemsize], (1,), entry.dtype)
        return value.to(device).expand(math.prod(entry.shape)).clone().view(entry.shape)
    return dequantise(content.to_levels(entry.content, entry.shape, device), entry.dtype)


def _compare(layers: list[Entry], like: Mapping[str, Tensor]) -> None:
    """Raises ValueError where they are not of the same layers."""
    theirs = {one.name: one for one in layers}
    if strange := [*(name for name in theirs if name not in like), *(name for name in like if name not in theirs)]:
        raise ValueError(f"packet: {shown(strange[0])[:80]}: a layer of one side alone")
    for name, ours in like.items():
        one = theirs[name]
        if one.shape != tuple(ours.shape) or one.dtype != ours.dtype:
            here = f"{ours.dtype} of {tuple(ours.shape)}"
            raise ValueError(f"packet: {shown(name)[:80]}: {one.dtype} of {one.shape}, here it is {here}")
