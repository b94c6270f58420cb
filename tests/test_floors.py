"""What floors say on made-up runs: a baseline that is not finished leaves all beside it undertrained."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declared import LEVEL, SEEDS, Told, declare, lines, verdicts
from scipy import stats

from effdl.errors import ConfigError
from effdl.reproduce import artefact
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.floors import falls_short, said
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import absolute, judged
from effdl.reproduce.report import report

PEAK = {
    "says": "a late peak",
    "left": {"method": "ours"},
    "metric": "peak_layer",
    "relation": ">=",
    "value": 1,
    "unit": "layer",
}
LESS = {"says": "less memory", "left": {"method": "ours"}, "right": {"method": "base"}, "metric": "bytes", "kind": "value"}
FLOORS: dict[str, Any] = {
    "scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer"}],
    "claims/peak": {**PEAK, "each": ["data"]},
    "claims/less": {**LESS, "relation": "<=", "value": 0, "each": ["data"], "length": "given"},
    "claims/equal": {**PEAK, "says": "a peak of given epochs", "each": ["data"], "length": "given"},
}
FEW, MANY = "data=few,method=base", "data=many,method=base"


def told(
    few: float, longer: Mapping[str, Told], metric: str = "val/acc", many: float = 0.8, cells: Mapping[str, Told] = LEVEL
) -> list[dict[str, Any]]:
    """Lines of the toy's cells, their baselines at these validation numbers, and of what its floors ran."""
    made = lines(cells)
    for line in made:
        for run in line["runs"]:
            run["numbers"] |= {"peak_layer": 2.0, "bytes": 100.0 if "base" in line["cell"] else 60.0}
            run["numbers"] |= {metric: {FEW: few, MANY: many}[line["cell"]]} if line["cell"] in (FEW, MANY) else {}
    return made + lines({f"{name},floor=longer": values for name, values in longer.items()}, metric=metric)


def words(
    folder: Path, made: list[dict[str, Any]], changes: Mapping[str, Any] | None = None
) -> dict[tuple[str, str | None], str]:
    """(claim, level of data) -> its verdict."""
    found = verdicts(folder, made, {**FLOORS, **(changes or {})})
    return {(one.name, one.at.get("data")): one.verdict.word for one in found}


BESIDE = {("level", "few"): "reproduced", ("peak", "few"): "reproduced"}
ELSEWHERE = {
    ("level", "many"): "differs",
    ("peak", "many"): "reproduced",
    **{(claim, data): "reproduced" for claim in ("less", "equal") for data in ("few", "many")},
}


@pytest.mark.parametrize("least", [0.3, 0.80, 0.82])
def test_baseline_within_two_points_of_three_times_its_epochs_is_finished(least: float, tmp_path: Path) -> None:
    assert words(tmp_path, told(0.80, {FEW: [least, least], MANY: [0.8, 0.8]})) == {**BESIDE, **ELSEWHERE}


@pytest.mark.parametrize(("base", "longer"), [(0.7998, [0.82, 0.82]), (0.80, [0.8202, 0.8202]), (0.80, [0.80, 0.8404])])
def test_baseline_that_is_worse_than_that_gates_every_claim_beside_it_and_no_other(
    base: float, longer: Sequence[float], tmp_path: Path
) -> None:
    found = words(tmp_path, told(base, {FEW: longer, MANY: [0.8, 0.8]}))
    assert found == {**dict.fromkeys(BESIDE, "undertrained"), **ELSEWHERE}


@pytest.mark.parametrize(
    ("few", "word"),
    [
        (None, "floor not run"),
        ("no data", "floor no data"),
        ([0.8], "floor without val/acc"),
        (["diverged", 0.8], "floor without val/acc"),
    ],
)
def test_floor_that_has_not_run_says_so_in_the_place_of_a_verdict(few: Any, word: str, tmp_path: Path) -> None:
    longer = {MANY: [0.8, 0.8], **({} if few is None else {FEW: few})}
    assert words(tmp_path, told(0.8, longer)) == {**dict.fromkeys(BESIDE, word), **ELSEWHERE}


