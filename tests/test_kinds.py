"""What a claim is about: values, shares, differences of a run's own, fitted places, and cells that draw nothing."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from declared import DRAWS_NOTHING, LEVEL, REMOVED, SEEDS, cells, declare, lines, verdicts
from scipy import stats

from effdl import config
from effdl.reproduce import ledger
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import absolute
from effdl.reproduce.report import report
from effdl.training.decision import Pool

Line = dict[str, Any]


def claim(**changes: Any) -> dict[str, Any]:
    """Of one side, for each level of data."""
    return {
        "claims/level": {"says": "s", "left": {"method": "ours"}, "relation": ">=", "value": 0, "each": ["data"], **changes}
    }


def exact(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval in percent, from scipy."""
    found = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    return 100 * found.low, 100 * found.high


def interval(one: Any) -> tuple[float, float]:
    assert one.verdict.interval is not None
    return one.verdict.interval.low, one.verdict.interval.high


# Values.

STEPS = {"metric": "steps", "kind": "value", "unit": "passes", "right": {"method": "base"}, "relation": "<="}


@pytest.mark.parametrize("seeds", [1, 6])
def test_value_that_is_the_same_in_all_runs_is_judged_by_itself_however_few_they_are(seeds: int, tmp_path: Path) -> None:
    told = cells(few_base=[50] * seeds, few_ours=[40] * seeds, many_base=[50] * seeds, many_ours=[60] * seeds)
    few, many = verdicts(tmp_path, told, {**claim(**STEPS), "scales/smoke/seeds": seeds}, "steps")
    assert (few.verdict.word, many.verdict.word) == ("reproduced", "differs")
    assert interval(few) == (-10, -10) and interval(many) == (10, 10)
    for one in (few, many):
        assert one.verdict.interval is not None and one.verdict.interval.kind == "does not vary"
        assert (one.verdict.p, one.over, one.looked) == (None, (), False)


@pytest.mark.parametrize("side", ["base", "ours"])
def test_value_that_varies_though_it_was_declared_not_to_has_no_verdict(side: str, tmp_path: Path) -> None:
    told = cells(few_base=[50] * 6, few_ours=[40] * 6, many_base=[50] * 6, many_ours=[40] * 6)
    told |= cells(**{f"few_{side}": [40, 40, 40, 40, 40, 41]})
    few, many = verdicts(tmp_path, told, claim(**STEPS), "steps")
    assert (few.verdict.word, many.verdict.word) == ("varies, though declared not to", "reproduced")


def test_values_of_several_places_hold_where_they_hold_at_each(tmp_path: Path) -> None:
    pooled = {**STEPS, "each": [], "pooled": ["data"]}
    for many, word, ends in ((49, "reproduced", (-10, -1)), (51, "inconclusive", (-10, 1)), (60, "inconclusive", (-10, 10))):
        told = cells(few_base=[50] * 6, few_ours=[40] * 6, many_base=[50] * 6, many_ours=[many] * 6)
        (one,) = verdicts(tmp_path, told, claim(**pooled), "steps")
        assert (one.verdict.word, interval(one)) == (word, ends)


# Shares.


def test_share_of_runs_has_the_exact_interval_of_a_proportion(tmp_path: Path) -> None:
    told = cells(few_ours=[1.0, 1.0, 1.0, 1.0, 1.0, 0.0], many_ours=[0.0] * 6, few_base=[1.0] * 6, many_base=[1.0] * 6)
    share = claim(metric="reached", kind="share", unit="percent", value=30)
    few, many = verdicts(tmp_path, told, share, "reached")
    assert interval(few) == pytest.approx(exact(5, 6)) and interval(many) == pytest.approx(exact(0, 6))
    assert (few.verdict.word, many.verdict.word) == ("reproduced", "inconclusive")
    few, _ = verdicts(tmp_path, {**told, **cells(few_ours=[1.0, 0.5] * 3)}, share, "reached")
    assert few.verdict.word == "no share: other values than 0 and 1"


@pytest.mark.parametrize(("failed", "word"), [(0, "inconclusive"), (6, "differs")])
def test_share_of_runs_that_finished_counts_those_that_did_not(failed: int, word: str, tmp_path: Path) -> None:
    told = {**LEVEL, **cells(few_ours=["diverged"] * failed + [0.9] * (6 - failed))}
    few, _ = verdicts(tmp_path, told, claim(metric="finished", kind="share", unit="percent", value=60))
    assert (few.verdict.word, interval(few)) == (word, pytest.approx(exact(6 - failed, 6)))


