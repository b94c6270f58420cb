"""Numbers of a fixed count of bits, packed without gaps, on any device."""

import torch
from torch import Tensor

GROUP = 32  # numbers of b bits fill b words
AT_ONCE = 2**21  # numbers that are packed at a time, a multiple of a group


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes so many numbers take."""
    return (count * bits + 7) // 8


def pack(values: Tensor, bits: int) -> bytes:
    """Whole numbers (n,) from 0 to 2^bits − 1, ⌈n · bits / 8⌉ bytes, each from its lowest bit on. bits: 0 to 31."""
    return b"".join(_packed(some, bits) for some in values.split(AT_ONCE)) if bits else b""


def _packed(values: Tensor, bits: int) -> bytes:
    rows = -(-len(values) // GROUP)
    columns = torch.nn.functional.pad(values, (0, rows * GROUP - len(values))).view(rows, GROUP).t().long().contiguous()
    cells = torch.zeros(bits + 1, rows, dtype=torch.int64, device=values.device)
    for index, column in enumerate(columns):
        word, shift = divmod(index * bits, GROUP)
        column = column << shift
        cells[word] |= column & 0xFFFFFFFF
        cells[word + 1] |= column >> GROUP
    words = torch.empty(rows, bits, dtype=torch.int32, device=values.device)
    words.copy_(cells[:bits].view(torch.int32).view(bits, rows, 2)[..., 0].t())  # the lower half of each
    return words.view(-1).view(torch.uint8)[: packed_bytes(len(values), bits)].cpu().numpy().tobytes()


def unpack(data: memoryview, count: int, bits: int, out: Tensor) -> Tensor:
    """The numbers again, into ``out`` (count,) of any type that holds them, which is returned.

    Raises ValueError where there are not as many bytes as `packed_bytes` says.
    """
    if len(data) != packed_bytes(count, bits):
        raise ValueError(f"{count} numbers of {bits} bits are not in {len(data)} bytes")
    step = AT_ONCE * bits // 8
    if not count or not bits:
        return out.zero_()
    for index, some in enumerate(out.split(AT_ONCE)):
        _unpack(data[index * step : (index + 1) * step], bits, some)
    return out


def _unpack(data: memoryview, bits: int, out: Tensor) -> None:
    rows = -(-len(out) // GROUP)
    content = bytearray(rows * bits * 4)
    content[: len(data)] = data
    words = torch.frombuffer(content, dtype=torch.int32).view(rows, bits).t().to(out.device).long() & 0xFFFFFFFF
    words = torch.cat([words, torch.zeros_like(words[:1])])
    values = torch.empty(GROUP, rows, dtype=out.dtype, device=out.device)
    for index, column in enumerate(values):
        word, shift = divmod(index * bits, GROUP)
        column.copy_(((words[word] | words[word + 1] << GROUP) >> shift) & (2**bits - 1))
    out.copy_(values.t().reshape(-1)[: len(out)])
