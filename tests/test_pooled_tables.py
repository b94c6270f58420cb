"""Tables whose rows are draws of the data show the mean over the draws first."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from declared import declare, lines

from effdl.errors import ConfigError
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import judged
from effdl.reproduce.report import summary
from effdl.reproduce.tables import pooled

DRAWS: dict[str, Any] = {
    "rows": ["data", "draw"],
    "pooled": ["draw"],
    "axes/draw": {"0": {"label": "draw 1", "set": {}}, "1": {"label": "draw 2", "set": {"dataset.val_size": 101}}},
    "claims/level/pooled": ["draw"],
}
TOLD: dict[str, Any] = {
    "data=few,method=base,draw=0": [0.90, 0.92],
    "data=few,method=base,draw=1": [0.70, 0.74],
    "data=few,method=ours,draw=0": [0.93, 0.95],
    "data=few,method=ours,draw=1": [0.80, "diverged"],
    "data=many,method=base,draw=0": [0.5, 0.5],
    "data=many,method=base,draw=1": [0.5, 0.5],
    "data=many,method=ours,draw=0": ["diverged", "diverged"],
    "data=many,method=ours,draw=1": ["diverged", "diverged"],
}


def test_a_pooled_table_is_the_mean_and_deviation_over_all_runs_of_all_draws(tmp_path: Path) -> None:
    declaration = declare(tmp_path, DRAWS)
    runs = frame(declaration, "smoke", lines(TOLD))
    header, _, few, many = pooled(declaration, "smoke", runs).splitlines()
    assert header == "| data | base: ours | ours: ours |"
    both = [90.0, 92.0, 70.0, 74.0]
    assert f"{statistics.mean(both):.2f} ± {statistics.stdev(both):.2f} (n 4)" in few
    assert "(n 3, 1 of 2 incomplete)" in few
    assert "50.00 ± 0.00 (n 4)" in many and "diverged (2 of 2)" in many


def test_each_draw_is_folded_away_on_a_page_and_stands_below_in_a_report(tmp_path: Path) -> None:
    declaration = declare(tmp_path, DRAWS)
    runs = frame(declaration, "smoke", lines(TOLD))
    found = judged(declaration, "smoke", runs)
    page, report = (summary(declaration, "smoke", runs, found, folded) for folded in (True, False))
    assert page.index("| data | base: ours") < page.index("<summary>Each by itself</summary>") < page.index("| few | draw 1 |")
    assert "<summary>Each by itself" not in report and report.index("| data | base: ours") < report.index("| few | draw 1 |")


def test_without_such_an_axis_there_is_no_such_table(tmp_path: Path) -> None:
    declaration = declare(tmp_path, {**DRAWS, "pooled": []})
    assert pooled(declaration, "smoke", frame(declaration, "smoke", lines(TOLD))) == ""


@pytest.mark.parametrize("which", [["method"], ["data", "draw"], ["nothing"]])
def test_pooled_names_some_of_the_row_axes(tmp_path: Path, which: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"pooled: needs columns, and some but not all of rows \(data, draw\)"):
        declare(tmp_path, {**DRAWS, "pooled": which})
