"""From the runs of a claim's two sides to one estimate: what is paired, what varies, what cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from effdl.records.process import of_the_machine
from effdl.reproduce.artefact import Cell
from effdl.reproduce.estimate import Apart, Estimate, Fixed, Mean, Repeats, Share, mean
from effdl.reproduce.runs import Runs, draws, test_samples, values, values_once
from effdl.reproduce.verdict import compare, of_pair, pairs_of
from effdl.reproduce.vocabulary import SCALE_OF, Artefact, Claim

TEST_ACCURACY = "test/acc"
Key = tuple[tuple[tuple[str, str], ...], int]
Told = tuple[Estimate | None, bool, str | None]  # what was measured, whether of pairs, and why there is nothing


@dataclass(frozen=True)
class Side:
    """The cells of one side of a claim that have runs."""

    runs: Runs
    cells: Sequence[Cell]
    artefact: Artefact

    def varies(self, metric: str) -> bool:
        """Whether other seeds could give another number: something is drawn, or the machine decides."""
        return of_the_machine(metric) or any(draws(self.runs, cell) for cell in self.cells)

    def keyed(self, metric: str, factor: float, apart: set[str]) -> dict[Key, float]:
        """Values by what pairs them: where they stand but for the axes that tell the sides apart, and the seed.

        A run that several cells share counts once.
        """
        return {
            (tuple(pair for pair in cell.at.items() if pair[0] not in apart), seed): factor * value
            for cell, found in values_once(self.runs, self.cells, metric)
            for seed, value in found.items()
        }

    def each(self, metric: str, factor: float) -> list[Estimate]:
        """Of cells that draw nothing, by each of their recorded runs: an accuracy on test samples as a share of these, anything
        else itself."""
        found = [[value for _, value in sorted(values(self.runs, cell, metric).items())] for cell in self.cells]
        count = test_samples(self.runs, self.cells[0])
        if metric != TEST_ACCURACY or len(found) > 1 or count is None:
            return _fixed_each([[factor * value for value in of_cell] for of_cell in found])
        return [Share(round(value * count), count, factor) for value in found[0]]


def measured(claim: Claim, sides: Sequence[Side]) -> Told:
    """One side, or one against the other, in the claim's unit."""
    artefact = sides[0].artefact
    metric, unit = claim.metric or artefact.metric, artefact.unit if claim.unit is None else claim.unit
    of_pair_unit = unit if claim.compare == "saving" else claim.unit or ""  # of a ratio, only what the claim itself says
    inner, outer = (unit, "") if claim.compare == "difference" else ("", of_pair_unit)
    factor, times = SCALE_OF.get(inner, 1.0), SCALE_OF.get(outer, 1.0)
    apart = set(claim.right or {})
    keyed = [side.keyed(metric, factor, apart) for side in sides]
    if claim.less is not None:
        keyed = [_less(values, side.keyed(claim.less, factor, apart)) for values, side in zip(keyed, sides, strict=True)]
    if len(keyed) == 2:  # a place that one side alone has would be compared with another
        shared = {place for place, _ in keyed[0]} & {place for place, _ in keyed[1]}
        keyed = [{key: value for key, value in values.items() if key[0] in shared} for values in keyed]
    if not all(keyed):
        return None, False, "no pairs"
    if claim.kind == "value":
        return _fixed(keyed, claim.compare, times)
    if claim.kind == "share":
        return _shares(sides, keyed, metric, factor)
    if all(side.varies(metric) for side in sides):
        found, paired = compare(keyed[0], keyed[1] if len(keyed) == 2 else None, claim.compare)
        return (None if found is None else _times(found, times)), paired, "no pairs"
    return _apart(claim, sides, keyed, metric, factor, times)


def absolute_of(artefact: Artefact, runs: Runs, cell: Cell) -> Estimate:
    """A cell's metric in the artefact's unit."""
    side, factor = Side(runs, [cell], artefact), SCALE_OF.get(artefact.unit, 1.0)
    if side.varies(artefact.metric):
        return mean(list(values(runs, cell, artefact.metric, artefact.unit).values()))
    return Repeats(tuple(side.each(artefact.metric, factor)))


