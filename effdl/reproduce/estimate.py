"""What runs say of a number: a point and, for every error rate, an interval; one class for each way in which numbers vary."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scipy.special import betaincinv, stdtrit

ALPHA = 0.05
ROUNDING = 1e-9  # relative: a difference of two accuracies keeps some thirteen digits


class Estimate(ABC):
    """A number with its uncertainty.

    mean: the point; n: how many values, pairs or samples it is over. kind: how it came about, in words. needs: the fewest
    values that a verdict may rest on.
    """

    mean: float
    n: int
    kind: ClassVar[str]
    needs: ClassVar[int] = 1

    @abstractmethod
    def at(self, alpha: float) -> tuple[float, float]:
        """The two-sided interval that misses with probability alpha. A smaller alpha never gives a narrower one."""

    @property
    def enough(self) -> bool:
        return self.n >= self.needs

    @property
    def varies(self) -> bool:
        """Whether other runs could have given another number."""
        return True

    @property
    def moved(self) -> float | None:
        """How far recorded runs that draw nothing lie apart; 0 where they agree, None where that is not known, or not asked."""
        return None


@dataclass(frozen=True)
class Mean(Estimate):
    """The mean of values that each run draws anew, by Student's t: mean ± t(1 − α/2, n − 1) · s / √n.

    Equal values have no spread to work with. What is known then is the distribution-free interval of the median, from the least
    to the greatest value, which misses with probability 2^(1 − n): unbounded for fewer values than alpha asks for. Values are
    equal that rounding alone tells apart, as it does differences of equal steps.
    """

    values: tuple[float, ...]
    kind: ClassVar[str] = "t"
    needs: ClassVar[int] = 5

    @property
    def n(self) -> int:  # type: ignore[override]
        return len(self.values)

    @property
    def mean(self) -> float:  # type: ignore[override]
        if self._equal:  # without the rounding of a mean, which could lie beyond a bound
            return self.values[0]
        return math.fsum(self.values) / self.n

    @property
    def _equal(self) -> bool:
        return math.isclose(min(self.values), max(self.values), rel_tol=ROUNDING)

    @property
    def error(self) -> float:
        """Standard error s/√n."""
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (self.n - 1) / self.n)

    def at(self, alpha: float) -> tuple[float, float]:
        if self._equal:
            known = 2.0 ** (1 - self.n) <= alpha
            return (self.mean, self.mean) if known else (-math.inf, math.inf)
        half = quantile(alpha, self.n - 1) * self.error
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Welch(Estimate):
    """The difference of two means of unpaired values, whose spreads may differ (Welch 1947)."""

    left: Mean
    right: Mean
    kind: ClassVar[str] = "Welch's t"
    needs: ClassVar[int] = 5

    @property
    def n(self) -> int:  # type: ignore[override]
        return self.left.n + self.right.n

    @property
    def mean(self) -> float:  # type: ignore[override]
        return self.left.mean - self.right.mean

    @property
    def enough(self) -> bool:
        return min(self.left.n, self.right.n) >= self.needs

    def at(self, alpha: float) -> tuple[float, float]:
        if min(self.left.n, self.right.n) == 1:
            return -math.inf, math.inf
        squares = [side.error**2 for side in (self.left, self.right)]
        if sum(squares) == 0:
            return Apart(self.left, self.right).at(alpha)
        freedom = sum(squares) ** 2 / sum(
            square**2 / (side.n - 1) for square, side in zip(squares, (self.left, self.right), strict=True)
        )
        half = quantile(alpha, freedom) * math.sqrt(sum(squares))
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Share(Estimate):
    """The share of n trials in which something came true, by Clopper and Pearson (1934); it never misses more often than alpha.

    scale: of the unit, 100 for percent.
    """

    hits: int
    n: int
    scale: float = 1.0
    kind: ClassVar[str] = "Clopper–Pearson"

    @property
    def mean(self) -> float:  # type: ignore[override]
        return self.scale * self.hits / self.n

    def at(self, alpha: float) -> tuple[float, float]:
        low = betaincinv(self.hits, self.n - self.hits + 1, alpha / 2) if self.hits else 0.0
        high = betaincinv(self.hits + 1, self.n - self.hits, 1 - alpha / 2) if self.hits < self.n else 1.0
        return self.scale * float(low), self.scale * float(high)


@dataclass(frozen=True)
class Fixed(Estimate):
    """A number that cannot vary, such as bytes, or what one run of a method that draws nothing has.

    Of several places the interval reaches from the least to the greatest, so that a claim holds where it holds at each.
    """

    values: tuple[float, ...]
    kind: ClassVar[str] = "does not vary"

    @property
    def n(self) -> int:  # type: ignore[override]
        return len(self.values)

    @property
    def mean(self) -> float:  # type: ignore[override]
        low, high = self.at(ALPHA)
        return low if low == high else math.fsum(self.values) / self.n

    @property
    def varies(self) -> bool:
        return False

    @property
    def moved(self) -> float:
        return 0.0

    def at(self, alpha: float) -> tuple[float, float]:
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Repeats(Estimate):
    """A number of what draws nothing, by an estimate from each of its recorded runs. Rounding alone tells these apart, for each
    takes the samples in another order.

    The interval is the hull of theirs, so that what it decides holds whichever run one takes. n is that of one run.
    """

    runs: tuple[Estimate, ...]

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.runs[0].kind

    @property
    def n(self) -> int:  # type: ignore[override]
        return self.runs[0].n

    @property
    def mean(self) -> float:  # type: ignore[override]
        means = [run.mean for run in self.runs]
        return math.fsum(means) / len(means) if self.moved else means[0]

    @property
    def enough(self) -> bool:
        return all(run.enough for run in self.runs)

    @property
    def varies(self) -> bool:
        return any(run.varies for run in self.runs)

    @property
    def moved(self) -> float | None:
        if len(self.runs) == 1:
            return None
        low, high = min(run.mean for run in self.runs), max(run.mean for run in self.runs)
        return 0.0 if math.isclose(low, high, rel_tol=ROUNDING) else high - low

    def at(self, alpha: float) -> tuple[float, float]:
        intervals = [run.at(alpha) for run in self.runs]
        return min(low for low, _ in intervals), max(high for _, high in intervals)


@dataclass(frozen=True)
class Apart(Estimate):
    """The difference of two estimates that nothing pairs, from the interval of each (Newcombe 1998; Zou and Donner 2008).

    Between the points d apart, the bounds are d − √((m₁ − l₁)² + (u₂ − m₂)²) and d + √((u₁ − m₁)² + (m₂ − l₂)²). n is the
    smaller one of the sides that vary.
    """

    left: Estimate
    right: Estimate
    kind: ClassVar[str] = "of two intervals"

    @property
    def n(self) -> int:  # type: ignore[override]
        sides = [side for side in (self.left, self.right) if side.varies]
        return min(side.n for side in sides or (self.left, self.right))

    @property
    def mean(self) -> float:  # type: ignore[override]
        return self.left.mean - self.right.mean

    @property
    def enough(self) -> bool:
        return self.left.enough and self.right.enough

    @property
    def varies(self) -> bool:
        return self.left.varies or self.right.varies

    def at(self, alpha: float) -> tuple[float, float]:
        (l1, u1), (l2, u2) = self.left.at(alpha), self.right.at(alpha)
        below = math.hypot(self.left.mean - l1, u2 - self.right.mean)
        above = math.hypot(u1 - self.left.mean, self.right.mean - l2)
        return self.mean - below, self.mean + above


def quantile(alpha: float, freedom: float) -> float:
    """t(1 − α/2) of Student's distribution, from its lower tail, where small alphas keep their digits."""
    return -float(stdtrit(freedom, alpha / 2))


def mean(values: Sequence[float]) -> Mean:
    return Mean(tuple(values))