def test_of_runs_that_draw_nothing_a_share_is_all_or_nothing_and_undecided_where_order_alone_decides(tmp_path: Path) -> None:
    share = claim(metric="reached", kind="share", unit="percent", value=10)
    told = cells(few_ours=[1.0] * 6, many_ours=[0.0] * 6)
    few, many = verdicts(tmp_path, told, share, "reached", DRAWS_NOTHING)
    assert (few.verdict.word, interval(few), many.verdict.word, interval(many)) == ("reproduced", (100, 100), "differs", (0, 0))
    few, _ = verdicts(tmp_path, cells(few_ours=[1.0] * 5 + [0.0], many_ours=[0.0] * 6), share, "reached", DRAWS_NOTHING)
    assert (few.verdict.word, interval(few)) == ("inconclusive", (0, 100))


# Differences of a run's own.


def test_what_a_claim_takes_off_is_taken_off_run_by_run(tmp_path: Path) -> None:
    train, test = [0.99, 0.97, 0.98, 0.99, 0.95, 0.96], [0.90, 0.91, 0.93, 0.90, 0.92, 0.91]
    told = lines(cells(few_ours=train, many_ours=test), metric="train/acc")
    for line in told:
        for run, value in zip(line["runs"], test, strict=True):
            run["numbers"]["test/acc"] = value
    few, many = verdicts(tmp_path, told, claim(metric="train/acc", less="test/acc", value=1))
    apart = [100 * (a - b) for a, b in zip(train, test, strict=True)]
    assert interval(few) == pytest.approx(tuple(stats.ttest_1samp(apart, 0).confidence_interval(0.95)))
    assert few.verdict.word == "reproduced" and many.verdict.word == "differs" and interval(many) == (0, 0)
    told[0]["runs"][0]["numbers"].pop("test/acc")
    few, _ = verdicts(tmp_path, told, claim(metric="train/acc", less="test/acc", value=1))
    assert few.verdict.word == "not measured: test/acc in 1 of 6"


# Fitted places.


@pytest.mark.parametrize(
    ("fitted", "words"),
    [
        (True, ["fitted", "differs"]),
        ([{"data": "few"}], ["fitted", "differs"]),
        ([{"data": "few", "method": "base"}], ["fitted", "differs"]),  # the other side's cell was searched
        ([{"data": "many"}], ["reproduced", "differs"]),
        (False, ["reproduced", "differs"]),
    ],
)
def test_what_agrees_with_a_number_it_was_searched_on_is_fitted_and_what_does_not_differs(
    fitted: Any, words: list[str], tmp_path: Path
) -> None:
    assert [one.verdict.word for one in verdicts(tmp_path, LEVEL, {"claims/level/fitted": fitted})] == words


@pytest.mark.parametrize(("base", "word"), [(0.9954, "fitted"), (0.9920, "differs")])
def test_published_number_that_was_searched_for_is_fitted(base: float, word: str, tmp_path: Path) -> None:
    changes = {
        "published": {"csv": "table_6_1.csv", "tolerance": 0.3, "fitted": [{"data": "few"}]},
        "axes/data/few": {"row": {}},
        "axes/data/many": {"row": None},
        "axes/method/base/row": {"dataset": "MNIST", "architecture_key": "vanilla_cnn_4", "method": "baseline"},
        "axes/method/ours/row": None,
        "scales/paper": {"about": "all", "seeds": 6, "evidence": "first_looks"},
    }
    declaration = declare(tmp_path, changes)
    (cell, *_) = declaration.cells("paper")
    runs = frame(declaration, "paper", lines({cell.name: [base] * 6}, "paper"))
    assert absolute(declaration, "paper", runs, cell) == word


# Cells that draw nothing. The digits' test split has 355 images.


