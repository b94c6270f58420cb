"""Plans as people read them."""

from collections.abc import Iterable, Mapping
from typing import Any

from effdl.config import Spec
from effdl.errors import DataError, HardwareError
from effdl.records.report import duration, size
from effdl.records.stacking import split_up
from effdl.reproduce import searched
from effdl.reproduce.artefact import NO_GPU, Declaration
from effdl.reproduce.sought import MISSING, Sought
from effdl.reproduce.survey import Surveyed, costs, foreseen

SHORT = (NO_GPU, MISSING)  # reasons that need no line of their own


class Plan:
    """What the cells of an artefact still need. Measures a few steps of each kind of run."""

    def __init__(self, declaration: Declaration, scale: str, surveyed: list[Surveyed], workers: int, track: Any) -> None:
        self.declaration, self.scale, self.surveyed, self.workers = declaration, scale, surveyed, workers
        foreseen(surveyed)
        self.cost = {one.cell.name: cost for one, cost in costs(surveyed, track)}
        missing = (one.cell.search for one in surveyed if one.reason == MISSING and one.cell.search is not None)
        self.searches = {sought.name: sought for sought in missing}
        self.search_seconds = {name: _seconds(sought) for name, sought in self.searches.items()}

    @property
    def left(self) -> int:
        return len({spec for one in self.surveyed for spec in one.left})

    @property
    def seconds(self) -> float:
        """Of all that is left, shared by the workers; equal Specs run once."""
        return self._together({spec: self.cost.get(one.cell.name) for one in self.surveyed for spec in one.left})

    @property
    def after(self) -> dict[Any, Any]:
        """Spec -> what it costs, of the runs that follow on searches, with the defaults of what is searched."""
        return {spec: self.cost.get(one.cell.name) for one in self.surveyed for spec in one.after}

    def _together(self, cost_of: Mapping[Any, Any]) -> float:
        return of_runs({spec: cost.seconds for spec, cost in cost_of.items() if cost}, self.workers)

    def to_json(self) -> dict[str, Any]:
        cells = {
            one.cell.name: {
                "done": one.done,
                "left": len(one.left),
                **(cost.to_json() if (cost := self.cost[one.cell.name]) else {}),
            }
            if one.specs
            else {"reason": one.reason, **({"after": len(one.after)} if one.after else {})}
            for one in self.surveyed
        }
        return {
            "artefact": self.declaration.artefact.id,
            "scale": self.scale,
            "runs": len({spec for one in self.surveyed for spec in one.specs}),
            "left": self.left,
            "time/estimate_s": None if self.left and not any(self.cost.values()) else self.seconds,
            "searches": {
                name: {"trials": sought.declared.trials, "time/estimate_s": self.search_seconds[name]}
                for name, sought in self.searches.items()
            },
            "after": {"runs": len(self.after), "time/estimate_s": self._together(self.after)},
            "cells": cells,
        }

    def text(self) -> str:
        scale = self.declaration.scale(self.scale)
        lines = [f"{self.declaration.artefact.id} at scale {self.scale}: {scale.about}", ""]
        width = max(len(one.cell.name) for one in self.surveyed)
        lines.append(f"{'cell':<{width}}  {'done':>4}  {'left':>4}  {'a run':>7}  {'memory':>8}  of backprop, by segment")
        for one in self.surveyed:
            if not (one.specs or one.after):
                lines.append(f"{one.cell.name:<{width}}  {one.reason if one.reason in SHORT else 'no data'}")
                continue
            row = f"{one.cell.name:<{width}}  {one.done:>4}  {len(one.left or one.after):>4}  "
            lines.append(row + _in_columns(self.cost[one.cell.name]) + (f"  ({one.reason})" if one.after else ""))
        lines += ["", *dict.fromkeys(one.reason for one in self.surveyed if one.reason and one.reason != MISSING)]
        lines += self._first()
        unknown = len({spec for one in self.surveyed if one.specs and not self.cost.get(one.cell.name) for spec in one.left})
        probed = any(spec.probe for one in self.surveyed for spec in one.left)
        unseen = list(dict.fromkeys(one.unseen for one in self.surveyed if one.unseen))
        lines += [f"What follows on searches is not known: {reason}" for reason in unseen]
        if self.left or not (self.after or unseen):
            lines.append(f"{self.left} runs left{ahead(self.left, unknown, self.seconds, self.workers, probed)}")
        return "\n".join([*lines, *self._then()])

    def _first(self) -> list[str]:
        """What must be searched before cells can run."""
        if not self.searches:
            return []
        count, trials = len(self.searches), sum(sought.declared.trials for sought in self.searches.values())
        comes = "1 search comes" if count == 1 else f"{count} searches come"
        known = [seconds for seconds in self.search_seconds.values() if seconds is not None]
        takes = f", at most {duration(sum(known) / self.workers)}" if len(known) == count else ""
        return [f"{comes} first: {trials} trials{takes}"]

    def _then(self) -> list[str]:
        """What runs once all is searched."""
        if not self.after:
            return []
        unknown, probed = sum(not cost for cost in self.after.values()), any(spec.probe for spec in self.after)
        takes = ahead(len(self.after), unknown, self._together(self.after), self.workers, probed)
        return [f"{len(self.after)} runs follow, timed with the defaults of what is searched{takes}"]


def _in_columns(cost: Any) -> str:
    """Seconds, peak bytes, and their share of full backprop's, in percent for each segment too where there are several."""
    if cost is None:
        return "unknown: only a run tells"
    text = f"{duration(cost.seconds):>7}  {size(cost.peak_bytes):>8}  {cost.share:>4.0%}"
    shares = [f"{100 * peak / cost.backprop_bytes:.0f}" for peak in cost.segment_bytes]
    return f"{text}: {' '.join(shares)}" if len(shares) > 1 else text


def ahead(left: int, unknown: int, seconds: float, workers: int, probed: bool) -> str:
    """How long so many runs take, as far as it is known. probed: whether some have probes, whose time no plan knows."""
    if unknown == left and left:
        return "; what they take shows once some have run"
    rest = f", and what {unknown} of them take" if unknown else ""
    return f": about {duration(seconds)}{rest} {at_once(workers)}{UNPROBED if probed else ''}"


UNPROBED = ", without probes"


def at_once(workers: int) -> str:
    return f"with {workers} process{'es' if workers > 1 else ''} on this machine"


def _seconds(sought: Sought) -> float | None:
    """Of all trials of a search, were none stopped early; None where their method does not say, or their data are not here."""
    from effdl.records.plan import cost

    try:
        found = cost(searched.trial(sought), threads=1, timed=True, rows=())
    except (DataError, HardwareError):
        return None
    return None if found is None or found.seconds is None else sought.declared.trials * found.seconds


def of_runs(seconds: Mapping[Spec, float], workers: int) -> float:
    """How long runs take together, of which those of a stack go to one worker, as `execute` has it."""
    specs, each = list(seconds), list(seconds.values())
    return shared((sum(each[i] for i in places) for places in split_up(specs, workers)), workers)


def shared(seconds: Iterable[float], workers: int) -> float:
    """How long runs of so many seconds take together, each whole and given to the worker that is free first."""
    until = [0.0] * workers
    for one in seconds:
        until[until.index(min(until))] += one
    return max(until)
