"""The files of one run: owned by a lock, appended, checkpointed, and finished by one atomic rename."""

import errno
import fcntl
import hashlib
import io
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
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
        except BaseException:
            with suppress(OSError):
                part.unlink()
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
        self._made: list[Path] = []

    def summary(self) -> dict[str, Any] | None:
        """What the finished run says, or None."""
        return self._read_json("summary.json", "status")

    def spec(self) -> dict[str, Any] | None:
        return self._read_json("spec.json", "config")

    def provenance(self) -> dict[str, Any] | None:
        return self._read_json("provenance.json", "commit")

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Own the run within. While another process owns it, this one says so and waits. The lock ends with its owner."""
        with disk_errors(self.path):
            for attempt in count():
                try:
                    self._lock = self._take_lock()
                except FileNotFoundError:  # another process has just removed the folder
                    if attempt == 10:
                        raise
                if self._lock is not None:
                    break
        _owned.add(self)
        try:
            yield
        finally:
            self.release()

    def _take_lock(self) -> int | None:
        """The locked file; None if its last owner left nothing and removed it while this process waited."""
        self._made = [folder for folder in self.path.parents if not folder.exists()] or self._made
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"{self.path.name} is being run by another process; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def discard_if_empty(self) -> None:
        """Remove a run that has nothing to go on from, and the folders made for it: a failed start leaves nothing behind."""
        names = ("metrics.jsonl", "provenance.json", "spec.json", "lock")  # the lock last: until then the run is ours
        if {p.name for p in self.path.iterdir()} <= set(names):
            with suppress(OSError):  # a folder that another run has come to use
                for name in names:
                    (self.path / name).unlink(missing_ok=True)
                for folder in (self.path, *self._made):
                    folder.rmdir()

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
        with disk_errors(metrics):
            data = metrics.read_bytes() if metrics.exists() else b""
        length = state.pop("metrics_length")
        lines, damaged = [], []
        for text in data[:length].splitlines():
            line = _parse(text)
            if line is not None and "segment" in line:
                lines.append(line)
            else:
                damaged.append(text)
        if damaged:
            self._say(f"{metrics}: {len(damaged)} damaged line(s) set aside in metrics.jsonl.damaged; the rest is used")
            write_atomically(metrics.with_name("metrics.jsonl.damaged"), b"\n".join(damaged) + b"\n")
        if len(data) < length:
            self._say(f"{metrics}: its last {length - len(data)} bytes are lost; the rest is used")
        write_atomically(metrics, b"".join((json.dumps(line) + "\n").encode() for line in lines))
        return state, lines

    @staticmethod
    def lines(metrics: Path) -> list[dict[str, Any]]:
        """The whole lines of a metrics.jsonl; none where there is none."""
        with disk_errors(metrics):
            data = metrics.read_bytes() if metrics.exists() else b""
        return [line for line in map(_parse, data.splitlines()) if line is not None and "segment" in line]

    def finish(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)
        for name in ("checkpoint", "checkpoint.part"):
            (self.path / name).unlink(missing_ok=True)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        import torch

        path = self.path / "checkpoint"
        if not path.exists():
            return None
        with disk_errors(path):
            digest, _, data = path.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() != digest:
            self._set_aside(path, "does not match its digest; the run begins anew")
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state

    def _read_json(self, name: str, key: str) -> dict[str, Any] | None:
        """A record that holds ``key``; a damaged one counts as missing, and its run's owner sets it aside."""
        path = self.path / name
        with disk_errors(path):
            try:
                content = _parse(path.read_bytes())
            except FileNotFoundError:
                return None
        if content is not None and key in content:
            return content
        if self._lock is not None:
            self._set_aside(path, "is not a whole record")
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


def _parse(text: bytes) -> dict[str, Any] | None:
    """A JSON object, or None where it is none."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
