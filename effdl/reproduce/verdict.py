"""The one rule that says whether a claim holds: a 95% t-interval over seeds against the declared tolerance."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.special import stdtrit

Key = TypeVar("Key", bound=Hashable)
LEVEL = 0.95
WORDS = ("reproduced", "differs", "inconclusive")


@dataclass(frozen=True)
class Interval:
    """A mean, its two-sided 95% t-interval, and how many values it is over; the same bound twice where nothing varies."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Verdict:
    """What came of a claim. word: one of WORDS, or why there is none; paired: whether it is over differences of the same
    seeds."""

    word: str
    interval: Interval | None = None
    paired: bool = False


def interval(values: Sequence[float]) -> Interval:
    """mean ± t(0.975, n − 1) · s / √n, s the sample standard deviation; unbounded for one value."""
    n = len(values)
    if n == 1:
        return Interval(values[0], -math.inf, math.inf, 1)
    if min(values) == max(values):  # without the rounding of a mean, which could lie beyond a bound
        return Interval(values[0], values[0], values[0], n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = _quantile(n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def welch(left: Sequence[float], right: Sequence[float]) -> Interval:
    """Interval of the difference of two means of unpaired values (Welch 1947); unbounded where a side has one value."""
    a, b = interval(left), interval(right)
    mean = a.mean - b.mean
    if min(a.n, b.n) == 1:
        return Interval(mean, -math.inf, math.inf, a.n + b.n)
    errors = [((i.high - i.low) / 2 / _quantile(i.n - 1)) ** 2 for i in (a, b)]  # s²/n of each
    total = sum(errors)
    if total == 0:
        return Interval(mean, mean, mean, a.n + b.n)
    freedom = total**2 / sum(e**2 / (i.n - 1) for e, i in zip(errors, (a, b), strict=True))
    half = _quantile(freedom) * math.sqrt(total)
    return Interval(mean, mean - half, mean + half, a.n + b.n)


def compare(
    left: Mapping[Key, float], right: Mapping[Key, float] | None, how: str = "difference"
) -> tuple[Interval | None, bool]:
    """The interval of left, or of left against right, and whether it is paired.

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
        return interval(list(left.values())), False
    shared = [key for key in left if key in right]
    if shared:
        pairs = [(left[key], right[key]) for key in shared]
        return interval([_of_pair(a, b, how) for a, b in pairs]), True
    if how != "difference":
        return None, False
    return welch(list(left.values()), list(right.values())), False


def region(relation: str, value: float, tolerance: float) -> tuple[float, float]:
    """Where the claim holds: closed bounds. "~" means within the tolerance of the value."""
    low = -math.inf if relation == "<=" else value - tolerance
    high = math.inf if relation == ">=" else value + tolerance
    return low, high


def judge(measured: Interval, bounds: tuple[float, float]) -> str:
    """*reproduced* where the interval lies inside the bounds, *differs* outside, *inconclusive* across one of them."""
    low, high = bounds
    if low <= measured.low and measured.high <= high:
        return "reproduced"
    if measured.high < low or measured.low > high:
        return "differs"
    return "inconclusive"


def _of_pair(left: float, right: float, how: str) -> float:
    if how == "difference":
        return left - right
    ratio = left / right if right else math.nan
    return ratio if how == "ratio" else 1 - ratio


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))
