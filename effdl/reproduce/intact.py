"""What the ledger takes from a run's record, which must be as the run left it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdl.errors import RecordError
from effdl.records import kept
from effdl.reproduce.artefact import Cell, on_the_cpu

if TYPE_CHECKING:
    from effdl.config import Spec
    from effdl.records.store import Store

POINTS = 500  # of a series, at most
PASSES = "data/train_passes"


class Intact:
    """Refuses records that differ in what the ledger takes, and remembers those that differ elsewhere.

    series: keys of metrics.jsonl, without which it is not looked at.
    """

    def __init__(self, root: Path, series: Sequence[str]) -> None:
        self.root, self.series = root, series
        self._elsewhere: dict[Path, str] = {}

    def check(self, store: Store, anew: Callable[[], str]) -> None:
        """Raise a RecordError that names the file; anew: the command that makes the record anew."""
        taken = ("spec.json", "provenance.json", kept.SUMMARY, *([kept.METRICS] if self.series else []))
        if (summary := store.summary()) is None:
            if (store.path / kept.SUMMARY).exists():
                self._elsewhere[store.path] = f"{kept.SUMMARY} is no whole record, and counts as not run"
            return
        found = store.changed(summary, taken)
        if found.keys() & set(taken):
            raise RecordError(f"{store.path}: {kept.in_words(found)}, so nothing is taken from it; `{anew()}` makes it anew")
        if found:
            self._elsewhere[store.path] = kept.in_words(found)

    def points(self, store: Store, summary: Mapping[str, Any], anew: Callable[[], str]) -> dict[str, list[list[float]]]:
        """name -> [segment, epoch, value] of each line that has it, thinned to about POINTS, each segment's last kept unless
        there are more segments than that. Raises RecordError where lines are lost or are none."""
        path = store.path / kept.METRICS
        try:
            lines = [json.loads(text) for text in path.read_text().splitlines()] if self.series and path.is_file() else []
            if self.series and sum("train/loss" in line for line in lines) < summary["summary"].get(PASSES, 0):
                raise ValueError("lost")
            told = [(name, [(line["segment"], line["epoch"], line.get(name)) for line in lines]) for name in self.series]
        except (ValueError, KeyError, TypeError, AttributeError):
            lost = f"{path}: lines of it are lost or damaged, so no series is drawn from it"
            raise RecordError(f"{lost}; `{anew()}` makes it anew") from None
        return {name: _thinned(points) for name, points in told}

    def said(self) -> str | None:
        """A line on the records that differ elsewhere; None where there are none."""
        if not self._elsewhere:
            return None
        (path, word), *others = self._elsewhere.items()
        more = f", and {len(others)} more records differ" if others else ""
        return f"{path}: {word}{more}; the ledger takes nothing from there"


def again(cell: Cell, found: Sequence[str] | None, spec: Spec, root: Path) -> str:
    """The command that sets the record of a cell's run aside and makes it anew."""
    where = [] if root == Path("results") else ["--results", str(root)]
    own = [f"seed={spec.seed}", *(["+stacked=true"] if spec.stacked else [])]
    return shlex.join(["effdl", "run", "--again", *on_the_cpu((*cell.overrides, *(found or ()))), *own, *where])


def _thinned(told: Sequence[tuple[int, int, float | None]]) -> list[list[float]]:
    points: list[list[float]] = [[segment, epoch, value] for segment, epoch, value in told if value is not None]
    step = -(-len(points) // POINTS) or 1
    ends = {segment: i for i, (segment, _, _) in enumerate(points)}.values()
    kept_ends = ends if len(ends) <= POINTS else ()
    return [points[i] for i in sorted({*range(len(points))[::-step], *kept_ends})]
