"""What stands beside the pictures of the second thesis: numbers of made-up runs, and drawings of them."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from effdl.reproduce import artefact
from effdl.reproduce.frame import beside

Series = dict[str, list[list[float]]]
NAMES = ("dfa-fig-1.1", "dfa-fig-1.2", "dfa-fig-B.1", "dfa-fig-B.2", "dfa-fgsm", "dfa-depth")


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def measured(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    axes = artefact.load(name).artefact.axes
    for row in rows:
        row["cell"] = ",".join(f"{axis}={row[axis]}" for axis in axes)
    runs: pd.DataFrame = module(name).measures(pd.DataFrame(rows).assign(status="finished"))
    return runs


def points(*looks: list[float]) -> list[list[float]]:
    """Lists that a probe recorded before the first epoch, after it, and so on."""
    return [[0, epoch - 1, value] for epoch, values in enumerate(looks) for value in values]


def weights(first: float, head: list[float], feedback: dict[str, list[float]] | None = None) -> Series:
    found = {f"weights/linear1/{i}": points([0.5] * 5, [first] * 5) for i in range(6)}
    found["weights/head/0"] = points([0.1] * 6, head)
    found |= {f"weights/feedback/{name}/0": points([0.2] * 6, row) for name, row in (feedback or {}).items()}
    return found | {"alignment/angle/all": points([50.0], [20.0])}


def test_fa_is_held_beside_dfa_of_its_seed_and_a_matrix_that_moves_is_seen() -> None:
    head = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    rows = [
        {"rule": "fa", "seed": 0, "series": weights(0.75, head, {"head": [0.2] * 6})},
        {"rule": "dfa", "seed": 0, "series": weights(0.75, head, {"linear1": [0.2] * 5 + [0.3]})},
        {"rule": "fa", "seed": 1, "series": weights(0.75, head, {"head": [0.2] * 6})},
        {"rule": "dfa", "seed": 1, "series": weights(0.25, [*head[:5], 0.7], {"linear1": [0.2] * 6})},
        {"rule": "fa", "seed": 2, "series": {}},
    ]
    runs = measured("dfa-fig-1.2", rows)
    assert runs["apart"].tolist()[:4] == pytest.approx([0, 0, 0.5, 0]) and math.isnan(runs["apart"].iloc[4])
    assert runs["drift"].tolist()[:4] == pytest.approx([0, 0.1, 0, 0])
    assert runs["first_angle"].iloc[0] == 50 and runs["angle"].iloc[0] == 20
    backprop = measured("dfa-fig-1.1", [{"rule": "bp", "seed": 0, "series": weights(0.75, head)}])
    assert backprop["angle"].tolist() == [20] and backprop["drift"].isna().all()


def test_products_of_single_digits_add_up_and_what_is_left_over_is_seen() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(8, 192))
    series = {f"weights/linear1/{i}": points([0.0] * 192, list(row)) for i, row in enumerate(rows)}
    figure = module("dfa-fig-B.1")
    w, x = figure.weights(series), figure.sample()
    assert w.shape == (8, 8, 24) and np.allclose(w.reshape(8, -1), rows)
    assert x.shape == (8, 24) and abs(x.mean()) < 0.5
    assert np.allclose(figure.products(w, x)[:, 1], [(row.reshape(8, 24)[:, 8:16] * x[:, 8:16]).sum() for row in rows])
    runs = measured("dfa-fig-B.1", [{"rule": "bp", "seed": 0, "series": series}, {"rule": "bp", "seed": 1, "series": None}])
    assert runs["left_over"].iloc[0] < 1e-12 and math.isnan(runs["left_over"].iloc[1])


def represented(acc: float) -> Series:
    numbers = {
        "nearest/acc": [0.95, acc],
        "nearest/chance": [0.1, 0.1],
        "nearest/pixels": [0.96],
        "nearest/queries": [5000.0] * 2,
    }
    numbers |= {"tsne/samples": [7500.0, 7500.0], "tsne/untrained_acc": [0.9], "tsne/pixels_acc": [0.93], "tsne/acc": [0.7]}
    found = {name: points(*([value] for value in values)) for name, values in numbers.items()}
    found["tsne/acc"] = [[0, 1, 0.7]]
    for name in ("digit", "x", "y", "untrained_x", "untrained_y", "pixels_x", "pixels_y"):
        found[f"tsne/{name}"] = points([1.0, 2.0, 9.0])
    return found


def test_representations_are_held_beside_chance_the_untrained_layer_and_pixels() -> None:
    runs = measured("dfa-fig-B.2", [{"learned": "parity", "rule": "bp", "seed": 0, "series": represented(0.8)}])
    (run,) = runs.to_dict("records")
    expected = {"acc": 0.8, "untrained": 0.95, "above": 0.7, "gain": -0.15, "over_pixels": -0.16, "plane_above": 0.6}
    assert {name: run[name] for name in expected} == pytest.approx(expected)
    assert run["samples"] == 7500 and run["queries"] == 5000 and run["plane_pixels"] == 0.93


def test_what_an_attack_takes_is_of_the_last_look() -> None:
    series = {"fgsm/acc/0": points([0.2], [0.98]), "fgsm/acc/0.1": points([0.1], [0.3]), "fgsm/gradient": points([1.0], [2.0])}
    runs = measured("dfa-fgsm", [{"network": "one", "rule": "bp", "seed": 0, "series": series}])
    assert runs["lost"].iloc[0] == pytest.approx(0.68) and runs["gradient"].iloc[0] == 2


def deep(angles: list[list[float]], norms: list[float]) -> Series:
    found = {f"alignment/angle/linear{i + 1}": points(*([look[i]] for look in angles)) for i in range(8)}
    return found | {f"alignment/norm/linear{i + 1}": points([norms[i]], [1.0], [1.0]) for i in range(8)}


def test_onset_runs_from_below_where_lower_layers_align_first() -> None:
    start, end = [90.0] * 8, [70.0] * 6 + [90.0] * 2
    upward = deep([start, [70.0] * 3 + [90.0] * 5, end], [10.0**-i for i in range(8)])
    downward = deep([start, [90.0] * 5 + [70.0] * 3, [70.0] * 8], [1.0] * 8)
    rows = [{"init": "he", "rule": "dfa", "seed": i, "series": series} for i, series in enumerate((upward, downward, {}))]
    runs = measured("dfa-depth", rows)
    assert runs["order"].iloc[0] > 0.9 and runs["order"].iloc[1] < -0.8
    assert runs["aligned"].tolist()[:2] == [6, 8]
    assert runs["lowest_length"].tolist()[:2] == pytest.approx([0, 0]) and runs["reach"].tolist()[:2] == pytest.approx([7, 0])
    assert runs["last_reach"].iloc[0] == pytest.approx(0) and runs.iloc[2][["order", "reach"]].isna().all()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_without_any_run_and_with_one_of_which_nothing_is_known(name: str) -> None:
    declaration = artefact.load(name)
    cell = declaration.cells("smoke")[0]
    empty = pd.DataFrame(columns=["cell", "seed", "status", "series"])
    failed = measured(name, [{**cell.at, "seed": 0, "series": {}}]).assign(status="failed")
    for runs in (empty, failed):
        assert isinstance(module(name).draw(declaration, "smoke", runs), Figure)


def test_pictures_of_made_up_runs_show_their_numbers() -> None:
    rows = [
        {"learned": what, "rule": rule, "seed": 0, "series": represented(0.8)}
        for what in ("parity", "digits")
        for rule in ("bp", "dfa")
    ]
    figure = module("dfa-fig-B.2").draw(artefact.load("dfa-fig-B.2"), "smoke", measured("dfa-fig-B.2", rows))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[2] == "backprop: 1-NN 80.0%\n(78.9 to 81.1; n = 5,000)" and titles[0].startswith("pixels: 1-NN 96.0%")
    assert all(len(axes.collections[0].get_offsets()) == 3 for axes in figure.axes)
    series = weights(0.75, [0.1] * 6, {"linear1": [0.2] * 6})
    drawn = module("dfa-fig-1.2").draw(
        artefact.load("dfa-fig-1.2"), "smoke", measured("dfa-fig-1.2", [{"rule": "dfa", "seed": 0, "series": series}])
    )
    assert drawn.axes[2].get_title("left") == "DFA, before training; back by B, whose cosine with w₂ is 1.00"
    assert len(drawn.axes[2].patches) == 5 * 6 + 6 + 6