def test_baseline_without_validation_numbers_is_not_known_to_be_finished(tmp_path: Path) -> None:
    made = told(0.8, {FEW: [0.8, 0.8], MANY: [0.8, 0.8]})
    for run in made[0]["runs"]:
        del run["numbers"]["val/acc"]
    assert words(tmp_path, made) == {**dict.fromkeys(BESIDE, "floor without val/acc"), **ELSEWHERE}


@pytest.mark.parametrize(("longer", "word"), [(0.100, "reproduced"), (0.0953, "reproduced"), (0.0952, "undertrained")])
def test_squared_error_within_five_percent_is_finished(longer: float, word: str, tmp_path: Path) -> None:
    squared = {"metric": "test/mse", "unit": "", "claims/level/metric": "test/acc", "claims/level/unit": "percent"}
    made = told(0.1, {FEW: [longer, longer], MANY: [0.8, 0.8]}, "val/mse")
    assert words(tmp_path, made, squared) == {**dict.fromkeys(BESIDE, word), **ELSEWHERE}


@pytest.mark.parametrize(("longer", "word"), [(0.51, "reproduced"), (0.53, "undertrained"), (0.40, "reproduced")])
def test_miou_is_a_score_of_which_more_is_better(longer: float, word: str, tmp_path: Path) -> None:
    pixels = {"metric": "test/miou", "unit": "percent", "claims/level/metric": "test/acc"}
    made = told(0.50, {FEW: [longer, longer], MANY: [0.8, 0.8]}, "val/miou")
    assert words(tmp_path, made, pixels) == {**dict.fromkeys(BESIDE, word), **ELSEWHERE}
    declaration = declare(tmp_path, {**SEEDS, **FLOORS, **pixels})
    few, _ = said(declaration, "smoke", frame(declaration, "smoke", made))
    assert few.endswith("of 2 points)") and "50.00 (val/miou, n 6)" in few


@pytest.mark.parametrize(("longer", "word"), [(0.82, "reproduced"), (0.83, "undertrained")])
def test_what_measures_make_is_finished_by_validation_accuracy(longer: float, word: str, tmp_path: Path) -> None:
    made = told(0.80, {FEW: [longer, longer], MANY: [0.8, 0.8]})
    for line in made:
        for run in line["runs"]:
            run["numbers"] |= {"error": 1 - run["numbers"].get("test/acc", 0.5)}
    assert words(tmp_path, made, {"metric": "error", "claims/level/metric": "test/acc"}) == {
        **dict.fromkeys(BESIDE, word),
        **ELSEWHERE,
    }


GUESS = [{"baseline": {"method": "base"}, "where": {"data": "few"}, "reaches": "twice_chance", "chance": 3.5}]


@pytest.mark.parametrize(("base", "word"), [(0.0701, None), (0.0699, "undertrained"), (None, "baseline no data")])
def test_network_that_knows_no_more_than_a_guess_says_nothing_of_given_epochs_either(
    base: float | None, word: str | None, tmp_path: Path
) -> None:
    made = told(0.8, {}, cells={**LEVEL, FEW: "no data" if base is None else [base] * 6})
    found = words(tmp_path, made, {"scales/smoke/floors": GUESS})
    gated = {("peak", "few"), ("equal", "few")}
    assert {found[key] for key in gated} == {word or "reproduced"}
    assert {key: one for key, one in found.items() if "many" in key} == {
        key: one for key, one in ELSEWHERE.items() if "many" in key
    }


