"""Where and how a run computes: device, threads, precision, memory layout."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from effdl import torchrun
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError, HardwareError
from effdl.setting import Count, Setting, Switch, setting
from effdl.training.compiled import Compiled
from effdl.training.ranks import LEAST_SHARE

M = TypeVar("M", bound=nn.Module)
BOUND = Path("/sys/fs/cgroup/memory.max")  # of a container, in bytes, or "max"
MEMORY = Path("/proc/meminfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h, see mallopt(3)
LARGE_PIECE = 4 * 2**20  # bytes
ALONE, WITHIN = threading.Lock(), ContextVar("within", default=False)
COMMAND = "torchrun --standalone --nproc_per_node={} run.py hardware=ddp ..."


@setting
class Hardware(Setting):
    """What a run computes on. Whatever says "auto" is settled by `resolved`, before the run has its name.

    device: "auto" takes the GPU where there is one.
    threads: of the CPU; null takes all cores for a lone run and one for each run of a sweep.
    precision: "bf16" runs forward passes under autocast; weights and losses stay float32, and a GPU may round the factors of
        float32 products to 10 bits; "tf32" lets a GPU round the factors of all float32 products to 10 bits. "auto" is bf16 on a
        GPU that has it, float32 elsewhere.
    layout: of images' weights and features: "channels_last" (NHWC) or "contiguous" (NCHW). "auto" is channels_last on a GPU,
        and on a CPU for networks that train faster so (`Arch.gains_by_channels_last`).
    compile: torch.compile for each block that learns and for feednets; the first steps take minutes.
    processes: how many train together, each on its part of every batch (`Ranks`). torchrun starts them, and "auto" takes as
        many as it started. Their number is part of a run's name: batch normalisation sees parts, and sums are rounded in
        another order.
    """

    numerics_version: ClassVar[int] = 2

    device: Literal["auto", "cpu", "cuda"] = "cpu"
    threads: Count | None = None
    precision: Literal["auto", "float32", "tf32", "bf16"] = "float32"
    layout: Literal["auto", "contiguous", "channels_last"] = "contiguous"
    compile: Switch = False
    processes: Count | Literal["auto"] = 1

    def version(self) -> int:
        return 2 if self.compile else 1  # of 1, blocks from the fifth or ninth on were called uncompiled

    def resolved(self, gains_by_channels_last: bool, exact: bool = False) -> "Hardware":
        """The same with all that is left open settled for this machine and a network. Raises ConfigError.

        exact: for a method that must not round to half precision.
        """
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        on_gpu = device == "cuda"
        if self.precision == "tf32" and not on_gpu:
            raise ConfigError("hardware.precision: tf32 is a GPU's; a CPU has float32 and bf16")
        half = on_gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        settled: dict[str, Any] = {"device": device}
        if self.precision == "auto":
            settled["precision"] = "bf16" if half and not exact else "float32"
        if self.layout == "auto":
            settled["layout"] = "channels_last" if on_gpu or gains_by_channels_last else "contiguous"
        if self.processes == "auto":
            if not torchrun.is_ours():
                raise ConfigError(f"hardware.processes: torchrun starts them: {COMMAND.format(2)}")
            settled["processes"] = torchrun.place().size
        return replace(self, **settled)

    def check(self, problem: Facts) -> None:
        """Raise a ConfigError where the processes that were started, their GPUs and the batches do not fit each other."""
        here = torchrun.place()
        if self.processes != here.size:
            asked, started = f"hardware.processes={self.processes}", f"torchrun started {here.size}"
            if here.size > 1:
                raise ConfigError(f"{asked}, but {started}: hardware=ddp takes as many as it starts")
            raise ConfigError(f"{asked}, but there is one process: {COMMAND.format(self.processes)}")
        devices = torch.cuda.device_count() if self.device == "cuda" else here.local_size
        if here.size > 1 and here.local_size > devices > 0:
            raise ConfigError(
                f"hardware.processes: {here.local_size} processes on a machine with {devices} GPU(s), each needs its own: "
                f"torchrun --nproc_per_node={devices}"
            )
        if here.size > 1 and problem.batch_size < LEAST_SHARE * here.size:
            raise ConfigError(
                f"dataset.batch_size: {problem.batch_size} samples are too few for {here.size} processes, "
                f"of which each takes {LEAST_SHARE} or more"
            )

    def open(self, threads: int | None = None) -> torch.device:
        """The device, ready; ``threads`` is used where the setting leaves them open. Raises HardwareError.

        Changes what holds for the whole process: to be called within `restoring`.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise HardwareError("hardware.device=cuda: no CUDA device on this machine; hardware=cpu runs without one")
        if count := self.threads or threads:
            torch.set_num_threads(count)
        if self.device == "cuda":
            for backend in _rounding():
                backend.fp32_precision = "ieee" if self.precision == "float32" else "tf32"
        return torch.device(self.device)

    def memory(self) -> int:
        """Bytes that the device has in all; of a CPU no more than its container may take (cgroup v2)."""
        if self.device == "cuda" and torch.cuda.is_available():
            return int(torch.cuda.get_device_properties(0).total_memory)
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        bound = BOUND.read_text().strip() if BOUND.is_file() else ""
        return min(whole, int(bound)) if bound.isdigit() else whole

    def free_memory(self) -> int:
        """Bytes of the device's memory that nobody uses now; of a CPU no more than its container has left, where the pages of
        files that were read count as free."""
        if self.device == "cuda" and torch.cuda.is_available():
            return int(torch.cuda.mem_get_info()[0])
        free = self.memory()
        if MEMORY.is_file():
            free = min(free, 2**10 * _counts(MEMORY)["MemAvailable:"])
        used, of = BOUND.with_name("memory.current"), BOUND.with_name("memory.stat")
        if BOUND.is_file() and used.is_file() and of.is_file():
            free = min(free, self.memory() - int(used.read_text()) + _counts(of)["inactive_file"])
        return max(0, free)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass and its loss."""
        return torch.autocast(self.device, dtype=torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def compiled(self, module: nn.Module) -> nn.Module:
        """The module as it is to be called; its weights stay where they are."""
        return Compiled(module) if self.compile else module

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def place(self, module: M, device: torch.device) -> M:
        """The module itself, on the device, its convolutions' weights in the layout."""
        return module.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def placed(self, tensor: Tensor, device: torch.device) -> Tensor:
        """What `place` makes of one of a module's tensors."""
        like_images = tensor.dim() in (4, 5)
        return tensor.to(device, memory_format=self.memory_format if like_images else torch.preserve_format)


