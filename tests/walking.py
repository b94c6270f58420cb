"""What lies in memory by a walk over all live tensors, while something is trained."""

import gc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FOLDER = "offload"


def storage(tensor: Tensor) -> int:
    """Where its numbers lie."""
    return tensor.untyped_storage().data_ptr()


def mapped_ranges() -> list[tuple[int, int]]:
    """Addresses that belong to files of an offload, by the kernel's own list."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines() if FOLDER in line)
    return [(int(low, 16), int(high, 16)) for low, _, high in (line[0].partition("-") for line in lines)]


def in_memory() -> dict[int, int]:
    """Bytes of each storage that a tensor known to the garbage collector has in the process's own memory."""
    found, ranges = dict[int, int](), mapped_ranges()
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter):
            at = storage(thing)
            if at and not any(low <= at < high for low, high in ranges):
                found[at] = thing.untyped_storage().nbytes()
    return found


class Walked:
    """An optimizer setting after whose steps somebody walks over all live tensors. most: bytes that were found at once."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.schedule, self.most = inner, inner.schedule, 0

    def build(self, *arguments: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = self.inner.build(*arguments)
        made.register_step_post_hook(self.look)
        return made

    def look(self, *_: Any) -> None:
        self.most = max(self.most, sum(in_memory().values()))
