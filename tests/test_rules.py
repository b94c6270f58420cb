"""What each verdict rule promises, on made-up families of claims whose truth is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from effdl.reproduce.estimate import Apart, Estimate, Fixed, Mean, Repeats, Share, Welch, mean
from effdl.reproduce.verdict import (
    DIFFERS,
    FITTED,
    INCONCLUSIVE,
    REPRODUCED,
    compare,
    holm,
    interval,
    judge,
    p_value,
    region,
    together,
    verdict,
)

NULLS = 2000
Draw = Callable[[np.random.Generator], Estimate]


def share_of_wrong(draw: Draw, bounds: tuple[float, float], word: str, seed: int = 0) -> float:
    """Of 2,000 made-up claims, how many get this word."""
    generator = np.random.default_rng(seed)
    return sum(judge(draw(generator), bounds) == word for _ in range(NULLS)) / NULLS


def within(share: float, promised: float) -> bool:
    """Whether a share of 2,000 is what was promised, to three standard errors."""
    return abs(share - promised) <= 3 * math.sqrt(promised * (1 - promised) / NULLS)


AT_THE_BOUND: dict[str, Draw] = {
    "t of 5": lambda g: mean(g.normal(0, 1, 5)),
    "t of 20": lambda g: mean(g.normal(0, 3, 20)),
    "Welch, 5 and 12": lambda g: Welch(mean(g.normal(1, 1, 5)), mean(g.normal(1, 4, 12))),
}


@pytest.mark.parametrize("draw", AT_THE_BOUND.values(), ids=AT_THE_BOUND)
@pytest.mark.parametrize("word", [REPRODUCED, DIFFERS])
def test_a_claim_exactly_at_its_bound_is_decided_wrongly_in_one_of_forty_on_each_side(draw: Draw, word: str) -> None:
    assert within(share_of_wrong(draw, region(">=", 0, 0), word), 0.025)


@pytest.mark.parametrize("truth", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("n", [20, 200])
def test_shares_are_decided_wrongly_no_more_often_than_promised(truth: float, n: int) -> None:
    for word in (REPRODUCED, DIFFERS):
        wrong = share_of_wrong(lambda g: Share(int(g.binomial(n, truth)), n), region(">=", truth, 0), word)
        assert wrong <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / NULLS)


def test_difference_of_two_shares_and_of_a_share_and_a_mean_keep_their_promise() -> None:
    def shares(g: np.random.Generator) -> Estimate:
        return Apart(Share(int(g.binomial(400, 0.9)), 400), Share(int(g.binomial(400, 0.9)), 400))

    def mixed(g: np.random.Generator) -> Estimate:
        return Apart(mean(g.normal(0.9, 0.01, 8)), Share(int(g.binomial(400, 0.9)), 400))

    for draw in (shares, mixed):
        for word in (REPRODUCED, DIFFERS):
            assert share_of_wrong(draw, region(">=", 0, 0), word) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / NULLS)


def test_runs_that_rounding_alone_tells_apart_keep_the_promise_of_each_and_decide_only_together() -> None:
    """Networks that are right on 90% of all images in truth, each recorded five times, an image or so decided by rounding."""

    def recorded(g: np.random.Generator) -> Repeats:
        right = int(g.binomial(400, 0.9))
        return Repeats(tuple(Share(min(right + int(g.integers(-1, 2)), 400), 400) for _ in range(5)))

    generator, bounds = np.random.default_rng(0), region(">=", 0.9, 0)
    made = [recorded(generator) for _ in range(NULLS)]
    alone = [[judge(run, bounds) for run in one.runs] for one in made]
    together_ = [judge(one, bounds) for one in made]
    assert max(together_.count(REPRODUCED), together_.count(DIFFERS)) / NULLS <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / NULLS)
    assert sum(len(set(words)) > 1 for words in alone) > 0  # which one run alone would have decided either way
    assert all(word == INCONCLUSIVE or {*words} == {word} for word, words in zip(together_, alone, strict=True))


def test_recorded_runs_agree_up_to_rounding_or_are_told_apart_and_one_says_neither() -> None:
    same, apart = Repeats((Fixed((0.5,)), Fixed((0.5 + 1e-12,)))), Repeats((Fixed((0.5,)), Fixed((0.7,))))
    assert (same.moved, apart.moved, Repeats((Fixed((0.5,)),)).moved) == (0.0, pytest.approx(0.2), None)
    assert (same.mean, apart.mean, apart.at(0.05)) == (0.5, pytest.approx(0.6), (0.5, 0.7))
    assert p_value(apart, region(">=", 0.6, 0)) is None and Fixed((1.0,)).moved == 0.0 and mean([1.0, 2.0]).moved is None


def test_values_that_all_agree_by_chance_are_decided_wrongly_no_more_often_than_promised() -> None:
    def fits(g: np.random.Generator) -> Estimate:
        return mean(np.where(g.random(6) < 0.5, 1.0, 0.0))  # of which the median is no more 1 than 0

    assert share_of_wrong(fits, region(">=", 1, 0), REPRODUCED) <= 2.0**-5


def test_five_equal_values_tell_nothing_and_six_their_median() -> None:
    assert interval(mean([1.0] * 5)).low == -math.inf
    assert (interval(mean([1.0] * 6)).low, interval(mean([1.0] * 6)).high) == (1.0, 1.0)
    assert p_value(mean([1.0] * 6), (0.5, math.inf)) == pytest.approx(2**-5, rel=1e-4)


def test_of_a_family_of_nulls_holm_lets_a_wrong_verdict_survive_in_one_family_of_twenty() -> None:
    generator, families, size = np.random.default_rng(1), 400, 5  # 2,000 nulls
    plain = corrected = 0
    for _ in range(families):
        p = [p_value(mean(generator.normal(0, 1, 6)), region(">=", 0, 0)) for _ in range(size)]
        plain += any(one is not None and one <= 0.05 for one in p)
        corrected += any(holm([one for one in p if one is not None]))
    assert plain / families > 0.15  # 1 - 0.95^5 = 0.23
    assert corrected / families <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)


def test_holm_is_what_its_paper_works_out() -> None:
    # Holm (1979): 0.01 ≤ 0.05/4, 0.015 ≤ 0.05/3, 0.03 > 0.05/2, so the third and all after it fall
    assert holm([0.03, 0.01, 0.2, 0.015]) == [False, True, False, True]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0, 5.5], [-0.2, 0.1, 0.4, 0.3, 0.2, 0.9]])
def test_p_is_scipys_of_a_two_sided_test_at_the_bound(values: list[float]) -> None:
    assert p_value(mean(values), region(">=", 0, 0)) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-5)


def test_p_of_a_share_is_the_alpha_at_which_its_interval_reaches_the_bound() -> None:
    p = p_value(Share(17, 20), region(">=", 0.5, 0))
    assert p is not None
    low = stats.binomtest(17, 20).proportion_ci(1 - p, method="exact").low
    assert low == pytest.approx(0.5, abs=1e-5)


def test_p_of_an_interval_that_crosses_at_every_alpha_is_one_and_of_what_cannot_vary_none() -> None:
    assert p_value(mean([-1.0, 1.0, -2.0, 2.0, 0.0]), region(">=", 0, 0)) == 1.0
    assert p_value(Fixed((3.0,)), region(">=", 0, 0)) is None


@pytest.mark.parametrize(("hits", "n"), [(0, 200), (17, 20), (20, 20), (9741, 10_000)])
def test_clopper_and_pearsons_interval_is_scipys(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    found = interval(Share(hits, n, 100))
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high), rel=1e-9)


def test_none_of_two_hundred_is_a_share_of_up_to_1p83_percent() -> None:
    found = interval(Share(0, 200, 100))
    assert found.low == 0 and found.high == pytest.approx(1.83, abs=0.005)  # 1 − 0.025^(1/200)
    assert judge(Share(0, 200, 100), region("<=", 1, 0)) == INCONCLUSIVE == judge(Share(0, 200, 100), region(">=", 1, 0))


def test_difference_of_two_intervals_worked_out_by_hand() -> None:
    # shares 8/10 and 5/10, exact intervals [0.4439, 0.9748] and [0.1871, 0.8129]:
    # 0.3 − √(0.3561² + 0.3129²) = −0.1740, 0.3 + √(0.1748² + 0.3129²) = 0.6584
    found = interval(Apart(Share(8, 10), Share(5, 10)))
    assert (found.low, found.high) == pytest.approx((-0.1740, 0.6584), abs=2e-4)


def test_n_of_a_difference_is_of_the_side_that_varies() -> None:
    drawn = mean([0.5, 0.6, 0.7, 0.6, 0.5])
    assert Apart(drawn, Fixed((0.4,))).n == Apart(Fixed((0.4,)), drawn).n == 5
    assert Apart(drawn, Share(9000, 10_000)).n == 5 and Apart(Fixed((0.4,)), Fixed((0.3,))).n == 1


@pytest.mark.parametrize("relation", [">=", "<="])
def test_a_tie_is_never_reproduced_by_a_claim_whose_bound_it_is(relation: str) -> None:
    told = verdict(mean([0.0] * 10), region(relation, 0, 0), True, tie=0.0)
    assert (told.word, told.why) == (INCONCLUSIVE, "tie")
    fixed = verdict(Fixed((1.0,)), region(relation, 1, 0), tie=1.0)
    assert (fixed.word, fixed.why) == (INCONCLUSIVE, "tie")


@pytest.mark.parametrize("relation", [">=", "<="])
def test_what_rounding_alone_tells_apart_is_a_tie(relation: str) -> None:
    left = {seed: 0.9 + seed / 100 for seed in range(5)}
    right = {seed: value * (1 + 1e-15) for seed, value in left.items()}
    assert any(left[seed] != right[seed] for seed in left)
    found, paired = compare(left, right)
    assert found is not None and paired
    told = verdict(found, region(relation, 0, 0), paired, tie=0.0)
    assert (told.word, told.why) == (INCONCLUSIVE, "tie")
    two = Apart(Fixed((0.3,)), Fixed((0.1 + 0.2,)))
    assert two.mean != 0
    assert verdict(two, region(relation, 0, 0), tie=0.0).why == "tie"
    assert verdict(Repeats((two, two)), region(relation, 0, 0), tie=0.0).why == "tie"
    small = compare(dict.fromkeys(range(6), 1e-15), dict.fromkeys(range(6), 2e-15))[0]  # of which one is half
    assert small is not None and verdict(small, region("<=", 0, 0), True, tie=0.0).word == REPRODUCED


def test_a_tie_holds_where_the_bounds_leave_room_on_both_sides() -> None:
    assert verdict(mean([0.0] * 10), region(">=", 0, 0.4), True, tie=0.0).word == REPRODUCED
    assert verdict(mean([0.0] * 10), region("~", 0, 0.4), True, tie=0.0).word == REPRODUCED


def test_a_relation_with_a_size_needs_its_least_difference() -> None:
    small, large = mean([1.0, 1.1, 0.9, 1.0, 1.05]), mean([3.0, 3.1, 2.9, 3.0, 3.05])
    assert [judge(one, region(">=", 0, 0, least=2)) for one in (small, large)] == [DIFFERS, REPRODUCED]
    assert judge(Mean(tuple(-v for v in large.values)), region("<=", 0, 0, least=2)) == REPRODUCED


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_fewer_than_five_values_are_inconclusive_for_want_of_them(n: int) -> None:
    told = verdict(mean([5.0 + 0.001 * i for i in range(n)]), region(">=", 0, 0))
    assert (told.word, told.why) == (INCONCLUSIVE, "n")
    welch = Welch(mean([5.0, 5.1, 5.2, 5.3, 5.4, 5.5]), mean([1.0 + 0.001 * i for i in range(n)]))
    assert verdict(welch, region(">=", 0, 0)).why == "n"


def test_one_run_of_what_cannot_vary_is_judged() -> None:
    assert verdict(Fixed((30.2,)), region("~", 30, 0.5)).word == REPRODUCED
    assert verdict(Fixed((30.6,)), region("~", 30, 0.5)).word == DIFFERS
    assert verdict(Fixed((30.2, 30.6)), region("~", 30, 0.5)).word == INCONCLUSIVE  # it does not hold at each place


@pytest.mark.parametrize(
    ("words", "all_in_all"),
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, DIFFERS, "not run"], DIFFERS),
        ([REPRODUCED, INCONCLUSIVE], INCONCLUSIVE),
        ([REPRODUCED, "no data"], "no data"),
        ([FITTED, FITTED], FITTED),
        ([FITTED, REPRODUCED], REPRODUCED),
        ([FITTED, INCONCLUSIVE], INCONCLUSIVE),
    ],
)
def test_a_claim_about_each_place_holds_where_it_holds_at_each(words: list[str], all_in_all: str) -> None:
    assert together(words) == all_in_all
