"""What torchrun tells a process: which of how many it is; and how it speaks when one of them fails. Never imports torch."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIVE_WAY_S = {False: 15.0, True: 3.0}  # before processes wait for one another, and while they do
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class Place:
    """A process among those that torchrun started; alone where it started none. local: among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def is_ours() -> bool:
    """Whether torchrun, or something that sets the same, has started this process."""
    return all(os.environ.get(name, "").isdigit() for name in NAMES)


def place() -> Place:
    """This process's place, as the environment says it."""
    return Place() if not is_ours() else Place(*(int(os.environ[name]) for name in NAMES))


def tagged(line: str) -> str:
    """The line, with this process's rank in front where there are several."""
    here = place()
    return f"rank {here.rank}: {line}" if here.size > 1 else line


def fail(line: str) -> None:
    """Print the one line by which a process says why it ends, and leave it where torchrun's own report finds it.

    What one process meets the others mostly meet too. So rank 0 speaks at once, and any other waits a moment in which
    torchrun, having seen rank 0 end, stops it; if nothing does, the trouble is its own and it speaks.
    """
    here = place()
    if here.rank > 0:
        _Watch.silent = True
        time.sleep(GIVE_WAY_S[_Watch.on])
    print(f"effdl: {tagged(line)}", file=sys.stderr, flush=True)
    _report(line, int(time.time()))


def _report(line: str, second: int) -> None:
    """Leave the line where torchrun's own report, which ends with the process whose second is the first, finds it."""
    if place().size > 1 and (path := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        said = {"message": line, "extraInfo": {"timestamp": str(second)}}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": said}))


class _Watch:
    """silent: once this process has said, or need not say, why it ends. on: once it waits for others."""

    silent = on = False
    lock = threading.Lock()


def watch(processes: Sequence[tuple[str, int]]) -> None:
    """From now on end with a line when torchrun stops this process because another one has ended.

    It is a thread that hears the signal, as the main thread may wait for the others within a library that does not return.

    Args:
        processes: (machine, process id) of each rank.
    """
    _Watch.on = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_leave)  # a data loader's worker is stopped by this signal, alone

    def listen() -> None:
        while signal.SIGTERM not in os.read(reader, 1):
            pass
        part(processes, "torchrun stopped it")

    threading.Thread(target=listen, daemon=True).start()


def leave(code: int) -> None:
    """End this process at once, if it was one of several and has said all that it had to say; else do nothing.

    While the interpreter goes down threads of torch.distributed's transports are still there, and now and then, in about one
    process of seven of a run of two, they abort it: a run that has finished would count as failed.
    """
    if _Watch.on:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _leave() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def part(processes: Sequence[tuple[str, int]], otherwise: str) -> None:
    """End this process because another one has ended; of those that are left, the lowest rank says which.

    otherwise: the reason to give where none of this machine is found to be gone.
    """
    ours, until = place().rank, time.monotonic() + 1
    while not (gone := [rank for rank, (machine, pid) in enumerate(processes) if _has_ended(machine, pid)]):
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    with _Watch.lock:
        silent, _Watch.silent = _Watch.silent, True
        if not silent and ours == min(set(range(len(processes))) - set(gone)):
            who = " and ".join(f"rank {rank} (process {processes[rank][1]})" for rank in gone)
            reason = f"because {who} ended" if gone else f"without the others ({otherwise})"
            line = f"stopped {reason}; the same command goes on where this one stopped"
            print(f"effdl: {tagged(line)}", file=sys.stderr, flush=True)
        _report("stopped because another process ended", int(time.time()) + 1)  # whole seconds: never before its cause
        os._exit(128 + signal.SIGTERM)  # not sys.exit: nothing may wait for the others now


def _has_ended(machine: str, pid: int) -> bool:
    """Whether a process of this machine is gone; of another machine's nothing is known here."""
    if machine != os.uname().nodename:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return Path("/proc/self").exists()  # where there is no such folder, nothing is known either
    return state in "ZX"