def test_accuracy_of_what_draws_nothing_is_the_share_of_test_images_of_whichever_run_one_takes(tmp_path: Path) -> None:
    few_right, most_right = 335 / 355, 338 / 355  # a rounding may decide an image otherwise from seed to seed
    told = cells(few_ours=[most_right, few_right, *[336 / 355] * 4], many_ours=[0.5] * 6)
    few, many = verdicts(tmp_path, told, claim(value=90), made_by=DRAWS_NOTHING)
    assert interval(few) == pytest.approx((exact(335, 355)[0], exact(338, 355)[1]))
    assert few.verdict.interval is not None and few.verdict.interval.n == 355
    assert few.verdict.interval.moved == pytest.approx(300 / 355) and many.verdict.interval.moved == 0  # type: ignore[union-attr]
    assert (few.verdict.word, few.looked) == ("reproduced", False)
    assert (few.over, many.over) == (("test samples", "order of samples"), ("test samples",))


@pytest.mark.parametrize("metric", ["test/acc", "train/acc"])
def test_no_verdict_on_what_draws_nothing_turns_on_the_run_that_stands_first(metric: str, tmp_path: Path) -> None:
    """Runs on both sides of a bound, each of which alone would decide, and the same in any order."""
    low, high = 300 / 355, 340 / 355
    told = [low, low, high, low, high, low]
    for order in (told, told[::-1], sorted(told)):
        made = cells(few_base=[0.9] * 6, few_ours=order, many_base=[0.5] * 6, many_ours=order)
        few, many = verdicts(tmp_path, made, claim(metric=metric, value=90), metric, DRAWS_NOTHING)
        assert few.verdict.word == many.verdict.word == "inconclusive"
        against = claim(metric=metric, right={"method": "base"}, value=0)
        few, many = verdicts(tmp_path, made, against, metric, DRAWS_NOTHING)
        assert (few.verdict.word, many.verdict.word) == ("inconclusive", "reproduced")


def test_training_accuracy_of_what_draws_nothing_is_itself_whichever_run_one_takes(tmp_path: Path) -> None:
    told = cells(few_ours=[0.93, 0.95, 0.94, 0.94, 0.94, 0.94], many_ours=[0.5] * 6)
    few, many = verdicts(tmp_path, told, claim(metric="train/acc", value=90), "train/acc", DRAWS_NOTHING)
    assert interval(few) == pytest.approx((93, 95)) and interval(many) == (50, 50)
    assert (few.verdict.word, few.over, few.verdict.p) == ("reproduced", ("order of samples",), None)
    assert (many.verdict.word, many.over, many.verdict.p) == ("differs", (), None)


def test_that_a_number_does_not_vary_is_said_where_all_recorded_runs_agree_and_else_by_how_much_order_moves_it(
    tmp_path: Path,
) -> None:
    told = cells(few_ours=[0.93, 0.95, 0.94, 0.94, 0.94, 0.94], many_ours=[0.5] * 6)
    changes = {
        **SEEDS,
        **claim(metric="train/acc", value=90),
        "metric": "train/acc",
        "columns": REMOVED,
        "rows": ["data", "method"],
    }
    text = report(declare(tmp_path, changes), "smoke", lines(told, metric="train/acc", made_by=DRAWS_NOTHING))
    assert "94.00 [93.00, 95.00; order alone moves it by 2.00]" in text and "50.00 [50.00, does not vary]" in text
    one = {**changes, "scales/smoke/seeds": 1}
    text = report(
        declare(tmp_path, one), "smoke", lines({k: v[:1] for k, v in told.items()}, "smoke", "train/acc", DRAWS_NOTHING)
    )
    assert "93.00 [93.00, one run]" in text and "does not vary" not in text


@pytest.mark.parametrize(
    ("compare", "unit", "value"),
    [("difference", "passes", -20), ("ratio", "", 0.6), ("ratio", "percent", 60), ("saving", "percent", 40)],
)
def test_numbers_that_draw_nothing_are_compared_in_the_unit_of_their_claim(
    compare: str, unit: str, value: float, tmp_path: Path
) -> None:
    told = cells(few_base=[50] * 6, few_ours=[30] * 6, many_base=[50] * 6, many_ours=[49] * 6)
    compared = claim(metric="steps", right={"method": "base"}, compare=compare, unit=unit, relation="~", value=value)
    few, many = verdicts(tmp_path, told, compared, "steps", DRAWS_NOTHING)
    assert (few.verdict.word, many.verdict.word) == ("reproduced", "differs") and interval(few) == pytest.approx((value, value))


