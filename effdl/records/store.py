"""The files of one run: owned by a lock, appended, checkpointed, and finished by one atomic rename."""

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effdl.errors import RecordError

Say = Callable[[str], None]


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError within becomes a RecordError of one line."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "free some space" if full else "point `results` to a folder that can be written"
        raise RecordError(f"{path}: {error.strerror or error}; {hint} and run the same command again") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write, fsync and rename: the file is there whole or not at all. Raises RecordError."""
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


_owned: "weakref.WeakSet[Store]" = weakref.WeakSet()


def _forget_locks() -> None:
    """A forked child (a data loader's worker) must not hold a lock beyond its owner's death."""
    for store in list(_owned):
        store.release()


os.register_at_fork(after_in_child=_forget_locks)


class Store:
    """results/runs/<run_id>/: spec.json, provenance.json, metrics.jsonl, checkpoint, network.safetensors, summary.json.

    summary.json is written last, and its presence is the only meaning of done. metrics.jsonl is truncated on resume to the
    length that the checkpoint holds. Damaged files are named, set aside as ``*.damaged``, and the rest is used.
    """

    def __init__(self, root: Path, run_id: str, say: Say) -> None:
        self.path = root / "runs" / run_id
        self._say = say
        self._lock: int | None = None

    def summary(self) -> dict[str, Any] | None:
        """What the finished run says, or None."""
        return self._read_json("summary.json")

    def spec(self) -> dict[str, Any] | None:
        return self._read_json("spec.json")

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Own the run; waits, saying so, while another process does. The lock dies with its owner, however that ends."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._lock = lock
        _owned.add(self)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"{self.path.name} is being run by another process; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            self.release()

    def discard_if_empty(self) -> None:
        """Remove a run that has nothing to go on from, so that a failed start leaves nothing behind."""
        kept = {p.name for p in self.path.iterdir()} - {"lock", "spec.json", "provenance.json", "metrics.jsonl"}
        if not kept:
            shutil.rmtree(self.path, ignore_errors=True)

    def append(self, line: Mapping[str, Any]) -> None:
        with disk_errors(self.path / "metrics.jsonl"), (self.path / "metrics.jsonl").open("ab") as file:
            file.write((json.dumps(line) + "\n").encode())

    def save(self, state: Mapping[str, Any]) -> None:
        """A checkpoint: its bytes under their digest, with the length of metrics.jsonl at this moment."""
        import torch

        metrics = self.path / "metrics.jsonl"
        with disk_errors(metrics), metrics.open("ab") as file:
            os.fsync(file.fileno())
            length = file.tell()
        buffer = io.BytesIO()
        torch.save({**state, "metrics_length": length}, buffer)
        data = buffer.getvalue()
        write_atomically(self.path / "checkpoint", hashlib.sha256(data).hexdigest().encode() + b"\n" + data)

    def load(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """The checkpoint's state and the metrics up to it; (None, []) to begin anew."""
        state = self._read_checkpoint()
        metrics = self.path / "metrics.jsonl"
        if state is None:
            with disk_errors(metrics):
                metrics.unlink(missing_ok=True)
            return None, []
        data = metrics.read_bytes() if metrics.exists() else b""
        lines, damaged = [], []
        for line in data[: state.pop("metrics_length")].splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                damaged.append(line)
        if damaged:
            self._say(f"{metrics}: {len(damaged)} damaged line(s) set aside in metrics.jsonl.damaged; the rest is used")
            write_atomically(metrics.with_name("metrics.jsonl.damaged"), b"\n".join(damaged) + b"\n")
        write_atomically(metrics, b"".join((json.dumps(line) + "\n").encode() for line in lines))
        return state, lines

    def finish(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)
        for name in ("checkpoint", "checkpoint.part"):
            (self.path / name).unlink(missing_ok=True)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        import torch

        path = self.path / "checkpoint"
        if not path.exists():
            return None
        digest, _, data = path.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() != digest:
            self._set_aside(path, "does not match its digest; the run begins anew")
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
        return state

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            return content
        except FileNotFoundError:
            return None
        except ValueError:
            self._set_aside(path, "is not JSON")
            return None

    def _set_aside(self, path: Path, reason: str) -> None:
        self._say(f"{path} is damaged: it {reason}; set aside as {path.name}.damaged")
        with disk_errors(path):
            os.replace(path, path.with_name(path.name + ".damaged"))

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)
