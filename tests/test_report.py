"""The report is a function of the ledger alone, and says what it leaves out."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from declared import DRAWS_NOTHING, PROVENANCE, SEEDS, declare, lines, ran
from PIL import Image
from scipy import stats

from effdl.errors import RecordError
from effdl.records import carry
from effdl.reproduce import conduct, figure, ledger, wording
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.report import report

PIXELS = 0.02  # mean absolute difference of two pictures that are to be the same, of a full scale of 1
TOLD = {
    "data=few,method=base": [0.90, 0.92] * 3,
    "data=few,method=ours": [0.93, 0.95] * 3,
    "data=many,method=base": [0.97] * 6,
    "data=many,method=ours": [0.92, 1.00] * 3,
}


def text(declaration: Declaration, root: Path) -> str:
    found, _ = conduct.lines_of(declaration, "smoke", root)
    return report(declaration, "smoke", found)


def picture(declaration: Declaration, told: list[dict[str, Any]], folder: Path) -> "np.ndarray[Any, Any]":
    folder.mkdir(parents=True, exist_ok=True)
    return matplotlib.image.imread(figure.write(declaration, "smoke", frame(declaration, "smoke", told), folder))


def section(of: str, title: str) -> str:
    return of.split(f"## {title}\n\n")[1].split("\n\n#")[0]


def test_report_and_picture_from_the_ledger_are_those_from_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declaration, root = declare(tmp_path, {"series": ["val/acc"]}), tmp_path / "results"
    for cpus, seeds in ((4, 1), (2, 2), (3, 3)):  # each cell on three machines
        monkeypatch.setattr(carry, "provenance", lambda cpus=cpus: {**PROVENANCE, "cpus": cpus})
        ran(declare(tmp_path, {"scales/smoke/seeds": seeds}), root)
    declaration = declare(tmp_path, {"series": ["val/acc"], "scales/smoke/seeds": 3})
    collected = ledger.collect(declaration, "smoke", root)
    assert len(collected) == 12
    from_runs, first = text(declaration, root), picture(declaration, collected, tmp_path / "first")
    assert conduct.lines_of(declaration, "smoke", root)[1].endswith("not published")

    ledger.publish(declaration, "smoke", root, print)
    assert text(declaration, root) == from_runs and from_runs.count("12 runs, ") == 1
    fresh = tmp_path / "clone" / "results"
    shutil.copytree(root / "ledger", fresh / "ledger")
    assert text(declaration, fresh) == from_runs
    again = picture(declaration, ledger.read(fresh, "toy"), tmp_path / "again")
    assert again.shape == first.shape and np.abs(again - first).mean() <= PIXELS / 10


def test_pictures_of_other_numbers_are_told_apart(tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    told = {**TOLD, "data=many,method=ours": [0.90, 0.92] * 3}
    first = picture(declaration, lines(told), tmp_path / "first")
    other = picture(declaration, lines({**told, "data=few,method=ours": [0.99] * 6}), tmp_path / "other")
    assert first.shape != other.shape or np.abs(first - other).mean() > PIXELS / 10


def test_picture_tells_the_runs_that_it_shows_however_little_another_would_look(tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    sources = []
    for i, last in enumerate((0.93, 0.93, 0.930001)):
        runs = frame(declaration, "smoke", lines({**TOLD, "data=few,method=ours": [0.95, last] * 3}))
        sources.append(Image.open(figure.write(declaration, "smoke", runs, tmp_path / str(i))).info["Source"])
    assert sources[0] == sources[1] != sources[2]


def test_report_of_nothing_run_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"^toy: nothing has been run at scale smoke; .*toy.*smoke"):
        conduct.lines_of(declare(tmp_path), "smoke", tmp_path / "results")


def test_table_has_mean_spread_n_and_verdict_of_each_row(tmp_path: Path) -> None:
    found = report(declare(tmp_path, SEEDS), "smoke", lines(TOLD))
    assert "| few | 91.00 ± 1.10 (n 6) | 94.00 ± 1.10 (n 6) | **reproduced***° [3.00, 3.00] |" in found
    low, high = stats.ttest_1samp([-5, 3] * 3, 0).confidence_interval(0.95)
    assert f"| many | 97.00 ± 0.00 (n 6) | 96.00 ± 4.38 (n 6) | **inconclusive** [{low:.2f}, {high:.2f}] |" in found
    assert "over initialisation, order of samples, split" in found and "does not vary" not in found
    assert "In this report are 2 intervals at 95%: by chance alone about 0.1 of them miss" in found
    assert "Of 1 verdicts that they decide, 0 survive Holm's correction over all; ° marks the others." in found  # 2^-5 > 0.05/2
    assert "* Declared after first looks" in found
    few, _ = report(declare(tmp_path, {"scales/smoke/seeds": 2}), "smoke", lines(two(TOLD))).split("| many |")[:2]
    assert "| **inconclusive: n** [too few that differ] |" in few


def two(told: Mapping[str, Any]) -> dict[str, Any]:
    """The first two runs of each cell."""
    return {name: values[:2] for name, values in told.items()}


def test_what_draws_nothing_has_no_spread_in_the_table_and_its_first_run_counts(tmp_path: Path) -> None:
    told = {name: [0.90, 0.92, 0.92, 0.92, 0.92, 0.92] for name in TOLD}
    found = report(declare(tmp_path, SEEDS), "smoke", lines(told, made_by=DRAWS_NOTHING))
    assert "| few | 91.67 (n 6, nothing drawn) | 91.67 (n 6, nothing drawn) | **inconclusive" in found and "±" not in row(found)


def row(found: str) -> str:
    return next(line for line in found.splitlines() if line.startswith("| few |"))


@pytest.mark.parametrize(
    ("told", "row"),
    [
        ("no data", "| few | 91.00 ± 1.10 (n 6) | no data | **no data** |"),
        (["diverged", *[0.9] * 5], "| few | 91.00 ± 1.10 (n 6) | diverged (1 of 6) | **diverged (1 of 6)** |"),
        ([0.93], "| few | 91.00 ± 1.10 (n 6) | 93.00 (n 1) | **incomplete (1 of 6)** |"),
        (None, "| few | 91.00 ± 1.10 (n 6) | not run | **not run** |"),
    ],
)
def test_cell_without_a_verdict_says_why(told: Any, row: str, tmp_path: Path) -> None:
    changed = {name: values for name, values in {**TOLD, "data=few,method=ours": told}.items() if values is not None}
    assert row in report(declare(tmp_path, SEEDS), "smoke", lines(changed))


def test_baseline_under_its_floor_is_undertrained_in_its_cell_and_its_row(tmp_path: Path) -> None:
    floor = {"scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer"}]}
    told = lines(TOLD)
    for run in (run for line in told for run in line["runs"]):
        run["numbers"]["val/acc"] = 0.9
    longer = {f"data={data},method=base,floor=longer": [value] * 2 for data, value in (("few", 0.93), ("many", 0.91))}
    found = report(declare(tmp_path, {**SEEDS, **floor}), "smoke", told + lines(longer, metric="val/acc"))
    assert "| few | 91.00 ± 1.10 (n 6), undertrained | 94.00 ± 1.10 (n 6) | **undertrained** |" in found
    assert "| many | 97.00 ± 0.00 (n 6) | 96.00 ± 4.38 (n 6) | **inconclusive** " in found


@pytest.mark.parametrize(
    ("compare", "says"),
    [
        ("difference", "ours minus base, points: "),
        ("ratio", "ours over base: "),
        ("saving", "ours in the place of base, percent: "),
    ],
)
def test_what_a_column_of_verdicts_compares_is_said_as_it_is_compared(compare: str, says: str, tmp_path: Path) -> None:
    found = report(declare(tmp_path, {**SEEDS, "claims/level/compare": compare, "claims/level/value": 1}), "smoke", lines(TOLD))
    assert f"- *level*: ours is level ({says}the interval lies in " in found


def test_pooled_claim_names_the_cells_that_it_is_without(tmp_path: Path) -> None:
    pooled = declare(tmp_path, {**SEEDS, "claims/level/each": [], "claims/level/pooled": ["data"]})
    whole = section(report(pooled, "smoke", lines(TOLD)), "Claims")
    part = section(report(pooled, "smoke", lines({**TOLD, "data=many,method=ours": "no data"})), "Claims")
    assert "12 pairs" in whole and "without" not in whole
    assert "6 pairs; without many" in part


def test_runs_that_cells_share_are_counted_once_with_their_time(tmp_path: Path) -> None:
    told = lines(TOLD)
    for line in told:
        for run in line["runs"]:
            run["run_id"], run["times"] = str(run["seed"]), {"time/wall_s": 60.0}
    assert "- 6 runs, 6 minutes of run time in all." in report(declare(tmp_path, SEEDS), "smoke", told)


def test_details_are_in_their_unit_with_their_statistic_and_share(tmp_path: Path) -> None:
    details = [
        {"name": "best", "metric": "test/acc", "unit": "percent", "statistic": "max", "digits": 1},
        {"name": "share", "metric": "test/acc", "unit": "percent", "share_of": {"method": "base"}, "digits": 1},
    ]
    found = section(report(declare(tmp_path, {**SEEDS, "details": details}), "smoke", lines(TOLD)), "Each cell")
    assert "| few, base | 6 | 92.0 | 100.0 |" in found
    assert "| few, ours | 6 | 95.0 | 103.3 |" in found  # 94 of 91
    assert "| many, ours | 6 | 100.0 | 99.0 |" in found  # 96 of 97


def test_settings_that_differ_from_the_paper_are_listed_with_their_cells(tmp_path: Path) -> None:
    changes = {
        "scales/paper": {"about": "All.", "rules": [{"where": {"method": "ours"}, "set": {"method.epochs": 9}}]},
        "scales/smoke/rules": [{"set": {"optimizer.lr": 0.5}}],
    }
    found = section(report(declare(tmp_path, changes), "smoke", lines(TOLD)), "How ours differs from the thesis")
    assert set(found.splitlines()) == {
        "- `optimizer.lr`: 0.5 instead of its default (everywhere)",
        "- `method.epochs`: 1 instead of 9 (ours)",
    }


def grid(tmp_path: Path, nine: list[float]) -> str:
    changes = {
        "assumptions": {"width": {"why": "?", "choices": {"a": {"label": "eight"}, "b": {"label": "nine"}}}},
        "scales/smoke/grid": [{"choose": {"width": ["b"]}}],
    }
    under = {f"{name},width=b": nine if "ours" in name else [0.9] * 6 for name in TOLD}
    found = report(declare(tmp_path, {**SEEDS, **changes}), "smoke", lines({**TOLD, **under}))
    return section(found, "Other choices where the text says nothing")


def test_choices_are_fitted_jointly_over_all_claims_and_none_may_fit(tmp_path: Path) -> None:
    both = grid(tmp_path, [0.95] * 6)
    assert "| nine | 2 | 0 | 0 | 0 | 0 |" in both and "| our own | 1 | 0 | 1 | 0 | 0 |" in both
    assert both.endswith("All claims hold together under: nine.")
    none = grid(tmp_path, [0.80] * 6)
    assert "| nine | 0 | 2 | 0 | 0 | 0 |" in none and none.endswith("None fits all claims together.")


def test_a_claims_name_in_words_has_its_decimal_point() -> None:
    assert wording.in_words("within_0p3_of_backprop") == "within 0.3 of backprop" and wording.in_words("top_1_up") == "top 1 up"