def test_no_floor_gates_where_none_is_declared(tmp_path: Path) -> None:
    own = {**FLOORS["scales/smoke/floors"][0], "where": {"data": "many"}}
    assert words(tmp_path, told(0.5, {MANY: [0.9, 0.9]}), {"scales/smoke/floors": [own]}) == {
        **BESIDE,
        **ELSEWHERE,
        ("level", "many"): "undertrained",
        ("peak", "many"): "undertrained",
    }
    assert words(tmp_path, told(0.5, {}), {"scales/smoke/floors": []}) == {**BESIDE, **ELSEWHERE}


WIDTH = {
    "assumptions": {
        "width": {"why": "?", "choices": {"eight": {"label": "8"}, "nine": {"label": "9", "set": {"arch.hidden": [9, 9]}}}}
    },
    "scales/smoke/grid": [{"choose": {"width": ["nine"]}}],
}


def test_floor_is_run_under_our_own_choices_and_gates_other_choices_too(tmp_path: Path) -> None:
    declaration = declare(tmp_path, {**SEEDS, **FLOORS, **WIDTH})
    assert [cell.name for cell in declaration.all_cells("smoke") if "floor" in cell.name] == [
        f"{FEW},floor=longer",
        f"{MANY},floor=longer",
    ]
    nine = lines({f"{name},width=nine": values for name, values in LEVEL.items()})
    for longer, word in ((0.9, "undertrained"), (0.8, "reproduced")):
        runs = frame(declaration, "smoke", told(0.8, {FEW: [longer, longer], MANY: [0.8, 0.8]}) + nine)
        few, many, *_ = judged(declaration, "smoke", runs, {"width": "nine"})
        assert (few.verdict.word, many.verdict.word) == (word, "differs")


# What floors run.


def test_floor_runs_its_baseline_for_three_times_the_epochs_on_two_seeds_of_its_own(tmp_path: Path) -> None:
    for evidence, changes in (("fresh", {}), ("first_looks", {"axes/method/base/set": {"method": "backprop", "seed": 5}})):
        declaration = declare(tmp_path, {**SEEDS, **FLOORS, "scales/smoke/evidence": evidence, **changes})
        cells = {cell.name: cell for cell in declaration.all_cells("smoke")}
        assert len(cells) == 6 and list(cells)[:4] == [cell.name for cell in declaration.cells("smoke")]
        base, longer = (artefact.specs(cells[name]) for name in (FEW, f"{FEW},floor=longer"))
        assert {spec.method.epochs for spec in base} == {1} and [spec.method.epochs for spec in longer] == [3, 3]
        assert {spec.dataset for spec in longer} == {spec.dataset for spec in base}
        seeds = [spec.seed for spec in longer]
        assert seeds == ([base[0].seed - 2, base[0].seed - 1] if evidence == "fresh" else [0, 1])


def test_baseline_whose_epochs_are_not_said_has_no_three_times_as_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^toy.yaml: scales\.smoke\.floors\.0: data=few,method=base must set method\.epochs"):
        declare(tmp_path, {**FLOORS, "axes/method/base/set": {"method": "backprop", "method.epochs": [1]}})


def test_page_says_of_each_baseline_what_three_times_the_epochs_reach(tmp_path: Path) -> None:
    declaration = declare(tmp_path, {**SEEDS, **FLOORS})
    made = told(0.75, {FEW: [0.80, 0.82], MANY: [0.81, 0.81]})
    assert list(said(declaration, "smoke", frame(declaration, "smoke", made))) == [
        "few, base: 75.00 (val/acc, n 6), with 3 times the epochs 81.00 (n 2): undertrained, narrowly "
        "(gap 6.00 ± 1.00 of 2 points)",
        "many, base: 80.00 (val/acc, n 6), with 3 times the epochs 81.00 (n 2): finished (gap 1.00 ± 0.00 of 2 points)",
    ]
    text = report(declaration, "smoke", made)
    assert "few, base: 75.00" in text.split("## Is the baseline finished?")[1] and "floor=" not in text


