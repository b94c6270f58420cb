"""The ledger's file: JSON lines, each with a checksum over all of it."""

import json
from pathlib import Path
from typing import Any

from effdl.errors import RecordError
from effdl.records.kept import canonical as canonical
from effdl.records.kept import checksum as checksum

Line = dict[str, Any]
SEARCH = "search"  # the key of a line that says what was searched, and has no runs


def ledger_path(root: Path, name: str) -> Path:
    return root / "ledger" / f"{name}.jsonl"


def read(root: Path, name: str) -> list[Line]:
    """An artefact's lines, in their order; none where nothing was published.

    Raises:
        RecordError: a line was edited or is no line.
    """
    path = ledger_path(root, name)
    lines = []
    for number, text in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            line = json.loads(text)
            intact = line.pop("checksum") == checksum(line)
            where = f"{path}, line {number} ({line['cell']})"
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RecordError(f"{path}, line {number}: is no line of a ledger; restore the file with git") from None
        if not intact:
            raise RecordError(f"{where}: was edited, its checksum differs; restore it with git, or delete it and publish again")
        lines.append(line)
    return lines