def _apart(
    claim: Claim, sides: Sequence[Side], keyed: Sequence[Mapping[Key, float]], metric: str, factor: float, times: float
) -> Told:
    """Sides of which one or both draw nothing: each by an interval of its own, whichever of its recorded runs one takes. times:
    of what is compared, for its unit."""
    estimates: list[list[Estimate]] = []
    for side, found in zip(sides, keyed, strict=True):
        if side.varies(metric):
            estimates.append([mean(list(found.values()))])
            continue
        each = side.each(metric, factor)
        if claim.less is not None and len(_by_place(found)) > 1:
            return None, False, f"no interval of {metric} less {claim.less} over cells that draw nothing"
        less = [] if claim.less is None else side.each(claim.less, factor)
        estimates.append([Apart(one, taken) for one, taken in zip(each, less, strict=True)] if less else each)
    if len(estimates) == 1:
        return Repeats(tuple(estimates[0])), False, None
    if all(isinstance(one, Fixed) for each in estimates for one in each):
        return Repeats(tuple(_fixed_each(_against(keyed, claim.compare, times)))), False, None
    if claim.compare != "difference":
        return None, False, f"no {claim.compare} of what varies and what does not"
    return Repeats(tuple(Apart(*pair) for pair in product(*estimates))), False, None


def _against(keyed: Sequence[Mapping[Key, float]], how: str, times: float) -> list[list[float]]:
    """Of each place what is compared, for any recorded run of the one side with any of the other."""
    left, right = (_by_place(values) for values in keyed)
    return [[times * of_pair(a, b, how) for a, b in product(found, right[place])] for place, found in left.items()]


def _by_place(values: Mapping[Key, float]) -> dict[object, list[float]]:
    found: dict[object, list[float]] = {}
    for (place, _), value in values.items():
        found.setdefault(place, []).append(value)
    return found


def _fixed_each(of_places: Sequence[Sequence[float]]) -> list[Estimate]:
    """Of one place each of its numbers; of several the least of each and the greatest, between which all others lie."""
    if len(of_places) == 1:
        return [Fixed((value,)) for value in of_places[0]]
    ends = [tuple(map(min, of_places)), tuple(map(max, of_places))]
    return [Fixed(values) for values in dict.fromkeys(ends)]


def _fixed(keyed: Sequence[Mapping[Key, float]], how: str, times: float) -> Told:
    """Numbers that cannot vary, place by place; that they do is a reason of its own."""
    places = []
    for side in keyed:
        of_place = _by_place(side)
        if any(len({*found}) > 1 for found in of_place.values()):
            return None, False, "varies, though declared not to"
        places.append({place: found[0] for place, found in of_place.items()})
    if len(places) == 1:
        return Fixed(tuple(times * value for value in places[0].values())), False, None
    return Fixed(tuple(times * of_pair(a, b, how) for a, b in pairs_of(*places))), False, None


def _shares(sides: Sequence[Side], keyed: Sequence[Mapping[Key, float]], metric: str, factor: float) -> Told:
    """The share of runs in which a metric of 0 and 1 is 1; runs that draw nothing should all say the same."""
    told = [[value / factor for value in values.values()] for values in keyed]
    if not all(value in (0.0, 1.0) for values in told for value in values):
        return None, False, "no share: other values than 0 and 1"
    found: list[list[Estimate]] = [
        [Share(round(sum(values)), len(values), factor)] if side.varies(metric) else side.each(metric, factor)
        for side, values in zip(sides, told, strict=True)
    ]
    each = found[0] if len(found) == 1 else [Apart(*pair) for pair in product(*found)]
    return (each[0] if all(side.varies(metric) for side in sides) else Repeats(tuple(each))), False, None


def _less(values: Mapping[Key, float], taken: Mapping[Key, float]) -> dict[Key, float]:
    return {key: value - taken[key] for key, value in values.items() if key in taken}


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Mean(tuple(factor * value for value in estimate.values)) if isinstance(estimate, Mean) else estimate
