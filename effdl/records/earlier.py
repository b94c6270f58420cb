"""Records that were set aside so that their runs could be made anew: kept beside the others, and never hidden."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from effdl.errors import RecordError, disk_errors
from effdl.records.store import Say, Store

DATE = "%Y-%m-%d_%H-%M-%S"


def folder(root: Path, run_id: str) -> Path:
    """Where a run's earlier records lie, each under the date of its end."""
    return root / "earlier" / run_id


def set_aside(root: Path, run_id: str, say: Say) -> Path | None:
    """Move a run's record away, finished or not; None where there is none. Raises RecordError.

    Whoever works on the run is waited for.
    """
    store = Store(root, run_id, say)
    if not store.path.is_dir():
        return None
    with store.owned():
        if {path.name for path in store.path.iterdir()} <= {"lock"}:
            store.discard_if_empty()
            return None
        target = folder(root, run_id) / store.ended().strftime(DATE)
        if target.exists():
            raise RecordError(f"{target}: is there already; move it away to set another record of {run_id} aside")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(store.path, target)
    return target


def records(root: Path, run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(date, summary) of each earlier record that has ended, the oldest first."""
    for path in sorted(folder(root, run_id).glob("*")):
        found = Store.at(path).summary()
        if found is not None:
            yield datetime.strptime(path.name, DATE).isoformat(sep=" "), found
