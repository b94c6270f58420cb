"""A folder of this process's own, for a run without a record; what killed ones left behind goes when the next begins."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from effdl.errors import disk_errors

PREFIX, LOCK = "effdl-", ".effdl-temporary"  # no other folder has a file of that name


class Temporary:
    """A folder among the system's temporary ones, which goes with this object.

    Its owner holds a lock within, which ends with the process however that ends: a folder whose lock is free is nobody's.

    Raises:
        RecordError: no folder can be made there.
    """

    def __init__(self) -> None:
        root = Path(tempfile.gettempdir())
        with disk_errors(root):
            _sweep(root)
            self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=root)
            self.path = Path(self._folder.name)
            new = self.path / f"{LOCK}.new"  # others look at it when it is locked
            self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.replace(new, self.path / LOCK)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):  # where it was never made
            os.close(self._lock)


def _sweep(root: Path) -> None:
    """Remove what is nobody's. A folder without a lock may be one that is being made."""
    for lock in root.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # another user's, or gone by now
            held = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(held)
