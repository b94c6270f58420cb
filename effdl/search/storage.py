"""Where a search keeps its trials, and the locks that tell which of them are worked on; all locks end with their owner."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from effdl.errors import ConfigError, disk_errors
from effdl.home import at_home

OF_A_FILE = re.compile(r"(sqlite:///)(~.*)")  # a database that is a file below a home folder


class _Journal(JournalFileOpenLock):
    """Holds a journal while a line is appended. A line that a full disk or a lost machine cut off is taken away before."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal, self._lock = journal, journal.with_suffix(".lock")
        self._held: int | None = None

    def acquire(self) -> bool:
        self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        with self._journal.open("rb+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.tell() and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            os.close(held)


def opened(storage: str | None, folder: Path) -> BaseStorage:
    """Any storage that Optuna knows by its URL, by default a journal in the search's own folder. Raises ConfigError."""
    if storage is None:
        journal = folder / "journal.jsonl"
        with disk_errors(journal):
            journal.touch()
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=_Journal(journal)))
    if match := OF_A_FILE.fullmatch(storage):
        storage = f"{match[1]}{at_home(match[2], 'search.storage')}"
    try:
        return get_storage(storage)
    except Exception as error:  # a driver that is missing, an address that is wrong
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"search.storage: {said}; such as sqlite:///trials.db, or null for a journal beside the search"
        ) from None


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Alone within, among all processes that share the folder."""
    with disk_errors(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def taken(path: Path) -> int | None:
    """The locked file, None where another process that lives has it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
