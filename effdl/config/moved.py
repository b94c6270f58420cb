"""Where classes were that old configs, records and ledgers name, and what their fields were called: the one table of it."""

from collections.abc import Mapping
from typing import Any

# A module's old name and today's. Only the place of a class may change: its name is part of what names runs.
MOVED = {"effdl.training.least_squares": "effdl.least_squares.solvers"}


def today(target: str) -> str:
    """A ``_target_`` by the place that its class has now."""
    module, _, name = target.rpartition(".")
    return f"{MOVED.get(module, module)}.{name}" if module else target


# Old fields of a class that are one list today, by the name of that.
JOINED = {
    "effdl.objectives.losses.LinearMse": {"targets": ("low", "high")},
    "effdl.objectives.losses.TanhMse": {"targets": ("low", "high")},
}


def values_today(target: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A class's values by the names that its fields have now."""
    found = dict(values)
    for name, parts in JOINED.get(today(target), {}).items():
        if name not in found and all(part in found for part in parts):
            found[name] = [found.pop(part) for part in parts]
    return found