def test_difference_of_two_accuracies_that_draw_nothing_allows_for_the_test_images_of_both(tmp_path: Path) -> None:
    told = cells(few_base=[300 / 355] * 6, few_ours=[340 / 355] * 6, many_base=[300 / 355] * 6, many_ours=[302 / 355] * 6)
    few, many = verdicts(tmp_path, told, claim(right={"method": "base"}), made_by=DRAWS_NOTHING)
    assert (few.verdict.word, many.verdict.word) == ("reproduced", "inconclusive")
    # Of unpaired shares Wald's interval is near where both are far from 0 and 1; Clopper and Pearson's are a little wider.
    p, q = 302 / 355, 300 / 355
    half = stats.norm.ppf(0.975) * math.sqrt(p * (1 - p) / 355 + q * (1 - q) / 355)
    low, high = interval(many)
    assert 1 < (high - low) / (200 * half) < 1.1 and low < 100 * (p - q) < high


def test_what_draws_is_compared_with_what_does_not_by_an_interval_of_each(tmp_path: Path) -> None:
    told = lines(cells(few_base=[300 / 355] * 6, many_base=[300 / 355] * 6), made_by=DRAWS_NOTHING)
    told += lines(cells(few_ours=[0.95, 0.96] * 3, many_ours=[0.84, 0.86] * 3))
    few, many = verdicts(tmp_path, told, claim(right={"method": "base"}))
    assert (few.verdict.word, many.verdict.word) == ("reproduced", "inconclusive")
    low, high = interval(few)
    assert high - low > exact(300, 355)[1] - exact(300, 355)[0]


def test_seeds_from_nought_are_those_of_what_draws_nothing_whatever_was_declared(tmp_path: Path) -> None:
    fresh = {"scales/smoke/evidence": "fresh", **claim(value=85)}
    few, _ = verdicts(tmp_path, LEVEL, fresh, made_by=DRAWS_NOTHING)
    assert (few.verdict.word, few.looked) == ("reproduced", False)


# Runs of older code.

OVERRIDES = ("method=dll", "arch=mlp", "arch.hidden=[8]", "method/decision=pool")


def run_by(overrides: tuple[str, ...], **versions: int) -> list[Line]:
    """Lines whose runs bear the names that they had when classes were at these versions."""
    spec = config.build(config.compose(["hardware=cpu", *overrides]), checked=False)
    classes = {cls.__name__: cls for cls in (type(spec.method), type(spec.arch), Pool)}
    told = lines(LEVEL, made_by=overrides)
    with pytest.MonkeyPatch.context() as patch:
        for name, version in versions.items():
            patch.setattr(classes[name], "numerics_version", version)
        ids = [
            config.run_id(config.build({**told[0]["spec"], "seed": i, "logger": None}, checked=False), "x") for i in range(6)
        ]
    for line in told:
        line["data"] = "x"
        for run, run_id in zip(line["runs"], ids, strict=True):
            run["run_id"] = run_id
    return told


def raised(patch: pytest.MonkeyPatch, **versions: int) -> None:
    """Classes of `run_by` at these versions from now on."""
    spec = config.build(config.compose(["hardware=cpu", *OVERRIDES]), checked=False)
    for cls in (type(spec.method), type(spec.arch), Pool):
        if cls.__name__ in versions:
            patch.setattr(cls, "numerics_version", versions[cls.__name__])


NOW: dict[str, Mapping[str, int]] = {
    "outdated: segmentwise 7, now 8": {"Segmentwise": 8},
    "outdated: mlp 3, now 5": {"Mlp": 5},
    "outdated: pool 1, now 2": {"Pool": 2},  # of a decision block within the method
    "outdated: mlp 3, now 4, segmentwise 7, now 8": {"Segmentwise": 8, "Mlp": 4},
}


@pytest.mark.parametrize(("says", "now"), NOW.items(), ids=NOW)
def test_runs_of_older_code_are_outdated_until_they_run_anew(
    says: str, now: Mapping[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = {"Segmentwise": 7, "Mlp": 3, "Pool": 1}
    told = run_by(OVERRIDES, **then)
    raised(monkeypatch, **then)
    assert [one.verdict.word for one in verdicts(tmp_path, told, {"claims/level/each": ["data"]})] == ["reproduced", "differs"]
    raised(monkeypatch, **{**then, **now})
    told = [ledger.stamped(line) for line in told]  # as the next `effdl publish` does
    assert {one.verdict.word for one in verdicts(tmp_path, told)} == {says}
    assert f"90.50 ± 0.55 (n 6), {says} |" in report(declare(tmp_path, {"scales/smoke/seeds": 6}), "smoke", told)
