"""What a declared claim says of the runs of its cells."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from declared import DRAWS_NOTHING, LEVEL, SEEDS, TOY, cells, declare, lines, verdicts
from scipy import stats

from effdl.errors import RecordError
from effdl.reproduce import artefact
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import absolute, judged
from effdl.reproduce.report import summary
from effdl.reproduce.verdict import Interval

STEPS = ([0.5, 0.6] * 3, [0.6, 0.7] * 3, [0.55, 0.65] * 3, [0.75, 0.85] * 3)


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
        (["diverged", 0.9, 0.9, 0.9, 0.9, 0.9], "diverged (1 of 6)"),
        (["failed"] * 6, "failed (6 of 6)"),
        ([0.92], "incomplete (1 of 6)"),
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


POOLED = {"claims/level/each": [], "claims/level/pooled": ["data"], "claims/level/tolerance": 100}


def test_pooled_claim_is_over_the_pairs_of_all_levels(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, LEVEL, POOLED)
    expected = stats.ttest_1samp([2] * 6 + [-2] * 6, 0).confidence_interval(0.95)
    assert one.verdict.interval is not None and one.verdict.paired and one.verdict.interval.n == 12
    assert (one.verdict.interval.low, one.verdict.interval.high) == pytest.approx(tuple(expected))


def test_pooled_claim_leaves_out_cells_without_runs_and_says_which(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, {**LEVEL, **cells(many_ours="no data")}, POOLED)
    assert one.verdict.interval is not None and (one.verdict.interval.n, one.verdict.word) == (6, "reproduced")
    assert [cell.name for cell in one.without] == ["data=many,method=ours"]


def test_pooled_claim_with_nothing_on_one_side_has_the_reason_of_that_side(tmp_path: Path) -> None:
    (one,) = verdicts(tmp_path, {**LEVEL, **cells(few_ours="no data", many_ours="no data")}, POOLED)
    assert (one.verdict.word, one.verdict.interval) == ("no data", None)


def test_claim_without_a_right_side_is_over_all_runs_of_all_its_cells(tmp_path: Path) -> None:
    claim = {"says": "trained", "left": {}, "pooled": ["data", "method"], "relation": ">=", "value": 80}
    (one,) = verdicts(tmp_path, LEVEL, {"claims/level": claim})
    expected = stats.ttest_1samp([90, 91, 92, 93, 90, 90, 88, 88] * 3, 0).confidence_interval(0.95)
    assert one.verdict.interval is not None and (one.verdict.interval.n, one.verdict.paired) == (24, False)
    assert (one.verdict.interval.low, one.verdict.interval.high) == pytest.approx(tuple(expected))


def test_metric_that_no_run_has_is_named(tmp_path: Path) -> None:
    assert {one.verdict.word for one in verdicts(tmp_path, LEVEL, {"claims/level/metric": "test/accc"})} == {
        "not measured: test/accc"
    }


def test_metric_that_some_runs_lack_gives_no_verdict_from_the_others(tmp_path: Path) -> None:
    told = lines(LEVEL)
    told[1]["runs"][0]["numbers"]["test/acc"] = None
    few, many = verdicts(tmp_path, told)
    assert (few.verdict.word, many.verdict.word) == ("not measured: test/acc in 1 of 6", "differs")


def test_places_that_one_side_alone_has_are_compared_with_nothing(tmp_path: Path) -> None:
    told = cells(few_base=[0.9] * 6, few_ours="no data", many_base="no data", many_ours=[0.1] * 6)
    (one,) = verdicts(tmp_path, told, POOLED)
    assert (one.verdict.word, one.verdict.interval) == ("no pairs", None)
    assert {cell.name for cell in one.without} == {"data=few,method=ours", "data=many,method=base"}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda told: told.append(told[0]), r"^toy: data=few,method=base has seed 0 twice; delete one of its lines"),
        (lambda told: told[0]["runs"].append({**told[0]["runs"][1], "run_id": "x"}), r"has seed 1 twice"),
        (lambda told: told.append({**told[0], "data": "other", "runs": [{**told[0]["runs"][0], "seed": 9}]}), "different data"),
    ],
)
def test_cell_with_a_seed_twice_or_several_data_sets_has_no_numbers(spoil: Any, says: str, tmp_path: Path) -> None:
    told = lines(LEVEL)
    spoil(told)
    with pytest.raises(RecordError, match=says):
        frame(declare(tmp_path), "smoke", told)


@pytest.mark.parametrize("claims", [1, 4])
def test_however_many_claims_there_are_each_column_is_taken_from_the_table_once(
    claims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = TOY["claims"]["level"]
    declaration = declare(tmp_path, {**SEEDS, **{f"claims/level{i}": level for i in range(claims)}})
    runs = frame(declaration, "smoke", lines(LEVEL))
    asked: list[Any] = []
    get = pd.DataFrame.__getitem__
    monkeypatch.setattr(pd.DataFrame, "__getitem__", lambda self, key: (asked.append(key), get(self, key))[1])
    found = judged(declaration, "smoke", runs)
    monkeypatch.undo()
    assert [one.verdict.word for one in found] == ["reproduced", "differs"] * (claims + 1)
    assert asked.pop(0) == "cell" and len(asked) == len(set(asked)) > 5  # by which they are told apart


def test_run_that_several_cells_share_counts_once(tmp_path: Path) -> None:
    ours = [0.9, 0.92] * 3
    told = lines(cells(few_base=[0.9] * 6, few_ours=ours, many_base=[0.9] * 6, many_ours=ours))
    for few, many in ((0, 2), (1, 3)):
        for of_few, of_many in zip(told[few]["runs"], told[many]["runs"], strict=True):
            of_many["run_id"] = of_few["run_id"]
    (one,) = verdicts(tmp_path, told, POOLED)
    assert one.verdict.interval is not None and one.verdict.interval.n == 6


@pytest.mark.parametrize(("seeds", "word", "why"), [(4, "inconclusive", "n"), (5, "reproduced", "")])
def test_fewer_than_five_values_are_judged_by_nobody(seeds: int, word: str, why: str, tmp_path: Path) -> None:
    told = {name: list(values)[:seeds] for name, values in {**LEVEL, **cells(few_ours=[0.99, 0.98] * 3)}.items()}
    few, _ = verdicts(tmp_path, told, {"scales/smoke/seeds": seeds})
    assert (few.verdict.word, few.verdict.why) == (word, why)


@pytest.mark.parametrize(("seeds", "word"), [(5, "inconclusive"), (6, "reproduced")])
def test_differences_that_only_rounding_tells_apart_have_no_spread(seeds: int, word: str, tmp_path: Path) -> None:
    base = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8][:seeds]
    told = {**LEVEL, **cells(few_base=base, few_ours=[value + 0.03 for value in base])}
    assert len({100 * (value + 0.03) - 100 * value for value in base}) > 1
    told = {name: list(values)[:seeds] for name, values in told.items()}
    few, _ = verdicts(tmp_path, told, {"scales/smoke/seeds": seeds})
    assert few.verdict.word == word and few.verdict.p == pytest.approx(2.0 ** (1 - seeds), rel=1e-4)


def test_what_varies_from_run_to_run_is_said_of_each_verdict_and_that_its_runs_were_known(tmp_path: Path) -> None:
    for one in verdicts(tmp_path, LEVEL):
        assert (one.over, one.looked) == (("initialisation", "order of samples", "split"), True)


def test_exploratory_runs_are_judged_by_nobody(tmp_path: Path) -> None:
    found = verdicts(tmp_path, LEVEL, {"scales/smoke/evidence": "exploratory"})
    assert {(one.verdict.word, one.verdict.interval, one.looked) for one in found} == {("exploratory", None, False)}


def test_seeds_that_do_not_follow_from_the_declaration_are_judged_by_nobody(tmp_path: Path) -> None:
    fresh = {"scales/smoke/evidence": "fresh"}
    assert {one.verdict.word for one in verdicts(tmp_path, LEVEL, fresh)} == {"seeds that were not declared"}
    declaration = declare(tmp_path, {**SEEDS, **fresh})
    told = lines(LEVEL)
    for line, cell in zip(told, declaration.cells("smoke"), strict=True):
        for run in line["runs"]:
            run["seed"] += cell.first
    assert [(one.verdict.word, one.looked) for one in verdicts(tmp_path, told, fresh)] == [
        ("reproduced", False),
        ("differs", False),
    ]
    told[0]["runs"][0]["seed"] = 0
    assert [one.verdict.word for one in verdicts(tmp_path, told, fresh)] == ["seeds that were not declared", "differs"]


def test_what_measures_draw_is_drawn_so_that_its_seeds_follow_from_the_declaration_too(tmp_path: Path) -> None:
    """A method that draws nothing, and measures beside it that draw points by the seed of each run."""
    fixed = {
        **SEEDS,
        "scales/smoke/evidence": "fresh",
        "set": {"method": "ridge_regression", "arch": "linear", "dataset.val_size": 0},
        "axes/method/base/set": {},
        "axes/method/ours/set": {"method.l2": 2.0},
        "axes/data/many/set": {"dataset.train_limit": 900},
    }
    told = lines(LEVEL, made_by=DRAWS_NOTHING)
    words = {one.verdict.word for one in verdicts(tmp_path, told, {**fixed, "drawn": ["points"]})}
    assert words == {"seeds that were not declared"}
    cell, *_ = declare(tmp_path, {**fixed, "drawn": ["points"]}).cells("smoke")
    assert [spec.seed for spec in artefact.specs(cell)] == [*range(cell.first, cell.first + 6)] and cell.first >= 1_000_000
    assert "seeds that were not declared" not in {one.verdict.word for one in verdicts(tmp_path, told, fixed)}
    cell, *_ = declare(tmp_path, fixed).cells("smoke")
    assert [spec.seed for spec in artefact.specs(cell)] == [*range(6)]


VARIANT = {
    "assumptions": {
        "width": {"why": "?", "choices": {"eight": {"label": "8"}, "nine": {"label": "9", "set": {"arch.hidden": [9, 9]}}}}
    },
    "scales/smoke/grid": [{"choose": {"width": ["nine"]}}],
}


def test_runs_under_another_assumption_stay_out_of_the_claims_and_have_their_own(tmp_path: Path) -> None:
    under = {f"{name},width=nine": [0.5, 0.6] * 3 if "base" in name else [0.1] * 6 for name in LEVEL}
    assert [one.verdict for one in verdicts(tmp_path, {**LEVEL, **under}, VARIANT)] == [
        one.verdict for one in verdicts(tmp_path / "without", LEVEL)
    ]
    declaration = declare(tmp_path, {**SEEDS, **VARIANT})
    runs = frame(declaration, "smoke", lines({**LEVEL, **under}))
    few, _ = judged(declaration, "smoke", runs, {"width": "nine"})
    assert few.verdict.interval is not None and few.verdict.interval.mean == pytest.approx(-45)


def test_rows_under_another_assumption_fold_away_on_pages(tmp_path: Path) -> None:
    under = {f"{name},width=nine": [0.5, 0.6] for name in LEVEL}
    declaration = declare(tmp_path, VARIANT)
    runs = frame(declaration, "smoke", lines({**LEVEL, **under}))
    found = judged(declaration, "smoke", runs)
    plain, folded = (summary(declaration, "smoke", runs, found, folded=each) for each in (False, True))
    assert "<details>" not in plain and plain.count("few") == folded.count("few")
    before, inside = folded.split("<details>")
    assert "few, 9" in inside.split("</details>")[0] and ", 9" not in before
    assert "<details>" not in summary(declare(tmp_path / "own"), "smoke", runs, found, folded=True)


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
        cells(few_base=[200, 100] * 3, few_ours=[60, 30] * 3, many_base=[1] * 6, many_ours=[1] * 6),
        {f"claims/level/{key}": value for key, value in ratio.items()},
        "memory",
    )
    assert few.verdict.interval is not None and few.verdict.interval.mean == pytest.approx(mean)


def test_saving_is_in_percent_of_the_right_side(tmp_path: Path) -> None:
    saving = {"metric": "memory", "compare": "saving", "value": 40, "tolerance": 0, "unit": "percent"}
    few, many = verdicts(
        tmp_path,
        cells(few_base=[200] * 6, few_ours=[100] * 6, many_base=[200] * 6, many_ours=[130] * 6),
        {f"claims/level/{key}": value for key, value in saving.items()},
        "memory",
    )
    assert few.verdict.interval == Interval(50, 50, 50, 6) and few.verdict.word == "reproduced"
    assert many.verdict.interval is not None and many.verdict.interval.mean == pytest.approx(35)
    assert many.verdict.word == "differs"


@pytest.mark.parametrize(
    ("scale", "values", "word"),
    [
        ("smoke", [0.9954] * 6, "below paper scale"),
        ("paper", [0.9954] * 6, "reproduced"),
        ("paper", [0.9920] * 6, "differs"),
        ("paper", [0.9954], "incomplete (1 of 6)"),
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
        "scales/paper": {"about": "all", "seeds": 6, "evidence": "first_looks"},
    }
    declaration = declare(tmp_path, changes)
    name = "data=few,method=base"
    (cell,) = [cell for cell in declaration.cells(scale) if cell.name == name]
    runs = frame(declaration, scale, lines({name: values}, scale))
    assert (cell.published, absolute(declaration, scale, runs, cell)) == (99.54, word)
