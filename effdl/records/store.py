"""The files of one run: owned by a lock, appended, checkpointed, and finished by one atomic rename."""

import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from effdl.errors import disk_errors
from effdl.records import kept
from effdl.records.hashed import DIGEST, Hashed

Say = Callable[[str], None]
Lines = list[dict[str, Any]]


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Write, fsync and rename: the file is there whole or not at all. Raises RecordError.

    data: what it is to hold, or what writes that.
    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        try:
            with part.open("wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    data(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _is_summary(content: Mapping[str, Any]) -> bool:
    status, numbers = content.get("status"), content.get("summary")
    if not isinstance(numbers, dict) or not all(isinstance(content.get(key), str) for key in ("run_id", "name")):
        return False
    if not kept.is_note(content):
        return False
    if status == "finished":
        return isinstance(numbers.get("network/sha256"), str)
    return status in ("diverged", "failed") and isinstance(content.get("reason"), str)


def _is_spec(content: Mapping[str, Any]) -> bool:
    stored, threads = content.get("config"), content.get("threads")
    chosen = [stored.get(group) for group in ("dataset", "arch", "objective", "method")] if isinstance(stored, dict) else [None]
    whole = all(isinstance(node, dict) and isinstance(node.get("_target_"), str) for node in chosen)
    parts = content.get("facts"), content.get("decided", {})
    return whole and all(isinstance(part, dict) for part in parts) and type(threads) is int and threads > 0


def _is_provenance(content: Mapping[str, Any]) -> bool:
    return "commit" in content


def _is_state(content: object) -> bool:
    """Whether a checkpoint holds what `Run` saved; what the method saved, itself must look at."""
    if not isinstance(content, dict) or not all(isinstance(content.get(k), dict) for k in ("method", "notes", "times", "plan")):
        return False
    lines = [_parse(text) for text in content["metrics"].splitlines()]
    if not all(line is not None and "segment" in line for line in lines):
        return False
    lists = [content["plan"].get(name) for name in ("epochs", "epoch_s")]
    return all(isinstance(one, list) for one in lists) and all(isinstance(t, int | float) for t in content["times"].values())


def _command() -> bytes:
    """The command that this process is, or works for."""
    parent = multiprocessing.parent_process()
    return f"{os.uname().nodename} {os.getpid() if parent is None else parent.pid}".encode()


_owned: "weakref.WeakSet[Store]" = weakref.WeakSet()


def _forget_locks() -> None:
    """A forked child (a data loader's worker) must not hold a lock beyond its owner's death."""
    for store in list(_owned):
        store.release()


os.register_at_fork(after_in_child=_forget_locks)


class Store:
    """results/runs/<run_id>/: spec.json, provenance.json, metrics.jsonl, checkpoint, network.safetensors, summary.json.

    summary.json is written last, and its presence is the only meaning of done. A checkpoint holds all lines of metrics.jsonl
    until then, from which the file is made again where a run goes on. Damaged files, and such as hold something else than was
    written, are named, set aside as ``*.damaged``, and the rest is used. Of a finished run they stay, and its answers say so.
    """

    def __init__(self, root: Path, run_id: str, say: Say) -> None:
        self.path = root / "runs" / run_id
        self._say = say
        self._lock: int | None = None
        self._metrics = bytearray()  # what metrics.jsonl should hold
        self._made: list[Path] = []
        self._folders: set[Path] = set()  # of files that go with the checkpoint

    @classmethod
    def at(cls, path: Path) -> "Store":
        """To read what lies in a folder, wherever that is."""
        store = cls(path.parent, path.name, lambda text: None)
        store.path = path
        return store

    def ended(self) -> datetime:
        """When the run ended, else when anything was written here last, by this machine's clock."""
        if (summary := self.summary()) is not None and isinstance(summary.get("ended"), str):
            with suppress(ValueError):
                return datetime.fromisoformat(summary["ended"]).astimezone()
        with disk_errors(self.path):
            files = [path for path in self.path.iterdir() if path.name != "lock"]
            written = self.path / "summary.json"
            return datetime.fromtimestamp(
                written.stat().st_mtime if written in files else max(path.stat().st_mtime for path in files)
            ).astimezone()

    def summary(self) -> dict[str, Any] | None:
        """What the finished run says, or None."""
        return self._read_json("summary.json", _is_summary)

    def changed(self, summary: Mapping[str, Any], read: Collection[str] = ()) -> dict[str, str]:
        """file -> what became of it since the run ended, see `kept.changed`. Raises RecordError."""
        with disk_errors(self.path):
            return kept.changed(self.path, summary, read)

    def spec(self) -> dict[str, Any] | None:
        return self._read_json("spec.json", _is_spec)

    def decided(self, name: str, choose: Callable[[], Any]) -> Any:
        """What spec.json says of a choice that is made once; where it says nothing yet, what is chosen now."""
        stored = self.spec() or {}
        known = stored.get("decided", {})
        if name not in known:
            known = {**known, name: choose()}
            if stored:  # else somebody took the file away, which `spec` has said
                write_json(self.path / "spec.json", {**stored, "decided": known})
        return known[name]

    def provenance(self) -> dict[str, Any] | None:
        return self._read_json("provenance.json", _is_provenance)

    def is_under_way(self) -> bool:
        """Whether there is something to go on from, and no end yet."""
        return (self.path / "checkpoint").exists() and not (self.path / "summary.json").exists()

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Own the run within. While another process owns it, this one says so and waits. The lock ends with its owner.

        What stands in the lock's file is for that line alone: which command the owner is of.
        """
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
                time.sleep(0.02)  # until an owner that has only now come to it has written its name
                ours = os.pread(lock, 1000, 0) == _command()
                owner = "another worker of this command, which asks for it twice" if ours else "another process"
                self._say(f"{self.path.name} is being run by {owner}; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                with suppress(OSError):  # a full disk shows where there is something to lose
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, _command(), 0)
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def discard_if_empty(self) -> None:
        """Remove a run that has nothing to go on from, and the folders made for it: a failed start leaves nothing behind."""
        names = ("metrics.jsonl", "provenance.json", "spec.json", "lock")  # the lock last: until then the run is ours
        with suppress(OSError):  # a folder that another run has come to use, or that somebody deleted
            for folder in self._folders:
                folder.rmdir()
            if {p.name for p in self.path.iterdir()} <= set(names):
                for name in names:
                    (self.path / name).unlink(missing_ok=True)
                for folder in (self.path, *self._made):
                    folder.rmdir()

    def folder(self, name: str) -> Path:
        """One within the run's own, for files that go with its checkpoint. Raises RecordError."""
        self._folders.add(path := self.path / name)
        with disk_errors(path):
            path.mkdir(exist_ok=True)
        return path

    def append(self, line: Mapping[str, Any]) -> None:
        text = (json.dumps(line) + "\n").encode()
        self._metrics += text
        with disk_errors(self.path / "metrics.jsonl"), (self.path / "metrics.jsonl").open("ab") as file:
            file.write(text)

    def save(self, state: Mapping[str, Any]) -> None:
        """A checkpoint: its bytes under their digest, with all of metrics.jsonl at this moment."""
        import torch

        metrics = self.path / "metrics.jsonl"
        with disk_errors(metrics), metrics.open("ab") as file:
            os.fsync(file.fileno())
        packed = torch.frombuffer(bytearray(zlib.compress(self._metrics, 1)), dtype=torch.uint8)

        def write(file: BinaryIO) -> None:
            file.write(bytes(DIGEST))
            body = Hashed(file)
            torch.save({**state, "metrics": packed}, body)  # type: ignore[arg-type]
            digest = body.digest()
            file.seek(0)
            file.write(digest.encode() + b"\n")

        write_atomically(self.path / "checkpoint", write)

    def load(self) -> tuple[dict[str, Any] | None, Lines]:
        """The checkpoint's state and the metrics up to it; (None, []) to begin anew."""
        state, metrics = self._read_checkpoint(), self.path / "metrics.jsonl"
        if state is None:
            self._metrics = bytearray()
            with disk_errors(metrics):
                metrics.unlink(missing_ok=True)
            return None, []
        self._metrics = bytearray(state.pop("metrics"))
        self._restore("from the checkpoint", longer_is_well=True)
        return state, [json.loads(line) for line in self._metrics.splitlines()]

    def _restore(self, source: str, longer_is_well: bool = False) -> None:
        """Write metrics.jsonl again unless it is as it should be; what was damaged is named and set aside."""
        metrics, whole = self.path / "metrics.jsonl", bytes(self._metrics)
        data = self._read_metrics()
        if data == whole:
            return
        if not (longer_is_well and data.startswith(whole)):  # lines after a checkpoint, which the run makes again
            known = set(whole.splitlines())
            strange = [text for text in data.splitlines() if text not in known and (_parse(text) is None or not longer_is_well)]
            if strange:
                write_atomically(metrics.with_name("metrics.jsonl.damaged"), b"\n".join(strange) + b"\n")
                said = f"{len(strange)} damaged line(s) set aside in metrics.jsonl.damaged"
            else:
                said = f"{max(len(whole) - len(data), 0)} of its bytes were lost"
            self._say(f"{metrics}: {said}; made whole again {source}")
        write_atomically(metrics, whole)

    def _read_metrics(self) -> bytes:
        metrics = self.path / "metrics.jsonl"
        with disk_errors(metrics):
            return metrics.read_bytes() if metrics.exists() else b""

    @staticmethod
    def lines(metrics: Path) -> list[dict[str, Any]]:
        """The whole lines of a metrics.jsonl; none where there is none."""
        with disk_errors(metrics):
            data = metrics.read_bytes() if metrics.exists() else b""
        return [line for line in map(_parse, data.splitlines()) if line is not None and "segment" in line]

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run's last act; metrics.jsonl is made whole if somebody has touched it under way."""
        self._restore("from what the run remembers")
        with disk_errors(self.path):
            whole = kept.noted(self.path, summary)
        write_json(self.path / kept.SUMMARY, whole)
        for name in ("checkpoint", "checkpoint.part"):
            (self.path / name).unlink(missing_ok=True)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        import torch

        path = self.path / "checkpoint"
        if not path.exists():
            return None
        with disk_errors(path):
            digest, _, data = path.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() != digest:
            self.set_aside_checkpoint("does not match its digest")
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            state["metrics"] = self._of_before(state) if "metrics" not in state else zlib.decompress(state["metrics"].numpy())
        except Exception:  # of many kinds; torch's own texts advise to run whatever code is in it
            state = {}
        if not _is_state(state):
            self.set_aside_checkpoint("does not hold what a run saves")
            return None
        return state

    def _of_before(self, state: dict[str, Any]) -> bytes:
        """The metrics that go with a checkpoint of a version that noted their length alone; such as are lost are an error."""
        data, length = self._read_metrics(), int(state.pop("metrics_length"))
        if len(data) < length:
            raise ValueError("lost")
        return data[:length]

    def set_aside_checkpoint(self, reason: str) -> None:
        self._set_aside(self.path / "checkpoint", f"{reason}; the run begins anew")

    def _read_json(self, name: str, is_whole: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """A record that is whole; a damaged one counts as missing, and its run's owner sets it aside."""
        path = self.path / name
        with disk_errors(path):
            try:
                content = _parse(path.read_bytes())
            except FileNotFoundError:
                return None
        if content is not None and is_whole(content):
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
