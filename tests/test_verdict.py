"""Verdicts against scipy's intervals and such as tables of Student's t give by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from effdl.reproduce.estimate import Estimate, Mean, Welch, mean
from effdl.reproduce.verdict import Interval, compare, judge, region
from effdl.reproduce.verdict import interval as interval_of

ACCURACIES = [98.1, 98.3, 98.2, 98.6]
OTHERS = [97.9, 98.4, 97.6, 98.0, 98.1]


def interval(values: Sequence[float]) -> Interval:
    return interval_of(mean(values))


def welch(left: Sequence[float], right: Sequence[float]) -> Interval:
    return interval_of(Welch(mean(left), mean(right)))


def bounds(of: Interval | Estimate) -> tuple[float, float]:
    return (of.low, of.high) if isinstance(of, Interval) else of.at(0.05)


def by_seed(values: Sequence[float], first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, first))


def test_interval_of_a_mean_is_scipys() -> None:
    expected = stats.ttest_1samp(ACCURACIES, 0).confidence_interval(0.95)
    assert bounds(interval(ACCURACIES)) == pytest.approx(tuple(expected), rel=1e-12)


def test_interval_of_a_mean_worked_out_with_a_table() -> None:
    # mean 98.3, squares 0.04 + 0 + 0.01 + 0.09, s/√n = √(0.14/3)/2 = 0.10801, t(0.975, 3) = 3.182
    measured = interval(ACCURACIES)
    assert (measured.mean, measured.n) == (pytest.approx(98.3), 4)
    assert bounds(measured) == pytest.approx((98.3 - 0.34369, 98.3 + 0.34369), abs=1e-4)


def test_shared_seeds_are_compared_as_scipy_compares_pairs() -> None:
    measured, paired = compare(by_seed(ACCURACIES), by_seed(OTHERS[:4]))
    expected = stats.ttest_rel(ACCURACIES, OTHERS[:4]).confidence_interval(0.95)
    assert measured is not None and paired and measured.n == 4
    assert bounds(measured) == pytest.approx(tuple(expected), rel=1e-10)


def test_interval_of_two_pairs_worked_out_with_a_table() -> None:
    # differences 0.1 and 0.3: mean 0.2, s/√n = 0.1, t(0.975, 1) = 12.706
    measured, paired = compare({0: 5.1, 1: 7.3}, {0: 5.0, 1: 7.0})
    assert measured is not None and paired
    assert bounds(measured) == pytest.approx((0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)


def test_of_partly_shared_seeds_only_the_shared_count() -> None:
    measured, paired = compare(by_seed(ACCURACIES), by_seed(OTHERS, first=1))  # seeds 0 to 3, and 1 to 5
    expected = stats.ttest_rel(ACCURACIES[1:], OTHERS[:3]).confidence_interval(0.95)
    assert measured is not None and paired and measured.n == 3
    assert bounds(measured) == pytest.approx(tuple(expected), rel=1e-10)


def test_without_a_shared_seed_the_interval_is_welchs() -> None:
    measured, paired = compare(by_seed(ACCURACIES), by_seed(OTHERS, first=10))
    expected = stats.ttest_ind(ACCURACIES, OTHERS, equal_var=False).confidence_interval(0.95)
    assert measured is not None and not paired and measured.n == 9
    assert bounds(measured) == pytest.approx(tuple(expected), rel=1e-10)


def test_welchs_interval_worked_out_with_a_table() -> None:
    # s²/n is 1/3 on both sides, so the freedom is 4, and t(0.975, 4) = 2.776: -3 ± 2.776·√(2/3)
    assert bounds(welch([1, 2, 3], [4, 5, 6])) == pytest.approx((-3 - 2.2666, -3 + 2.2666), abs=1e-3)


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_welchs_interval_with_a_side_that_does_not_vary_is_scipys() -> None:
    expected = stats.ttest_ind(ACCURACIES, [98.0, 98.0], equal_var=False).confidence_interval(0.95)
    assert bounds(welch(ACCURACIES, [98.0, 98.0])) == pytest.approx(tuple(expected), rel=1e-10)


@pytest.mark.parametrize("right", [None, {0: 90.0}, {7: 90.0}, {7: 90.0, 8: 90.1}])
def test_one_run_is_inconclusive_however_far_off(right: dict[int, float] | None) -> None:
    measured, _ = compare({0: 10.0}, right)
    assert measured is not None
    assert judge(measured, region(">=", 0, 0.5)) == "inconclusive" == judge(measured, region("<=", 0, 0.5))


@pytest.mark.parametrize(
    ("values", "word"),
    [([-0.5] * 6, "reproduced"), ([-0.5000001] * 6, "differs"), ([0.1 + 0.2] * 6, "reproduced")],
)
def test_six_equal_values_are_judged_and_the_bound_itself_still_holds(values: list[float], word: str) -> None:
    assert judge(mean(values), region(">=", 0, 0.5)) == word
    assert judge(mean([-value for value in values]), region("<=", 0, 0.5)) == word


def test_mean_of_equal_values_is_that_value() -> None:
    assert interval([0.1] * 10) == Interval(0.1, 0.1, 0.1, 10)  # though ten times 0.1, summed, is below 1


def test_within_a_tolerance_of_a_value_has_two_bounds() -> None:
    assert [judge(mean([v] * 6), region("~", 10, 0.5)) for v in (9.4, 9.5, 10.5, 10.6)] == [
        "differs",
        "reproduced",
        "reproduced",
        "differs",
    ]
    assert judge(mean([9.0, 10.0, 11.0, 10.0, 10.0]), region("~", 10, 0.5)) == "inconclusive"


def test_ratio_and_saving_are_of_pairs() -> None:
    ratio, paired = compare({0: 3.0, 1: 8.0, 5: 1.0}, {0: 10.0, 1: 20.0}, "ratio")
    assert ratio is not None and paired
    assert bounds(ratio) == pytest.approx(tuple(stats.ttest_1samp([0.3, 0.4], 0).confidence_interval(0.95)))
    saving, _ = compare({0: 3.0, 1: 8.0}, {0: 10.0, 1: 20.0}, "saving")
    assert isinstance(saving, Mean) and saving.mean == pytest.approx(0.65)
    assert compare({0: 3.0}, {1: 10.0}, "ratio") == (None, False)


def test_ratio_to_nothing_is_no_verdict_for_either_side() -> None:
    measured, _ = compare({0: 3.0, 1: 4.0}, {0: 0.0, 1: 2.0}, "ratio")
    assert measured is not None
    assert judge(measured, region(">=", 1, 0)) == judge(measured, region("<=", 1, 0)) == "inconclusive"


numbers = st.integers(-1000, 1000).map(lambda i: i / 8)  # exact in floats, so that bounds are met exactly
samples = st.lists(numbers, min_size=1, max_size=8)
relations = st.sampled_from([">=", "<=", "~"])
tolerances = st.integers(0, 400).map(lambda i: i / 8)


@given(samples, samples, st.booleans(), numbers, tolerances)
def test_more_on_the_left_is_less_on_the_right(a: list[float], b: list[float], shared: bool, value: float, tol: float) -> None:
    left, right = by_seed(a), by_seed(b, 0 if shared else 10)
    one, _ = compare(left, right)
    other, _ = compare(right, left)
    assert one is not None and other is not None
    assert judge(one, region(">=", value, tol)) == judge(other, region("<=", -value, tol))


@given(samples, samples, st.booleans())
def test_swapped_sides_of_a_difference_that_is_there_flip_the_verdict(a: list[float], b: list[float], shared: bool) -> None:
    left, right = by_seed(a), by_seed(b, 0 if shared else 10)
    one, _ = compare(left, right)
    other, _ = compare(right, left)
    assert one is not None and other is not None
    flipped = {"reproduced": "differs", "differs": "reproduced", "inconclusive": "inconclusive"}
    if 0 not in bounds(one):  # at the bound itself both hold
        assert judge(other, region(">=", 0, 0)) == flipped[judge(one, region(">=", 0, 0))]


@given(samples, numbers, relations, numbers, tolerances)
def test_verdict_does_not_move_with_a_shift_of_all(a: list[float], by: float, relation: str, value: float, tol: float) -> None:
    here, there = mean(a), mean([x + by for x in a])
    if math.isfinite(bounds(here)[0]):
        assert bounds(there) == pytest.approx(tuple(bound + by for bound in bounds(here)), abs=1e-9)
    edges = [abs(x - y) for x in bounds(here) for y in region(relation, value, tol) if math.isfinite(x) and math.isfinite(y)]
    if min(edges, default=1) > 1e-9:
        assert judge(there, region(relation, value + by, tol)) == judge(here, region(relation, value, tol))


@given(samples, relations, numbers, tolerances, tolerances)
def test_wider_tolerance_only_ever_helps_a_claim(a: list[float], relation: str, value: float, tol: float, more: float) -> None:
    order = ["differs", "inconclusive", "reproduced"]
    narrow, wide = (judge(mean(a), region(relation, value, t)) for t in (tol, tol + more))
    assert order.index(wide) >= order.index(narrow)


@given(samples, st.randoms())
def test_order_of_the_runs_moves_nothing(a: list[float], random: Any) -> None:
    shuffled = list(a)
    random.shuffle(shuffled)
    assert interval(shuffled) == interval(a)
