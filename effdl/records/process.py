"""The memory of the process that carries a run out, by the operating system's own count, beside the bytes that effdl counts."""

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from effdl.training.hardware import give_back, keep_little

PROCESS_PEAK = "memory/process_peak_bytes"
LITTLE = 2 * 2**20  # bytes by which the mark may lie above what is resident and still hide nothing worth a number
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_begun = False  # whether a run began in this process


class Reading(NamedTuple):
    """Bytes of this process: the most that were ever resident, and those that are."""

    high: int
    resident: int


@dataclass(frozen=True, slots=True)
class HighWater:
    """How far the process rises above where it stood when this was made.

    base: bytes that were resident then.
    """

    base: int
    read: Callable[[], Reading | None]

    @classmethod
    def here(cls, read: Callable[[], Reading | None], reset: Callable[[], None]) -> "HighWater | None":
        """From here on; None where the mark cannot be read, or still is an earlier and higher one after the reset."""
        reset()
        found = read()
        if found is None or found.high - found.resident > LITTLE:
            return None
        return cls(found.resident, read)

    def above(self) -> int | None:
        """Bytes from the base to the highest mark since."""
        found = self.read()
        return None if found is None else max(0, found.high - self.base)


def first_run() -> HighWater | None:
    """The high-water mark of this process's first run, from here on; None for any later one.

    Memory that an earlier run freed may stay with the process, where a later run takes it again without a trace: its number
    would be too small. Of this process alone: those that decode images beside it are not in it.
    """
    global _begun
    if _begun:
        return None
    _begun = True
    keep_little()
    gc.collect()
    return HighWater.here(read, reset)


def of_the_machine(name: str) -> bool:
    """Whether a metric is of the machine and the moment, as times are, so that a rerun need not give it again."""
    return name.startswith("time/") or name == PROCESS_PEAK


def read() -> Reading | None:
    """What the system says now; None where it does not."""
    if sys.platform == "darwin":
        return _read_mac()
    try:
        return parse(STATUS.read_text())
    except OSError:
        return None


def parse(status: str) -> Reading | None:
    """The two numbers in the text of Linux's /proc/<pid>/status (proc_pid_status(5)), which has them in kB of 1,024 bytes."""
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    try:
        return Reading(int(fields["VmHWM"][0]) * 1024, int(fields["VmRSS"][0]) * 1024)
    except (KeyError, IndexError, ValueError):
        return None


def _read_mac() -> Reading | None:
    """getrusage counts in bytes there, ps in KiB."""
    try:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
        return Reading(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, int(done.stdout) * 1024)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def reset() -> None:
    """Lower the mark to what is resident, where that is allowed, and give freed memory back to the system before.

    Writing 5 to clear_refs (proc_pid_clear_refs(5)) resets nothing but the mark. getrusage would keep the old one, and in a
    program that a large one started even that one's.
    """
    give_back()
    with suppress(OSError):
        CLEAR_REFS.write_text("5")