def test_a_gap_whose_interval_contains_the_bound_is_said_to_be_narrow(tmp_path: Path) -> None:
    # 80 ± 1 of six runs and 81.5 and 82.1 of two: a gap of 1.80 with a standard error of √(1.2/6 + 0.18/2) = 0.54
    made = told(0.80, {FEW: [0.815, 0.821], MANY: [0.815, 0.821]})
    for i, value in enumerate([0.79, 0.81] * 3):
        made[0]["runs"][i]["numbers"]["val/acc"] = value
    declaration = declare(tmp_path, {**SEEDS, **FLOORS})
    few, many = said(declaration, "smoke", frame(declaration, "smoke", made))
    assert few.endswith("finished, narrowly (gap 1.80 ± 0.54 of 2 points)")
    low, high = stats.ttest_ind([81.5, 82.1], [79, 81] * 3, equal_var=False).confidence_interval(0.95)
    assert low < 2 < high
    assert many.endswith("finished, narrowly (gap 1.80 ± 0.30 of 2 points)")
    # Of runs that hardly differ the same gap is wide of the bound.
    close = told(0.80, {FEW: [0.8180, 0.8181], MANY: [0.8, 0.8]})
    few, _ = said(declaration, "smoke", frame(declaration, "smoke", close))
    assert few.endswith("finished (gap 1.80 ± 0.01 of 2 points)")


def test_a_gap_of_squared_errors_is_in_percent_of_the_longer_runs(tmp_path: Path) -> None:
    declaration = declare(tmp_path, {**SEEDS, **FLOORS, "metric": "test/mse", "unit": "", "claims/level/unit": "percent"})
    runs = frame(declaration, "smoke", told(0.103, {FEW: [0.099, 0.101], MANY: [0.2, 0.2]}, "val/mse"))
    few, _ = said(declaration, "smoke", runs)
    assert few.endswith("finished, narrowly (gap 3.0 ± 1.0 of 5%)")


@pytest.mark.parametrize(
    ("gap", "wrong", "share"),
    [(3.0, "finished", 0.275), (0.0, "undertrained", 0.116), (6.0, "finished", 0.008)],
    ids=str,
)
def test_how_often_the_rule_of_two_points_errs_on_noisy_baselines(gap: float, wrong: str, share: float) -> None:
    """2,000 made-up baselines of a standard deviation of 2 points, five runs against two of three times the epochs.

    The rule compares means, so that it errs as often as N(gap, 2²(1/5 + 1/2)) lies on the wrong side of 2: at such a spread it
    finds gaps of six points, and not those of three.
    """
    generator, families = np.random.default_rng(0), 2000
    found = [
        "undertrained"
        if falls_short(generator.normal(80, 2, 5) / 100, generator.normal(80 + gap, 2, 2) / 100, True)
        else "finished"
        for _ in range(families)
    ]
    expected = stats.norm(gap, 2 * math.sqrt(1 / 5 + 1 / 2)).cdf(2)
    expected = expected if wrong == "finished" else 1 - expected
    assert expected == pytest.approx(share, abs=0.001)
    assert abs(found.count(wrong) / families - expected) < 3 * math.sqrt(expected * (1 - expected) / families)


# At paper scale: 90% of the way from a guess, 10%, to what is printed, 99.54%, is 90.586%.

PRINTED = {
    "published": {"csv": "table_6_1.csv", "tolerance": 20},
    "axes/data/few": {"row": {}},
    "axes/data/many": {"row": None},
    "axes/method/base/row": {"dataset": "MNIST", "architecture_key": "vanilla_cnn_4", "method": "baseline"},
    "axes/method/ours/row": None,
    "scales/paper": {"about": "all", "seeds": 6, "evidence": "first_looks"},
    "claims/peak": {**PEAK, "each": ["data"]},
    "claims/equal": {**PEAK, "each": ["data"], "length": "given"},
    "claims/level/tolerance": 20,
}
OF_FEW = {"baseline": {"method": "base"}, "where": {"data": "few"}, "reaches": "print", "chance": 10}
PRINT = {"scales/paper/floors": [OF_FEW]}


