"""What chapter 6's figures measure, against answers known by hand, and what the thesis prints of them."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from effdl import config
from effdl.errors import ConfigError
from effdl.reproduce import artefact, published
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


def round_robin(epochs: int, costs: dict[int, list[float]]) -> list[list[float]]:
    """(partition, epoch, seconds so far) of rounds of two epochs, given what each epoch takes."""
    found, so_far = [], 0.0
    for first in range(0, epochs, 2):
        for partition, taken in costs.items():
            for epoch in (first, first + 1):
                so_far += taken[epoch]
                found.append([partition, epoch, so_far])
    return found


def test_what_an_epoch_of_a_partition_takes_is_read_from_the_time_of_all_training() -> None:
    costs = {0: [2.0, 2.0, 3.0, 3.0], 1: [4.0] * 4, 2: [4.0, 4.0, 1.0, 3.0], 3: [8.0, 8.0, 2.0, 2.0]}
    times = round_robin(4, costs)
    found = module("fig-6.5").seconds({"time/train_s": times})
    assert {p: [found[p][e] for e in range(4)] for p in range(4)} == costs
    thinned = [point for point in times if point[1] % 2]  # each second epoch
    assert module("fig-6.5").seconds({"time/train_s": thinned}) == {0: {1: 2.0}}
    kept = {0: [100, 100, 80, 70], 1: [100, 100, 60, 70], 2: [100, 100, 30, 60], 3: [100, 100, 30, 42]}
    counts = [[partition, epoch, n] for partition, row in kept.items() for epoch, n in enumerate(row)]
    series = {"time/train_s": times, "data/samples": counts}
    one = module("fig-6.5").of_run(series, 2)
    assert one["upper_share"] == pytest.approx((0.3 + 0.6 + 0.3 + 0.42) / 4)
    assert one["dropped_most"] == pytest.approx(0.5)  # 30 of 60, not of 100
    assert (one["upper_time"], one["lowest_time"]) == (pytest.approx((2 / 4 + 2 / 8) / 2), 1.5)


def test_pictures_of_partitions_show_seconds_data_and_accuracy() -> None:
    declaration = artefact.load("fig-6.5")
    costs = {partition: [2.0 + partition] * 4 for partition in range(4)}
    counts = [[partition, epoch, 100 - 10 * epoch] for partition in range(4) for epoch in range(4)]
    series = {"time/train_s": round_robin(4, costs), "data/samples": counts}
    rows = [
        {"cell": cell.name, "seed": seed, "series": series, "segment/chosen": 1, "test/acc": 0.5}
        for cell in declaration.cells("small")
        for seed in range(2)
    ]
    drawn = module("fig-6.5").draw(declaration, "small", table("fig-6.5", rows)).axes
    assert [[line.get_ydata()[0] for line in axes.lines] for axes in drawn[:3]] == [[2, 3, 4, 5], [2, 3, 4, 5], [100] * 4]
    assert len(drawn[3].lines) and drawn[0].get_ylim() == drawn[1].get_ylim()


def test_figure_6_5_has_the_printed_schedule_and_at_small_a_tenth_of_it() -> None:
    for scale, tenth in (("paper", 1), ("small", 10)):
        for cell in artefact.load("fig-6.5").cells(scale):
            made = config.composed(artefact.on_the_cpu(cell.overrides))
            method, chosen = made["method"], made["filter"]
            assert method["epochs"] * method.get("rounds", 1) * tenth == 300, cell.name
            if method.get("rounds", 1) > 1:
                assert method["epochs"] * tenth == 10
            if cell.at["training"] != "backprop":
                parts = 2 if cell.at["training"].startswith("two") else 4
                assert (method["partitions"], method["lr_factor"], method["weight_decay_factor"]) == (parts, 0.5, 0.5)
            if cell.at["training"] == "filtered":
                told = (chosen["k"], chosen["chunk"], chosen["drop_at_most"], chosen["start"] * tenth, chosen["when"])
                assert told == (10, 6148, 0.6, 30, "during")
            if cell.at["training"] == "two_filtered":
                assert (chosen["drop"], chosen["start"] * tenth) == (0.25, 30)


SETTINGS: dict[str, tuple[str, str]] = {  # column of table 6.3 -> where it stands in a config
    "subnet_size": ("method", "segment_size"),
    "epochs_per_layer": ("method", "epochs"),
    "lr_base": ("optimizer", "lr"),
    "lr_factor": ("method", "lr_factor"),
    "wd_base": ("optimizer", "weight_decay"),
    "wd_factor": ("method", "weight_decay_factor"),
    "grad_noise": ("method", "gradient_dropout"),
    "dropout_initial": ("method", "input_dropout"),
    "dropout_decay_per_epoch": ("method", "input_dropout_decay"),
    "batch_size": ("dataset", "batch_size"),
}


def rows_of_table_6_3() -> dict[str, dict[str, dict[str, str]]]:
    """cell -> metric -> row of table 6.3."""
    axes: Any = artefact.load("table-6.3").artefact.axes
    found: dict[str, dict[str, dict[str, str]]] = {}
    with (published.PUBLISHED / "table_6_3.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            (network,) = (k for k, v in axes["network"].items() if v.row["architecture_key"] == row["architecture_key"])
            (dataset,) = (k for k, v in axes["dataset"].items() if v.row["dataset"] == row["dataset"])
            found.setdefault(f"network={network},dataset={dataset},method=dll,rates=falling", {})[row["metric"]] = row
    return found


def test_the_44_rows_of_table_6_3_are_its_cells_setting_by_setting() -> None:
    cells, printed = {cell.name: cell for cell in artefact.load("table-6.3").cells("paper")}, rows_of_table_6_3()
    assert set(printed) == {name for name in cells if name.endswith("method=dll,rates=falling")} and len(printed) == 44
    for name, rows in printed.items():
        made, row = config.composed(artefact.on_the_cpu(cells[name].overrides)), rows["peak_layer"]
        assert {key: float(made[a][b]) for key, (a, b) in SETTINGS.items()} == {key: float(row[key]) for key in SETTINGS}, name
        assert made["method"]["decision"]["convs"] == int(row["max_decision_convs"])
        assert made["optimizer"]["_target_"].endswith(".Adamw") and made["augment"] is not None
        constant = cells[name.replace("falling", "constant")]
        rates = {"method.lr_factor": 1.0, "method.weight_decay_factor": 1.0}
        assert constant.set == {**cells[name].set, **rates} and constant.published is None


def test_table_6_3_has_the_cells_of_table_6_2_and_adds_its_rates_by_layer() -> None:
    theirs = {cell.name: cell.set for cell in artefact.load("table-6.2").cells("paper")}
    ours = {cell.name: cell.set for cell in artefact.load("table-6.3").cells("paper")}
    assert {name.removesuffix(",rates=falling"): s for name, s in ours.items() if name.endswith("falling")} == theirs
    dropped = {cell.at["network"]: cell.set for cell in artefact.load("table-6.3").cells("small") if cell.at["method"] == "dll"}
    for of_cell in dropped.values():
        assert of_cell["method.input_dropout_decay"] ** of_cell["method.epochs"] == pytest.approx(0.95**300, rel=4e-3)


def test_counts_over_runs_that_say_what_is_printed_are_those_of_the_printed_tables() -> None:
    printed, rows = rows_of_table_6_3(), []
    for cell in artefact.load("table-6.3").cells("paper"):
        if cell.at["rates"] == "falling":
            share = 100.0 if cell.at["method"] == "baseline" else float(printed[cell.name]["relative_memory"]["value"])
            numbers = {"memory/accounted_peak_bytes": share, "test/acc": (cell.published or 0) / 100, "series": None}
            rows += [{**cell.at, "cell": cell.name, "seed": seed, **numbers} for seed in (0, 1)]
    missing = [
        row for row in rows if not (row["cell"].startswith("network=vgg13,dataset=svhn,method=dll") and row["seed"] == 1)
    ]
    runs = table("table-6.3", missing, "paper")
    names = ["pairs_35_to_40", "pairs_near_20", "pairs_over_300_epochs", "pairs_of_two_layers", "pairs_within"]
    at = runs[runs["cell"] == "network=vgg13,dataset=cifar10,method=dll,rates=falling"].set_index("seed")[names]
    assert (
        at.loc[0].tolist() == [5, 3, 10, 4, 41] and at.loc[1].isna().all()
    )  # as found in print, one pair of another seed missing
    assert runs[names].notna().sum().tolist() == [1] * 5
    one = runs[(runs["network"] == "mobilenet_v2") & (runs["dataset"] == "stl10") & (runs["method"] == "dll")].iloc[0]
    assert (one["printed_peak_layer"], one["printed_n_layers"], one["memory_share"]) == (14, 17, 29.9)


def test_a_declaration_that_shares_cells_which_are_not_there_says_so(tmp_path: Path) -> None:
    path = tmp_path / "table_6_3.yaml"
    path.write_text((published.EXPERIMENTS / "chapter_6" / "table_6_3.yaml").read_text())
    with pytest.raises(ConfigError, match=r"^table_6_3.yaml: cells_of: .*table_6_2.yaml is not there$"):
        artefact.read(path)