def _counts(file: Path) -> dict[str, int]:
    """Name -> number, of a file of the kernel's with such a pair in each line."""
    return {words[0]: int(words[1]) for line in file.read_text().splitlines() if len(words := line.split()) > 1}


def give_back() -> None:
    """Give freed memory back to the system, of which GNU's C library keeps pieces below 32 MiB, into which later ones may not
    fit."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def keep_little() -> None:
    """From now on this process gives every piece of 4 MiB and more back to the system as soon as it is freed.

    By itself GNU's C library comes to keep pieces below 32 MiB: 53 MiB beside the 161 of a step of VGG-13's second layer. It
    is for processes that carry out runs; a program that calls `train_layerwise` keeps its own ways. What the environment says
    of pieces holds. `scripts/bench_memory.py` tells what is kept all the same.
    """
    said = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")) or "glibc.malloc" in said:
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_PIECE)
        library.mallopt(M_TRIM_THRESHOLD, 16 * LARGE_PIECE)  # else each small piece at the heap's end would go and come


@contextmanager
def restoring() -> Iterator[None]:
    """Afterwards threads and rounding are as before, so that one run leaves no trace in the next."""
    threads, rounding = torch.get_num_threads(), [backend.fp32_precision for backend in _rounding()]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for backend, before in zip(_rounding(), rounding, strict=True):
            backend.fp32_precision = before


@contextmanager
def alone() -> Iterator[None]:
    """As `restoring`, and of several threads one is within: the generators are torch's own, one a process.

    A thread that works in the context of one that is within (`contextvars`), while that one waits for it, is within too.
    """
    if WITHIN.get():
        with restoring():
            yield
        return
    with ALONE, restoring():
        outside = WITHIN.set(True)
        try:
            yield
        finally:
            WITHIN.reset(outside)


def _rounding() -> tuple[Any, ...]:
    """What says how a GPU rounds the factors of float32 products; the second sets the last two also."""
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn
