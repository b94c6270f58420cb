"""What a record held at its end, noted in summary.json, and whether its files still are those.

Sizes are compared always, contents up to `SMALL` or where a reader asks: weights of 100 MB are not read for an answer that is
a few numbers, and `load_network` compares those that it loads. Records of versions that noted nothing are taken as they are.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

FILES, CHECKSUM = "files", "checksum"  # keys of summary.json alone, which no answer has
SUMMARY, METRICS, NETWORK, FILTER = "summary.json", "metrics.jsonl", "network.safetensors", "filter.safetensors"
KEPT = ("spec.json", "provenance.json", METRICS, NETWORK, FILTER)
SMALL = 2**20  # bytes that take a millisecond
LOST, ADDED, OTHER = "was lost", "was added", "was changed"
AGAIN = "`effdl run --again ...` makes it anew"


def noted(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with length and digest of each file that is kept beside it, and a checksum of its own. Raises OSError."""
    files = {name: _told(folder / name) for name in KEPT if (folder / name).is_file()}
    whole: dict[str, Any] = json.loads(json.dumps({**summary, FILES: files}))
    return {**whole, CHECKSUM: checksum(whole)}


def is_note(summary: Mapping[str, Any]) -> bool:
    """Whether a summary notes nothing, or notes it as `noted` does."""
    if FILES not in summary and CHECKSUM not in summary:
        return True
    files = summary.get(FILES)
    if not isinstance(files, dict) or not isinstance(summary.get(CHECKSUM), str):
        return False
    return all(isinstance(one, dict) and {"bytes", "sha256"} <= set(one) for one in files.values())


def without_note(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The answer that the run gave."""
    return {key: value for key, value in summary.items() if key not in (FILES, CHECKSUM)}


def changed(folder: Path, summary: Mapping[str, Any], read: Collection[str] = ()) -> dict[str, str]:
    """file -> what became of it since the run's end, in words; {} where all is as it was. Raises OSError.

    read: files whose content is compared, however long they are.
    """
    if FILES not in summary:
        return {}
    files = summary[FILES]
    found = {name: _became(folder / name, files.get(name), name in read) for name in KEPT}
    intact = summary[CHECKSUM] == checksum({key: value for key, value in summary.items() if key != CHECKSUM})
    found[SUMMARY] = None if intact else OTHER
    return {name: word for name, word in found.items() if word is not None}


def in_words(found: Mapping[str, str]) -> str:
    return f"after its end {', '.join(f'{name} {word}' for name, word in found.items())}"


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 over all of a JSON object, which is to say over all of a line but the checksum itself."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: Mapping[str, Any]) -> str:
    """A JSON object as it stands in a ledger, and as its checksum is taken over it."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _told(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _became(path: Path, told: Mapping[str, Any] | None, read: bool) -> str | None:
    try:
        length = path.stat().st_size
    except FileNotFoundError:
        return None if told is None else LOST
    if told is None:
        return ADDED
    if length != told["bytes"] or ((read or length <= SMALL) and _digest(path) != told["sha256"]):
        return OTHER
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
