"""The one rule that says whether a claim holds: the 95% interval of what was measured against the declared bounds."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from effdl.reproduce.estimate import ALPHA, ROUNDING, Apart, Estimate, Fixed, Mean, Repeats, Welch, mean

Key = TypeVar("Key", bound=Hashable)
REPRODUCED, DIFFERS, INCONCLUSIVE, FITTED = "reproduced", "differs", "inconclusive", "fitted"
WORDS = (REPRODUCED, DIFFERS, INCONCLUSIVE, FITTED)
TIE = {"difference": 0.0, "ratio": 1.0, "saving": 0.0}  # what is compared where both sides are the same
LEAST_P = 1e-15


@dataclass(frozen=True)
class Interval:
    """A number, its two-sided 95% interval, over how many values, pairs or samples, and how it came about, in words.

    moved: as an estimate's: how far the order of samples alone moves what draws nothing.
    """

    mean: float
    low: float
    high: float
    n: int
    kind: str = "t"
    moved: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of a claim.

    word: one of WORDS, or why there is none. why: of an inconclusive one that has another reason than its interval. paired:
    whether it is over differences of the same seeds. p: the least alpha whose interval decides, None where nothing can vary.
    """

    word: str
    interval: Interval | None = None
    paired: bool = False
    why: str = ""
    p: float | None = None

    @property
    def text(self) -> str:
        return f"{self.word}: {self.why}" if self.why else self.word


def interval(estimate: Estimate) -> Interval:
    """The 95% interval of an estimate."""
    low, high = estimate.at(ALPHA)
    return Interval(estimate.mean, low, high, estimate.n, estimate.kind)


def compare(
    left: Mapping[Key, float], right: Mapping[Key, float] | None, how: str = "difference"
) -> tuple[Mean | Welch | None, bool]:
    """The mean of left, or of left against right, for values that each run draws anew, and whether it is paired.

    Args:
        left, right: values by what pairs them: the cell but for what the sides differ in, and the seed. Where both have
            some, only those count.
        how: "difference"; "ratio", left/right; "saving", 1 − left/right. The last two need pairs.

    Returns:
        (None, False) where there is nothing to compare.
    """
    if not left or (right is not None and not right):
        return None, False
    if right is None:
        return mean(list(left.values())), False
    if pairs := pairs_of(left, right):
        return mean([of_pair(a, b, how) for a, b in pairs]), True
    if how != "difference":
        return None, False
    return Welch(mean(list(left.values())), mean(list(right.values()))), False


def pairs_of(left: Mapping[Key, float], right: Mapping[Key, float]) -> list[tuple[float, float]]:
    return [(left[key], right[key]) for key in left if key in right]


def of_pair(left: float, right: float, how: str) -> float:
    """One number against another; two that rounding alone tells apart are the same."""
    if math.isclose(left, right, rel_tol=ROUNDING) and (right or how == "difference"):
        return TIE[how]
    if how == "difference":
        return left - right
    ratio = left / right if right else math.nan
    return ratio if how == "ratio" else 1 - ratio


def region(relation: str, value: float, tolerance: float, least: float = 0.0) -> tuple[float, float]:
    """Where the claim holds: closed bounds. "~" means within the tolerance of the value; least: how far beyond the value a
    difference must lie to be as large as the claim says."""
    low = -math.inf if relation == "<=" else value - tolerance + least
    high = math.inf if relation == ">=" else value + tolerance - least
    return low, high


def judge(estimate: Estimate, bounds: tuple[float, float], alpha: float = ALPHA) -> str:
    """*reproduced* where the interval lies inside the bounds, *differs* outside, *inconclusive* across one of them."""
    (low, high), (from_, to) = estimate.at(alpha), bounds
    if from_ <= low and high <= to:
        return REPRODUCED
    if high < from_ or low > to:
        return DIFFERS
    return INCONCLUSIVE


def verdict(estimate: Estimate, bounds: tuple[float, float], paired: bool = False, tie: float | None = None) -> Verdict:
    """An estimate against bounds; inconclusive, with the reason, where there are too few values or where the sides tie.

    tie: what is compared where both sides are the same, None where there is one side. A tie is never *reproduced* by a claim
    whose bound it is; where the bounds leave room on both sides of it ("at most 0.4 below"), it holds like any other number.
    """
    found = replace(interval(estimate), moved=estimate.moved)
    if not estimate.enough:
        return Verdict(INCONCLUSIVE, found, paired, "n")
    if tie in bounds and _is_tie(estimate, tie):
        return Verdict(INCONCLUSIVE, found, paired, "tie")
    return Verdict(judge(estimate, bounds), found, paired, p=p_value(estimate, bounds))


def p_value(estimate: Estimate, bounds: tuple[float, float]) -> float | None:
    """The least alpha whose (1 − alpha) interval lies wholly inside or wholly outside the bounds; None of what cannot vary.

    Found by halving on its logarithm, to six digits; below 1e-15 it is 0, and 1 where no interval decides.
    """
    if not estimate.varies:
        return None

    def decided(alpha: float) -> bool:
        return judge(estimate, bounds, alpha) != INCONCLUSIVE

    if decided(LEAST_P):
        return 0.0
    low, high = math.log(LEAST_P), 0.0
    if not decided(math.exp(high - 1e-12)):
        return 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if decided(math.exp(middle)) else (middle, high)
    return math.exp(high)


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several verdicts survive Holm's correction (1979): with all of them right in truth or not, the chance that any
    that survives is wrong is at most alpha."""
    survives = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > alpha / (len(p_values) - rank):
            break
        survives[i] = True
    return survives


def together(words: Sequence[str]) -> str:
    """The verdict on a claim about each of several places: *differs* where it differs anywhere, *reproduced* where it holds at
    each; places whose configuration was fitted decide only where there are no others."""
    if DIFFERS in words:
        return DIFFERS
    rest = [word for word in words if word != FITTED] or list(words)
    if without := next((word for word in rest if word not in WORDS), None):
        return without
    return INCONCLUSIVE if INCONCLUSIVE in rest else rest[0]


def _is_tie(estimate: Estimate, tie: float) -> bool:
    if isinstance(estimate, Repeats):
        return all(_is_tie(run, tie) for run in estimate.runs)
    if isinstance(estimate, Welch | Apart):
        sides = estimate.left, estimate.right
        return of_pair(sides[0].mean, sides[1].mean, "difference") == tie and not any(map(_spreads, sides))
    values = estimate.values if isinstance(estimate, Mean | Fixed) else (estimate.mean,)
    return all(value == tie for value in values)


def _spreads(estimate: Estimate) -> bool:
    low, high = estimate.at(0.5)
    return low != high
