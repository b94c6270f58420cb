"""Verdicts against scipy's intervals and such as tables of Student's t give by hand; what a claim says where there is none."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from declared import Told, declare, lines
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from effdl.errors import RecordError
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import Judged, absolute, judged
from effdl.reproduce.report import summary
from effdl.reproduce.verdict import Interval, compare, interval, judge, region, welch

ACCURACIES = [98.1, 98.3, 98.2, 98.6]
OTHERS = [97.9, 98.4, 97.6, 98.0, 98.1]


def bounds(of: Interval) -> tuple[float, float]:
    return of.low, of.high


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
    [([-0.5] * 3, "reproduced"), ([-0.5000001] * 3, "differs"), ([0.1 + 0.2] * 2, "reproduced")],
)
def test_without_spread_the_bound_itself_still_holds(values: list[float], word: str) -> None:
    assert judge(interval(values), region(">=", 0, 0.5)) == word
    assert judge(interval([-value for value in values]), region("<=", 0, 0.5)) == word


def test_mean_of_equal_values_is_that_value() -> None:
    assert interval([0.1] * 10) == Interval(0.1, 0.1, 0.1, 10)  # though ten times 0.1, summed, is below 1


def test_within_a_tolerance_of_a_value_has_two_bounds() -> None:
    assert [judge(interval([v] * 2), region("~", 10, 0.5)) for v in (9.4, 9.5, 10.5, 10.6)] == [
        "differs",
        "reproduced",
        "reproduced",
        "differs",
    ]
    assert judge(Interval(10, 9, 11, 3), region("~", 10, 0.5)) == "inconclusive"


def test_ratio_and_saving_are_of_pairs() -> None:
    ratio, paired = compare({0: 3.0, 1: 8.0, 5: 1.0}, {0: 10.0, 1: 20.0}, "ratio")
    assert ratio is not None and paired
    assert bounds(ratio) == pytest.approx(tuple(stats.ttest_1samp([0.3, 0.4], 0).confidence_interval(0.95)))
    saving, _ = compare({0: 3.0, 1: 8.0}, {0: 10.0, 1: 20.0}, "saving")
    assert saving is not None and saving.mean == pytest.approx(0.65)
    assert compare({0: 3.0}, {1: 10.0}, "ratio") == (None, False)


def test_ratio_to_nothing_is_no_verdict_for_either_side() -> None:
    measured, _ = compare({0: 3.0, 1: 4.0}, {0: 0.0, 1: 2.0}, "ratio")
    assert measured is not None
    assert judge(measured, region(">=", 1, 0)) == judge(measured, region("<=", 1, 0)) == "inconclusive"


numbers = st.integers(-1000, 1000).map(lambda i: i / 8)  # exact in floats, so that bounds are met exactly
samples = st.lists(numbers, min_size=1, max_size=6)
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
    here, there = interval(a), interval([x + by for x in a])
    if here.n > 1:
        assert (there.low, there.high) == pytest.approx((here.low + by, here.high + by), abs=1e-9)
    edges = [abs(x - y) for x in bounds(here) for y in region(relation, value, tol) if math.isfinite(x) and math.isfinite(y)]
    if min(edges, default=1) > 1e-9:
        assert judge(there, region(relation, value + by, tol)) == judge(here, region(relation, value, tol))


@given(samples, relations, numbers, tolerances, tolerances)
def test_wider_tolerance_only_ever_helps_a_claim(a: list[float], relation: str, value: float, tol: float, more: float) -> None:
    order = ["differs", "inconclusive", "reproduced"]
    narrow, wide = (judge(interval(a), region(relation, value, t)) for t in (tol, tol + more))
    assert order.index(wide) >= order.index(narrow)


@given(samples, st.randoms())
def test_order_of_the_runs_moves_nothing(a: list[float], random: Any) -> None:
    shuffled = list(a)
    random.shuffle(shuffled)
    assert interval(shuffled) == interval(a)


# What a declared claim says of the runs of its cells.


def cells(**told: Told) -> dict[str, Told]:
    """few_base=... as the name of its cell."""
    return {"data={},method={}".format(*name.split("_")): values for name, values in told.items()}


def verdicts(
    folder: Path, told: Mapping[str, Any], changes: Mapping[str, Any] | None = None, metric: str = "test/acc"
) -> list[Judged]:
    declaration = declare(folder, changes)
    return judged(declaration, "smoke", frame(declaration, "smoke", lines(told, metric=metric)))


LEVEL = cells(few_base=[0.9, 0.91], few_ours=[0.92, 0.93], many_base=[0.9, 0.9], many_ours=[0.88, 0.88])

STEPS = ([0.5, 0.6], [0.6, 0.7], [0.55, 0.65], [0.75, 0.85])


def test_each_level_is_judged_by_itself_in_the_unit_of_the_claim(tmp_path: Path) -> None:
    few, many = verdicts(tmp_path, LEVEL)
    assert (few.at, few.verdict.word, few.verdict.paired) == ({"data": "few"}, "reproduced", True)
    assert few.verdict.interval is not None and few.verdict.interval.mean == pytest.approx(2.0)
    assert (many.at, many.verdict.word) == ({"data": "many"}, "differs")
    assert few.bounds == (-0.5, math.inf)


@pytest.mark.parametrize(
    ("few_ours", "word"),
    [
        ("no data", "no data"),
        (["diverged", 0.9], "diverged (1 of 2)"),
        (["failed", "failed"], "failed (2 of 2)"),
        ([0.92], "incomplete (1 of 2)"),
    ],
)
def test_cell_without_numbers_gives_its_reason_and_the_others_their_verdict(few_ours: Any, word: str, tmp_path: Path) -> None:
    few, many = verdicts(tmp_path, {**LEVEL, **cells(few_ours=few_ours)})
    assert (few.verdict.word, many.verdict.word) == (word, "differs")


def test_cell_that_was_not_run_says_so(tmp_path: Path) -> None:
    told = {name: values for name, values in LEVEL.items() if name != "data=few,method=ours"}
    few, many = verdicts(tmp_path, told)
    assert (few.verdict.word, [cell.name for cell in few.without]) == ("not run", ["data=few,method=ours"])
    assert (many.verdict.word, many.without) == ("differs", [])


POOLED = {"claims/level/each": [], "claims/level/tolerance": 100}


def test_pooled_claim_is_over_the_pairs_of_all_levels(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, LEVEL, POOLED)
    expected = stats.ttest_1samp([2, 2, -2, -2], 0).confidence_interval(0.95)
    assert one.verdict.interval is not None and one.verdict.paired and one.verdict.interval.n == 4
    assert bounds(one.verdict.interval) == pytest.approx(tuple(expected))


def test_pooled_claim_leaves_out_cells_without_runs_and_says_which(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, {**LEVEL, **cells(many_ours="no data")}, POOLED)
    assert one.verdict.interval is not None and (one.verdict.interval.n, one.verdict.word) == (2, "reproduced")
    assert [cell.name for cell in one.without] == ["data=many,method=ours"]


def test_pooled_claim_with_nothing_on_one_side_has_the_reason_of_that_side(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, {**LEVEL, **cells(few_ours="no data", many_ours="no data")}, POOLED)
    assert (one.verdict.word, one.verdict.interval) == ("no data", None)


def test_claim_without_a_right_side_is_over_all_runs_of_all_its_cells(tmp_path: Path) -> None:
    claim = {"says": "trained", "left": {"method": ["base", "ours"]}, "relation": ">=", "value": 80}
    (one,) = verdicts(tmp_path, LEVEL, {"claims/level": claim})
    expected = stats.ttest_1samp([90, 91, 92, 93, 90, 90, 88, 88], 0).confidence_interval(0.95)
    assert one.verdict.interval is not None and (one.verdict.interval.n, one.verdict.paired) == (8, False)
    assert bounds(one.verdict.interval) == pytest.approx(tuple(expected))


def test_metric_that_no_run_has_is_named(tmp_path: Path) -> None:
    assert {one.verdict.word for one in verdicts(tmp_path, LEVEL, {"claims/level/metric": "test/accc"})} == {"no test/accc"}


def test_metric_that_some_runs_lack_gives_no_verdict_from_the_others(tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    told = lines(LEVEL)
    told[1]["runs"][0]["numbers"]["test/acc"] = None
    few, many = judged(declaration, "smoke", frame(declaration, "smoke", told))
    assert (few.verdict.word, many.verdict.word) == ("no test/acc in 1 of 2", "differs")


def test_places_that_one_side_alone_has_are_compared_with_nothing(tmp_path: Path) -> None:
    told = cells(few_base=[0.9, 0.9], few_ours="no data", many_base="no data", many_ours=[0.1, 0.1])
    (one,) = verdicts(tmp_path, told, POOLED)
    assert (one.verdict.word, one.verdict.interval) == ("no pairs", None)
    assert {cell.name for cell in one.without} == {"data=few,method=ours", "data=many,method=base"}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda told: told.append(told[0]), r"^toy: data=few,method=base has seed 0 twice; delete one of its lines"),
        (lambda told: told[0]["runs"].append({**told[0]["runs"][1], "run_id": "x"}), r"has seed 1 twice"),
        (lambda told: told.append({**told[0], "data": "other", "runs": [{**told[0]["runs"][0], "seed": 5}]}), "different data"),
    ],
)
def test_cell_with_a_seed_twice_or_several_data_sets_has_no_numbers(spoil: Any, says: str, tmp_path: Path) -> None:
    told = lines(LEVEL)
    spoil(told)
    with pytest.raises(RecordError, match=says):
        frame(declare(tmp_path), "smoke", told)


def test_run_that_several_cells_share_counts_once(tmp_path: Path) -> None:
    declaration = declare(tmp_path, POOLED)
    told = lines(cells(few_base=[0.9, 0.9], few_ours=[0.9, 0.92], many_base=[0.9, 0.9], many_ours=[0.9, 0.92]))
    for few, many in ((0, 2), (1, 3)):
        for of_few, of_many in zip(told[few]["runs"], told[many]["runs"], strict=True):
            of_many["run_id"] = of_few["run_id"]
    (one,) = judged(declaration, "smoke", frame(declaration, "smoke", told))
    assert one.verdict.interval is not None and one.verdict.interval.n == 2


@pytest.mark.parametrize(("base", "word"), [([0.90, 0.92], "reproduced"), ([0.90, 0.9198], "undertrained")])
def test_mean_just_under_its_floor_is_undertrained_and_at_it_is_judged(base: list[float], word: str, tmp_path: Path) -> None:
    floors = {"scales/smoke/floors": [{"where": {"method": "base"}, "at_least": 91}]}
    ours = [value + 0.01 for value in base]
    few, many = verdicts(tmp_path, {**LEVEL, **cells(few_base=base, few_ours=ours, many_base=[0.99, 0.99])}, floors)
    assert (few.verdict.word, many.verdict.word) == (word, "differs")


def test_floor_of_one_cell_is_not_asked_of_another(tmp_path: Path) -> None:
    floors = {"scales/smoke/floors": [{"where": {"method": "base", "data": "many"}, "at_least": 91}]}
    few, many = verdicts(tmp_path, LEVEL, floors)
    assert (few.verdict.word, many.verdict.word) == ("reproduced", "undertrained")


VARIANT = {
    "assumptions": {
        "width": {"why": "?", "choices": {"eight": {"label": "8"}, "nine": {"label": "9", "set": {"arch.hidden": [9, 9]}}}}
    },
    "scales/smoke/grid": [{"choose": {"width": ["nine"]}}],
}


def test_runs_under_another_assumption_stay_out_of_the_claims_and_have_their_own(tmp_path: Path) -> None:
    under = {f"{name},width=nine": [0.5, 0.6] if "base" in name else [0.1, 0.1] for name in LEVEL}
    assert [one.verdict for one in verdicts(tmp_path, {**LEVEL, **under}, VARIANT)] == [
        one.verdict for one in verdicts(tmp_path / "without", LEVEL)
    ]
    declaration = declare(tmp_path, VARIANT)
    runs = frame(declaration, "smoke", lines({**LEVEL, **under}))
    few, _ = judged(declaration, "smoke", runs, {"width": "nine"})
    assert few.verdict.interval is not None and few.verdict.interval.mean == pytest.approx(-45)


def test_rows_under_another_assumption_fold_away_on_pages(tmp_path: Path) -> None:
    under = {f"{name},width=nine": [0.5, 0.6] for name in LEVEL}
    declaration = declare(tmp_path, VARIANT)
    runs = frame(declaration, "smoke", lines({**LEVEL, **under}))
    plain, folded = (summary(declaration, "smoke", runs, folded=each) for each in (False, True))
    assert "<details>" not in plain and plain.count("few") == folded.count("few")
    before, inside = folded.split("<details>")
    assert "few, 9" in inside.split("</details>")[0] and ", 9" not in before
    assert "<details>" not in summary(declare(tmp_path / "own"), "smoke", runs, folded=True)


def test_levels_that_a_scale_does_not_have_are_not_judged(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, {k: v for k, v in LEVEL.items() if "many" in k}, {"scales/smoke/where": {"data": "many"}})
    assert (one.at, one.verdict.word) == ({"data": "many"}, "differs")


def test_levels_outside_of_a_claims_where_are_not_judged(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, LEVEL, {"claims/level/where": {"data": "few"}})
    assert (one.at, one.verdict.word) == ({"data": "few"}, "reproduced")


def test_a_claim_along_an_axis_compares_each_level_with_the_one_before(tmp_path: Path) -> None:
    sizes = {"data": {name: {"set": {"dataset.train_limit": 256 + i}} for i, name in enumerate("abcd")}}
    steps = dict(zip("abcd", STEPS, strict=True))
    told = {f"data={name},method={method}": values for name, values in steps.items() for method in ("base", "ours")}
    claim = {"says": "more is better", "left": {"method": "ours"}, "along": "data", "relation": ">="}
    found = verdicts(tmp_path, told, {"axes/data": sizes["data"], "claims": {"more": claim}})
    assert [one.at for one in found] == [{"data": "b"}, {"data": "c"}, {"data": "d"}]
    assert [one.verdict.word for one in found] == ["reproduced", "differs", "reproduced"]
    means = [one.verdict.interval.mean for one in found if one.verdict.interval is not None]
    assert means == pytest.approx([10, -5, 20]) and all(one.verdict.paired for one in found)


@pytest.mark.parametrize(("unit", "mean"), [("percent", 30.0), (None, 0.3)])
def test_ratio_has_the_unit_that_the_claim_itself_names(unit: str | None, mean: float, tmp_path: Path) -> None:
    ratio = {"metric": "memory", "compare": "ratio", "relation": "~", "value": mean, **({"unit": unit} if unit else {})}
    few, _ = verdicts(
        tmp_path,
        cells(few_base=[200, 100], few_ours=[60, 30], many_base=[1, 1], many_ours=[1, 1]),
        {f"claims/level/{key}": value for key, value in ratio.items()},
        "memory",
    )
    assert few.verdict.interval is not None and few.verdict.interval.mean == pytest.approx(mean)


def test_saving_is_in_percent_of_the_right_side(tmp_path: Path) -> None:
    saving = {"metric": "memory", "compare": "saving", "value": 40, "tolerance": 0, "unit": "percent"}
    few, many = verdicts(
        tmp_path,
        cells(few_base=[200, 200], few_ours=[100, 100], many_base=[200, 200], many_ours=[130, 130]),
        {f"claims/level/{key}": value for key, value in saving.items()},
        "memory",
    )
    assert few.verdict.interval == Interval(50, 50, 50, 2) and few.verdict.word == "reproduced"
    assert many.verdict.interval is not None and many.verdict.interval.mean == pytest.approx(35)
    assert many.verdict.word == "differs"


@pytest.mark.parametrize(
    ("scale", "values", "word"),
    [
        ("smoke", [0.9954] * 2, "below paper scale"),
        ("paper", [0.9954] * 2, "reproduced"),
        ("paper", [0.9920] * 2, "differs"),
        ("paper", [0.9954], "incomplete (1 of 2)"),
        ("paper", ["diverged"], "diverged (1 of 1)"),
        ("paper", "no data", "no data"),
    ],
)
def test_published_number_by_itself_is_judged_at_paper_scale_only(scale: str, values: Any, word: str, tmp_path: Path) -> None:
    printed = {"dataset": "MNIST", "architecture_key": "vanilla_cnn_4", "method": "baseline"}  # 99.54
    changes = {
        "published": {"csv": "table_6_1.csv", "tolerance": 0.3},
        "axes/data/few": {"row": {}},
        "axes/data/many": {"row": None},
        "axes/method/base/row": printed,
        "axes/method/ours/row": None,
        "scales/paper": {"about": "all", "seeds": 2},
    }
    declaration = declare(tmp_path, changes)
    name = "data=few,method=base"
    (cell,) = [cell for cell in declaration.cells(scale) if cell.name == name]
    runs = frame(declaration, scale, lines({name: values}, scale))
    assert (cell.published, absolute(declaration, scale, runs, cell)) == (99.54, word)
