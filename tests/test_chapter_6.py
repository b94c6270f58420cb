"""What chapter 6's figures measure, against answers known by hand, and what the thesis prints of them."""

from typing import Any

import pandas as pd
import pytest

from effdl import config
from effdl.reproduce import artefact
from effdl.reproduce.frame import beside


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def table(name: str, rows: list[dict[str, Any]], scale: str = "small") -> pd.DataFrame:
    """Finished runs as a declaration's module gets them."""
    runs = pd.DataFrame([{"status": "finished", "seed": 0, **row} for row in rows])
    runs.attrs |= {"artefact": name, "scale": scale}
    return module(name).measures(runs)


def ranks(of_layer: float, early: float) -> dict[str, list[list[float]]]:
    """Each convolution's stable rank is as its number times a factor when it ends, and something else before."""
    return {f"stable_rank/conv{i}": [[i - 1, 1, early], [i - 1, 9, of_layer * i]] for i in range(1, 11)}


def test_the_gap_of_ranks_is_to_the_backprop_run_of_the_same_seed_after_the_last_look() -> None:
    cells = {"backprop": 2.0, "dll": 5.0, "robin": 1.5}
    rows = [
        {"cell": f"network=vgg13,rule={rule}", "seed": seed, "series": ranks(factor + seed, 99.0), "segment/chosen": 3.0}
        for rule, factor in cells.items()
        for seed in range(2)
    ]
    rows.append({"cell": "network=vgg13,rule=robin", "seed": 7, "series": ranks(1.0, 0.0), "segment/chosen": 0.0})
    runs = table("fig-6.3", rows)
    found = runs.set_index(["cell", "seed"])["rank_gap"]
    for seed in range(2):  # 5.5 is the mean of 1 to 10
        assert found["network=vgg13,rule=dll", seed] == pytest.approx(3 * 5.5)
        assert found["network=vgg13,rule=robin", seed] == pytest.approx(0.5 * 5.5)
    assert found["network=vgg13,rule=backprop"].isna().all() and pd.isna(found["network=vgg13,rule=robin", 7])
    assert runs["mean_rank"].iloc[-1] == pytest.approx(5.5) and runs["chosen_layer"].dropna().tolist() == [4, 4, 4, 4, 1]
    left, right = module("fig-6.3").draw(artefact.load("fig-6.3"), "small", runs.assign(**{"test/acc": 0.5})).axes
    assert [list(line.get_ydata())[-1] for line in left.lines[::3]] == [25.0, 55.0, pytest.approx((15 + 25 + 10) / 3)]
    assert right.lines


def test_random_robin_trains_each_layer_as_long_as_the_others_do() -> None:
    for scale in ("paper", "small"):
        cells = {cell.name: cell.set for cell in artefact.load("fig-6.3").cells(scale)}
        for name, of_cell in cells.items():
            base = cells[name.replace("rule=dll", "rule=backprop").replace("rule=robin", "rule=backprop")]
            assert of_cell["method.epochs"] * of_cell.get("method.rounds", 1) == base["method.epochs"], name


def test_subnets_slide_by_one_layer_and_nothing_regularises() -> None:
    for scale in ("paper", "small"):
        for cell in artefact.load("fig-6.2").cells(scale):
            made = config.composed(artefact.on_the_cpu(cell.overrides))
            method = made["method"]
            assert method["overlap"] == method["segment_size"] - 1 == int(cell.at["size"]) - 1
            drops = (
                method["input_dropout"],
                method["gradient_dropout"],
                made["optimizer"]["weight_decay"],
                method["lr_factor"],
            )
            assert drops == (0, 0, 0, 1) and made["augment"] is None
            assert scale == "small" or method["epochs"] == 50


def test_subnets_are_drawn_at_the_layer_where_they_end() -> None:
    series = {
        "test/acc": [[0, 0, 0.1], [0, 1, 0.2], [1, 0, 0.9], [1, 1, 0.4], [2, 1, 0.3]],
        "train/loss": [[2, 0, 1.0], [2, 1, 0.7]],
    }
    names = ["network=lite0,size=2", "network=lite0,size=8"]
    rows = [
        {"cell": name, "size": name[-1], "seed": seed, "series": series, "segment/chosen": 1.0}
        for name in names
        for seed in range(2)
    ]
    runs = table("fig-6.2", [*rows, {"cell": names[0], "size": "2", "seed": 9, "series": None, "segment/chosen": None}])
    assert runs["chosen_layer"].dropna().tolist() == [3, 3, 9, 9]
    found = runs.loc[0, ["best_test_acc", "last_test_acc", "last_train_loss"]]
    assert found.tolist() == [0.4, 0.3, 0.7] and runs.loc[4, ["best_test_acc", "last_test_acc"]].isna().all()
    left, right = module("fig-6.2").draw(artefact.load("fig-6.2"), "small", runs.assign(**{"test/acc": 0.5})).axes
    assert [list(line.get_xdata()) for line in left.lines[::3]] == [[2, 3, 4], [8, 9, 10]] and right.lines
