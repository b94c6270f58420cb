"""What a summary tells of a filter, and of what was sent, by what was recorded of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def kept_shares(notes: Mapping[str, Any], times: Mapping[str, float], passes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a filter kept, of what, in which time: in the summary they stand together, beside the accuracy.

    filter/kept_share: of all samples of all passes those that were learned from; filter/segment_shares: of each segment's own;
    filter/last_shares: in its last pass.
    """
    count = notes.get("filter/of_samples")
    if not count or not passes:
        return {}
    of_each: dict[int, list[int]] = {}
    for line in passes:
        of_each.setdefault(line["segment"], []).append(line["data/samples"])
    shares = {segment: [samples / count for samples in found] for segment, found in sorted(of_each.items())}
    every = [share for found in shares.values() for share in found]
    return {
        "filter/kept_share": sum(every) / len(every),
        "filter/segment_shares": [sum(found) / len(found) for found in shares.values()],
        "filter/last_shares": [found[-1] for found in shares.values()],
        "filter/scope": notes["filter/scope"],
        "time/filter_s": times.get("filter", 0.0),
    }


def of_sync(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What was recorded of all layers of what was sent, by segment and epoch: bytes in all, of anything else the mean."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith("sync/") and key.count("/") == 1:
                found.setdefault(key, []).append(value)
    return {key: sum(values) if key.endswith("bytes") else sum(values) / len(values) for key, values in found.items()}