def at_paper(folder: Path, base: Told | None) -> tuple[Declaration, Any]:
    declaration = declare(folder, {**PRINTED, **PRINT})
    made = lines({**LEVEL, **({} if base is None else {FEW: base})}, "paper")
    made = [line for line in made if base is not None or line["cell"] != FEW]
    for run in (run for line in made for run in line["runs"]):
        run["numbers"]["peak_layer"] = 2.0
    return declaration, frame(declaration, "paper", made)


@pytest.mark.parametrize(("base", "word"), [(0.9058, "undertrained"), (0.9059, "reproduced")])
def test_printed_floor_is_nine_tenths_of_the_way_from_chance_to_print(base: float, word: str, tmp_path: Path) -> None:
    declaration, runs = at_paper(tmp_path, [base] * 6)
    found = {(one.name, one.at["data"]): one.verdict.word for one in judged(declaration, "paper", runs)}
    assert {found["level", "few"], found["peak", "few"]} == {word}
    rest = ("level", "many"), ("peak", "many"), ("equal", "few"), ("equal", "many")  # nothing is printed of many
    assert {found[one] for one in rest} == {"reproduced"}
    (cell, *_) = declaration.cells("paper")
    assert absolute(declaration, "paper", runs, cell) == word


@pytest.mark.parametrize(("base", "word"), [(0.0568, False), (0.1411, False), (0.1412, True), (0.90, True)])
def test_printed_error_is_reached_from_above(base: float, word: bool, tmp_path: Path) -> None:
    """Of VGG-13 5.68% are printed and a guess errs in 90%, so that 14.112% are nine tenths of the way."""
    printed = {
        **PRINTED,
        "published": {"csv": "table_4_2.csv", "tolerance": 20},
        "metric": "error",
        "axes/method/base/row": {"architecture_key": "vgg_13", "method": "Softmax+CE"},
        "scales/paper/floors": [{**OF_FEW, "chance": 90}],
    }
    declaration = declare(tmp_path, printed)
    runs = frame(declaration, "paper", lines({**LEVEL, FEW: [base] * 6}, "paper", "error"))
    (cell, *_) = declaration.cells("paper")
    assert (absolute(declaration, "paper", runs, cell) == "undertrained") == word
    found = {(one.name, one.at["data"]): one.verdict.word for one in judged(declaration, "paper", runs)}
    assert (found["level", "few"] == "undertrained") == word and found["level", "many"] != "undertrained"


@pytest.mark.parametrize(("base", "word"), [(None, "not run"), ("no data", "no data"), (["diverged"] * 6, "diverged (6 of 6)")])
def test_baseline_that_has_no_runs_is_not_known_to_reach_the_print(base: Any, word: str, tmp_path: Path) -> None:
    declaration, runs = at_paper(tmp_path, base)
    found = {(one.name, one.at["data"]): one.verdict.word for one in judged(declaration, "paper", runs)}
    assert (found["level", "few"], found["peak", "few"], found["equal", "few"]) == (word, f"baseline {word}", "reproduced")


def test_a_printed_floor_needs_a_print_of_each_baseline(tmp_path: Path) -> None:
    told = r"scales\.paper\.floors\.0: nothing is printed for data=many,method=base; say with where"
    with pytest.raises(ConfigError, match=told):
        declare(tmp_path, {**PRINTED, "scales/paper/floors": [{**OF_FEW, "where": {}}]})


@pytest.mark.parametrize("floor", [{"reaches": "print"}, {"reaches": "twice_chance"}, {"reaches": "longer", "chance": 10}])
def test_chance_belongs_to_a_printed_floor(floor: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^toy.yaml: scales\.smoke\.floors\.0\.chance: belongs to reaches: print"):
        declare(tmp_path, {"scales/smoke/floors": [{"baseline": {"method": "base"}, **floor}]})
