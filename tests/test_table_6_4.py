"""Transfer's declarations have what table 6.5 prints, and wait for weights that are not here."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from effdl import config
from effdl.errors import ConfigError, DataError
from effdl.reproduce import artefact, published
from effdl.reproduce.frame import beside
from effdl.reproduce.survey import survey

TABLE, OURS = artefact.load("table-6.4"), artefact.load("transfer")


@cache
def settings() -> dict[str, dict[str, str]]:
    """Of table 6.5, by cell: what is printed of each metric, with its factor."""
    found: dict[str, dict[str, str]] = {}
    axes: Any = TABLE.artefact.axes
    for row in rows("table_6_5.csv"):
        (network,) = (k for k, v in axes["network"].items() if v.row["architecture_key"] == row["architecture_key"])
        (dataset,) = (k for k, v in axes["dataset"].items() if v.row["dataset"] == row["dataset"])
        of_cell = found.setdefault(f"network={network},dataset={dataset},method=dll", {})
        of_cell |= {row["metric"]: row["base"], f"{row['metric']}_factor": row["factor"]}
    return found


def rows(name: str) -> list[dict[str, str]]:
    with (published.PUBLISHED / name).open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def composed() -> dict[str, Any]:
    return {cell.name: config.composed(artefact.on_the_cpu(cell.overrides)) for cell in TABLE.cells("paper")}


def test_settings_that_table_6_5_prints_are_those_of_every_cell_of_dll() -> None:
    assert len(settings()) == 10 and set(settings()) == {name for name in composed() if name.endswith("method=dll")}
    for name, printed in settings().items():
        method, optimizer = composed()[name]["method"], composed()[name]["optimizer"]
        assert (method["epochs"], method["epochs_factor"]) == (int(printed["epochs"]), float(printed["epochs_factor"]))
        assert (optimizer["lr"], method["lr_factor"]) == tuple(float(printed[f"learning_rate{end}"]) for end in ("", "_factor"))
        decay = tuple(float(printed[f"weight_decay{end}"] or 1) for end in ("", "_factor"))
        assert (optimizer["weight_decay"], method["weight_decay_factor"]) == decay
        assert (method["gradient_dropout"], method["input_dropout"]) == (
            float(printed["grad_noise"]),
            float(printed["dropout"]),
        )
        assert optimizer["schedule"] is None and composed()[name]["dataset"]["batch_size"] == 128


def test_accuracies_that_table_6_4_prints_are_those_of_their_cells() -> None:
    printed = {(r["architecture_key"], r["dataset"], r["method"].lower()): float(r["value"]) for r in rows("table_6_4.csv")}
    axes: Any = TABLE.artefact.axes
    found = {
        (
            axes["network"][at["network"]].row["architecture_key"],
            axes["dataset"][at["dataset"]].row["dataset"],
            at["method"],
        ): one
        for at, one in ((cell.at, cell.published) for cell in TABLE.cells("paper"))
    }
    assert found == printed and len(found) == 20


def test_cells_without_their_weights_are_without_data_and_say_which_file_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFDL_PRETRAINED", str(tmp_path))
    for one in survey(TABLE, "paper", tmp_path, only="method=dll"):
        name = {"efficientnet_v2_m": "efficientnet_v2_m", "mobilevit_v2": "mobilevitv2_100"}[one.cell.at["network"]]
        assert one.reason == (
            f"arch.weights: no file {name}.safetensors in {tmp_path}; EFFDL_PRETRAINED names the folder it lies in"
        )
    start = ["arch=library", "arch.name=tf_efficientnet_lite0", "arch.size=32"]
    with pytest.raises(DataError, match=r"no file tf_efficientnet_lite0.safetensors in"):
        config.build(config.compose([*start, "arch.weights=pretrained/tf_efficientnet_lite0.safetensors"]))
    with pytest.raises(
        ConfigError, match=r"no file elsewhere/a.safetensors; 'pretrained' stands for those that timm publishes"
    ):
        config.build(config.compose([*start, "arch.weights=elsewhere/a.safetensors"]))


def test_peak_from_the_top_counts_the_top_layer_as_one() -> None:
    by_layer = {"test/acc": [[0, 0, 0.1], [1, 0, 0.6], [2, 0, 0.5]]}
    runs = pd.DataFrame({"series": [by_layer, {"test/acc": [[0, 0, 0.7]]}], "segment/chosen": [1, None]})
    module: Any = beside(OURS)
    assert list(module.measures(runs)["peak_from_top"].fillna(0)) == [2, 0]


def test_our_transfer_has_printed_factors_and_as_many_epochs_in_both_of_its_rules() -> None:
    found = {}
    for method in ("dll", "even"):
        (cell,) = (c for c in OURS.cells("small") if c.at["method"] == method and c.at["dataset"] == "cifar10")
        of_method = config.composed(artefact.on_the_cpu(cell.overrides))["method"]
        found[method] = sum(max(1, round(of_method["epochs"] * of_method["epochs_factor"] ** i)) for i in range(18))
        assert of_method["epochs_factor"] == of_method["lr_factor"] == (1.08 if method == "dll" else 1.0)
    assert found == {"dll": 74, "even": 72}
