"""What chapter 8's figures measure, against answers known by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from effdl.reproduce import artefact
from effdl.reproduce.frame import beside


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def looks(*values: float | list[float]) -> list[list[float | None]]:
    """What was recorded before the first epoch, after it, and so on; a list has several values of one look."""
    return [[0, epoch - 1, v] for epoch, row in enumerate(values) for v in (row if isinstance(row, list) else [row])]


SERIES = {
    "by_region/acc/left": looks(0.5, 0.5, 0.7),
    "by_region/acc/right": looks(0.5, 0.9, 1.0),
    **{f"by_region/k_redundancy/5/left/{name}": looks(0.1, 0.1, end) for name, end in (("linear1", 0.2), ("linear2", 0.5))},
    **{f"by_region/k_redundancy/5/right/{name}": looks(0.8, 0.8, end) for name, end in (("linear1", 0.95), ("linear2", 1.0))},
    "by_region/k_redundancy/5/left/input": looks(0.1),
    "by_region/k_redundancy/5/right/input": looks(0.8),
    **{f"by_region/weights/left/{name}": looks(w, w, w) for name, w in (("linear1", 2.0), ("linear2", 2.0), ("output", 1.0))},
    "by_region/weights/right/linear1": looks(8.0, 4.0, 1.0),
    "by_region/weights/right/linear2": looks(8.0, 4.0, 1.0),
    "by_region/weights/right/output": looks(4.0, 2.0, 0.5),
    "by_region/deltas/left/linear1": looks(1.0, 1.0, 1.0),
    "by_region/deltas/right/linear1": looks(1.0, 1 / 4, 1 / 16),
    "weight_sketch/linear1": looks([0.0, 0.0], [3.0, 4.0], [6.0, 8.0]),
    "weight_sketch/linear2": looks([1.0], [1.0], [3.0]),
}


def test_leads_ratios_and_distances_are_those_worked_out_by_hand() -> None:
    found = module("two-frequency-board").of_run(SERIES, 0.9)
    # Over two epochs: ((0.5 + 0.9) / 2 + (0.9 + 1) / 2) / 2 less ((0.5 + 0.5) / 2 + (0.5 + 0.7) / 2) / 2
    assert found["lead"] == pytest.approx(0.825 - 0.55) and (found["acc_left"], found["acc_right"]) == (0.7, 1.0)
    assert found["redundancy_input"] == pytest.approx(0.7) and found["redundancy_least"] == pytest.approx(0.5)
    assert found["first_layer_adds"] == pytest.approx(0.05) and found["last_layer_adds"] == pytest.approx(0.25)
    ratios = [found[f"pull_{when}"] for when in ("before", "first", "end", "throughout")]
    assert ratios == pytest.approx([4, 2, 1 / 2, 2 ** ((1.5 + 0) / 2)])  # logarithms 2, 1, -1: their trapezia 1.5 and 0
    assert found["errors_throughout"] == pytest.approx(2**-2)
    assert found["part_throughout"] == pytest.approx(0.75 - np.log2(9))
    # linear1 is at 1, 1/2, 0 of its way, linear2 at 1, 1, 0
    assert found["bottom_up"] == pytest.approx(0.75 - 0.5)


def test_a_run_without_series_has_no_numbers() -> None:
    found = module("two-frequency-board").of_run(None, 0.5)
    assert all(np.isnan(value) for value in found.values())


def test_measures_know_the_shares_of_their_cells_and_pictures_are_drawn() -> None:
    board, declaration = module("two-frequency-board"), artefact.load("two-frequency-board")
    names = [cell.name for cell in declaration.cells("small")]
    runs = pd.DataFrame([{"cell": name, "seed": 0, "status": "finished", "series": SERIES} for name in names])
    runs.attrs |= {"artefact": "two-frequency-board", "scale": "small"}
    found = board.measures(runs).set_index("cell")["part_throughout"]
    assert found["network=three,density=equal"] == pytest.approx(0.75)
    assert found["network=six,density=per_square"] == pytest.approx(0.75 - np.log2(9))
    figure = board.draw(declaration, "small", runs)
    assert len(figure.axes) == 16 and all(axes.lines for axes in figure.axes)


def test_a_half_of_more_squares_has_fewer_samples_in_each() -> None:
    halves, declaration = module("samples-per-half"), artefact.load("samples-per-half")
    ends = {"by_region/acc/left": looks(0.5, 0.6), "by_region/acc/right": looks(0.5, 0.9)}
    runs = pd.DataFrame([{"cell": "samples=320", "seed": 0, "status": "finished", "series": ends}])
    runs = halves.measures(runs)
    assert (runs["acc_left"].iloc[0], runs["acc_right"].iloc[0], runs["ahead"].iloc[0]) == pytest.approx((0.6, 0.9, 0.3))
    whole, each = halves.draw(declaration, "small", runs).axes
    assert [list(line.get_xdata()) for line in whole.lines[::2]] == [[160], [160]]
    assert [list(line.get_xdata()) for line in each.lines[::2]] == [pytest.approx([160 / 72]), pytest.approx([160 / 8])]


def test_falls_and_what_goes_together_are_those_worked_out_by_hand() -> None:
    bits = {f"gradient_information/bits/linear{i}": looks(0.1 * i, 0.2 * i) for i in (1, 2, 3, 5, 6)}
    bits["gradient_information/bits/linear4"] = looks(0.4, 0.5)
    entropy = {f"weight_entropy/8/linear{i}": looks(6.0, 5.0, 4.5, 4.0) for i in range(1, 7)}
    ranks = {f"stable_rank/linear{i}": looks(9.0, 8.0, 7.0, 5.0 + 3 * (i > 3)) for i in range(1, 7)}
    found = module("gradient-information").of_run(bits | entropy | ranks)
    assert (found["fall_before"], found["fall_after"]) == pytest.approx((0.5, 1.0))
    assert found["least_step"] == pytest.approx(0.5 - 0.6)
    assert (found["entropy_change"], found["rank_change"]) == pytest.approx((-2, (-4 - 1) / 2))
    # Ranks of 9, 8, 7, 8 are 4, 2.5, 1, 2.5: with 4, 3, 2, 1 their covariance is 3 and the variances 4.5 and 5.
    assert found["entropy_with_rank"] == pytest.approx((1 + 3 / np.sqrt(4.5 * 5)) / 2)
    assert all(np.isnan(value) for value in module("gradient-information").of_run(None).values())


def by_layer(kind: str, *values: tuple[float, ...]) -> dict[str, list[list[float | None]]]:
    """Of each layer what was recorded before, and after one epoch and so on."""
    return {f"{kind}/conv{i + 1}": looks(*told) for i, told in enumerate(values)}


def binned(shift: float) -> dict[str, list[list[float | None]]]:
    redundancy = by_layer("k_redundancy/10", (0.0, 0.1, 0.2 + shift), (0.0, 0.3, 0.4 + shift), (0.0, 0.3, 0.3), (0.0, 0.5, 0.9))
    distance = by_layer("lsd/y", (0.9, 0.8), (0.9, 0.6), (0.9, 0.65), (0.9, 0.1))
    entropy = by_layer("pure_voronoi/entropy", (7.0, 6.5), (7.0, 5.0), (7.0, 4.0), (7.0, 3.0))
    return redundancy | distance | entropy | {"pure_voronoi/entropy/input": looks(6.0)}


def test_binning_is_of_the_lower_half_and_beside_backprop_of_the_same_seed() -> None:
    told = [("backprop", 3, 0.0), ("backprop", 4, 0.5), ("dll", 3, 0.1), ("dll", 4, 0.1)]
    runs = pd.DataFrame([{"cell": f"rule={rule}", "seed": seed, "series": binned(shift)} for rule, seed, shift in told])
    found = module("binning").measures(runs)
    first = found.iloc[0]
    assert (first["redundancy_lower"], first["redundancy_first"], first["redundancy_last"]) == pytest.approx((0.3, 0.2, 0.9))
    assert (first["lsd_lower"], first["entropy_lower"]) == pytest.approx((0.7, 5.75))
    assert (first["redundancy_step"], first["lsd_step"], first["entropy_step"]) == pytest.approx((-0.1, 0.05, 0.5))
    assert list(found["away"]) == pytest.approx([0, 0, 0.2 / 4, 0.8 / 4])
    nothing = module("binning").measures(pd.DataFrame([{"cell": "rule=dll", "seed": 3, "series": None}])).iloc[0]
    assert np.isnan([nothing[key] for key in ("redundancy_lower", "lsd_step", "entropy_last", "away")]).all()


def test_binning_is_drawn_by_rule() -> None:
    declaration = artefact.load("binning")
    names = [cell.name for cell in declaration.cells("small")]
    runs = pd.DataFrame([{"cell": name, "seed": 0, "status": "finished", "series": binned(0.0)} for name in names])
    figure = module("binning").draw(declaration, "small", runs)
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 4]
