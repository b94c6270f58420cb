"""What stands beside filters in their table: random subsets of the same share, and fewer epochs in the same seconds."""

import math
from typing import Any

import pandas as pd
import pytest

from effdl.reproduce import artefact
from effdl.reproduce.frame import beside

NAME = "filters-at-equal-share"
PASSES = {"time/train_s": [[0, i, 2.0 * (i + 1)] for i in range(4)], "test/acc": [[0, i, 0.6 + 0.1 * i] for i in range(4)]}


def module() -> Any:
    found = beside(artefact.load(NAME))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("taken", "epochs", "accuracy"),
    [(4.0, 2.0, 0.7), (5.0, 2.5, 0.75), (1.0, 0.5, 0.6), (90.0, 4.0, 0.9), (math.nan, math.nan, math.nan)],
)
def test_what_everything_had_reached_by_then(taken: float, epochs: float, accuracy: float) -> None:
    passes = module().by_seconds(PASSES)
    assert [seconds for seconds, _ in passes] == [2.0, 4.0, 6.0, 8.0]
    assert module().at_equal_time(passes, taken) == pytest.approx((epochs, accuracy), nan_ok=True)


def test_each_run_stands_beside_those_of_its_seed_data_and_share() -> None:
    def run(filter: str, share: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
        cell = f"dataset=mnist,share={share},filter={filter}"
        known = {"status": "finished", "series": None, "time/train_s": 3.0}
        at = {"cell": cell, "dataset": "mnist", "share": share, "filter": filter, "seed": seed}
        return {**at, **known, "test/acc": accuracy, **more}

    rows = [
        run("none", "all", 1, 0.9, series=PASSES, **{"time/train_s": 8.0}),
        run("none", "all", 2, 0.9, status="diverged", series=PASSES),
        run("random", "few", 1, 0.5, **{"filter/kept_share": 0.3, "time/filter_s": 0.0}),
        run("k_filter", "few", 1, 0.8, **{"filter/kept_share": 0.31, "time/filter_s": 2.0}),
        run("k_filter", "many", 1, 0.85, **{"filter/kept_share": 0.6, "time/filter_s": 2.0}),
        run("k_filter", "few", 2, 0.8, **{"filter/kept_share": 0.32, "time/filter_s": 2.0}),
    ]
    found = module().measures(pd.DataFrame(rows))
    none, _, random, few, many, other = (found.iloc[i] for i in range(6))
    assert (none["kept"], none["fewer_acc"], none["fewer_epochs"]) == pytest.approx((1.0, 0.9, 4.0))
    assert random["fewer_acc"] == pytest.approx(0.65)  # after 3 of its 8 seconds
    assert (few["taken_s"], few["fewer_acc"], few["fewer_epochs"]) == pytest.approx((5.0, 0.75, 2.5))
    assert (few["random_acc"], random["k_kept"]) == (0.5, 0.31)
    assert math.isnan(many["random_acc"]) and many["k_kept"] == 0.6
    assert math.isnan(other["random_acc"]) and math.isnan(other["fewer_acc"]) and other["k_kept"] == 0.32


def test_filters_of_a_set_share_keep_that_of_the_random_subset_beside_them() -> None:
    cells = [cell for cell in artefact.load(NAME).cells("small") if cell.at["share"] in ("few", "many")]
    by_place: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for cell in cells:
        by_place.setdefault((cell.at["dataset"], cell.at["share"]), {})[cell.at["filter"]] = dict(
            override.split("=", 1) for override in cell.overrides
        )
    assert len(by_place) == 6
    for of_each in by_place.values():
        share, epochs = (float(of_each["random"][key]) for key in ("filter.share", "method.epochs"))
        assert float(of_each["loss_filter"]["filter.drop"]) == pytest.approx(1 - share, abs=1e-3)
        assert 1 / (1 + float(of_each["selective_backprop"]["filter.beta"])) == pytest.approx(share, abs=1e-3)
        behind, left = (float(of_each["el2n"][key]) for key in ("filter.epoch", "filter.share"))
        assert (behind + (epochs - behind) * left) / epochs == pytest.approx(share, abs=1e-3)
