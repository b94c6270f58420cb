"""What stands beside the declarations of the second thesis: metrics that compare runs, on made-up ones."""

import math
from typing import Any

import pandas as pd
import pytest

from effdl.reproduce import artefact
from effdl.reproduce.frame import beside

COSINE = "alignment/weights/linear1"


def measured(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    module = beside(artefact.load(name))
    assert module is not None
    for row in rows:
        axes = artefact.load(name).artefact.axes
        row["cell"] = ",".join(f"{axis}={row[axis]}" for axis in (*axes, "constants") if axis in row)
    runs: pd.DataFrame = module.measures(pd.DataFrame(rows).assign(status="finished"))
    return runs


def parity(method: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {"k": "1", "method": method, "seed": seed, "test/acc": accuracy}


def test_the_lead_is_over_the_best_lazy_method_of_the_seed_and_needs_all_four() -> None:
    lazy = [parity(method, 0, 0.9 + 0.01 * i) for i, method in enumerate(("ntk", "gaussian", "relu", "linear"))]
    some = [parity("ntk", 1, 0.9)]
    runs = measured("dfa-fig-2.1", [*lazy, *some, parity("sgd", 0, 0.97), parity("sgd", 1, 0.97)])
    assert runs["lead"].iloc[-2] == pytest.approx(0.04) and math.isnan(runs["lead"].iloc[-1])


def test_how_far_the_matrix_from_0_to_1_is_above_each_of_the_others() -> None:
    rows = [{"feedback": name, "seed": 0, "test/acc": a} for name, a in (("standard_uniform", 0.6), ("uniform", 0.7))]
    assert measured("dfa-fig-3.3", rows)["below"].tolist() == pytest.approx([0, -0.1])


def test_gaps_and_gains_are_between_runs_that_are_the_same_in_all_else() -> None:
    def run(optimizer: str, rule: str, accuracy: float, **more: str) -> dict[str, Any]:
        return {"optimizer": optimizer, "rule": rule, "seed": 3, "test/acc": accuracy, **more}

    rows = [
        *(run("sgd", "bp", 0.76), run("sgd", "dfa", 0.68), run("adadelta", "bp", 0.8), run("adadelta", "dfa", 0.77)),
        *(run("adadelta", "bp", 0.5, constants="slip"), run("adadelta", "dfa", 0.6, constants="slip")),
    ]
    runs = measured("dfa-fig-3.4", rows)
    assert runs["gap"].tolist() == pytest.approx([0, 0.08, 0, 0.03, 0, -0.1])
    assert runs["gain"].tolist() == pytest.approx([0, 0, 0.04, 0.09, -0.26, -0.08])


def test_the_width_of_good_rates_needs_all_rates_and_is_in_powers_of_ten() -> None:
    rates = list(artefact.load("dfa-rates").artefact.axes["rate"])
    good = [{"rate": rate, "rule": "bp", "seed": 0, "test/acc": 0.75 if 0.01 <= float(rate) <= 0.1 else 0.5} for rate in rates]
    part = [{"rate": rate, "rule": "dfa", "seed": 0, "test/acc": 0.75} for rate in rates[:4]]
    runs = measured("dfa-rates", [*good, *part])
    # Within two points of 0.75 are 0.08 of the way to the rates beside: log10 of 2 each.
    assert runs["width"].iloc[0] == pytest.approx(1 + 2 * 0.08 * math.log10(2), abs=0.02)
    assert runs["width"].iloc[-4:].isna().all()


def test_alignment_is_that_at_the_end_and_its_growth_from_before_the_first_epoch() -> None:
    series = {COSINE: [[0, -1, 0.01], [0, 0, 0.2], [0, 1, 0.5]]}
    runs = measured(
        "dfa-fig-3.2", [{"rule": "dfa_50", "seed": 0, "series": series}, {"rule": "bp_20", "seed": 0, "series": {}}]
    )
    assert runs["cosine"].iloc[0] == pytest.approx(0.5) and runs["growth"].iloc[0] == pytest.approx(0.49)
    assert runs["cosine"].isna().tolist() == [False, True]


def test_a_linear_map_has_the_share_of_variance_that_is_explained_for_a_score() -> None:
    rows = [
        {"problem": "mnist", "rule": "bp", "seed": 0, "test/acc": 0.98},
        {"problem": "linear", "rule": "bp", "seed": 0, "test/mse": 1.0},
    ]
    assert measured("dfa-ordinary", rows)["score"].tolist() == pytest.approx([0.98, 0.9])
