"""Table 6.2's declaration has what the thesis prints; its two sides differ in method and rates alone."""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import command
import matplotlib.image
import pandas as pd
import pytest

from effdl import config
from effdl.errors import DataError
from effdl.reproduce import artefact, published
from effdl.reproduce.artefact import Cell
from effdl.reproduce.frame import beside

TABLE = artefact.load("table-6.2")
LEVELS = {axis: TABLE.artefact.axes[axis] for axis in ("network", "dataset")}


@cache
def cells(scale: str) -> dict[str, Cell]:
    return {cell.name: cell for cell in TABLE.cells(scale)}


@cache
def spec(scale: str, name: str) -> config.Spec:
    """A cell's Spec, whether or not its data are here."""
    return config.build(config.compose(cells(scale)[name].overrides), checked=False)


def printed(name: str, **where: str) -> list[dict[str, str]]:
    with (published.PUBLISHED / name).open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in where.items())]


def of_row(row: dict[str, str], method: str) -> str:
    """The cell that a row of the published tables is of."""
    keys = {"network": "architecture_key", "dataset": "dataset"}
    at = {axis: [n for n, level in LEVELS[axis].items() if (level.row or {})[key] == row[key]] for axis, key in keys.items()}
    assert all(len(found) == 1 for found in at.values()), row
    return f"network={at['network'][0]},dataset={at['dataset'][0]},method={method}"


def test_paper_scale_has_all_44_pairs_and_small_the_one_that_is_affordable() -> None:
    rows = printed("table_6_2.csv", metric="test_accuracy")
    assert set(cells("paper")) == {of_row(row, row["method"].lower()) for row in rows} and len(rows) == 88
    assert set(cells("small")) == {f"network=shufflenet_v2_x0_5,dataset=cifar10,method={m}" for m in ("baseline", "dll")}


def test_every_cell_of_table_6_2_can_run_where_its_data_are() -> None:
    missing, asked = set(), [("smoke", name) for name in cells("smoke")] + [("small", name) for name in cells("small")]
    for scale, name in [*asked, *(("paper", name) for name in cells("paper") if name.endswith("dll"))]:
        try:
            config.check(spec(scale, name))
        except DataError:
            missing.add(cells(scale)[name].at["dataset"])
            assert scale != "smoke", name
    if missing == set(LEVELS["dataset"]):
        pytest.skip("EFFDL_DATA names no folder with CIFAR-10, CIFAR-100, SVHN or STL-10")


def test_printed_accuracies_are_those_of_their_cells() -> None:
    rows = printed("table_6_2.csv", metric="test_accuracy")
    assert {of_row(row, row["method"].lower()): float(row["value"]) for row in rows} == {
        name: cell.published for name, cell in cells("paper").items()
    }
    assert cells("small")["network=shufflenet_v2_x0_5,dataset=cifar10,method=dll"].published == 91.71


def test_settings_that_table_6_3_prints_are_those_of_every_cell_of_dll() -> None:
    rows = printed("table_6_3.csv", metric="peak_layer")
    assert len(rows) == 44
    for row in rows:
        made = spec("paper", of_row(row, "dll"))
        expected = {key: float(row[key]) for key in OF_TABLE_6_3}
        assert {key: of(made.method, made.optimizer) for key, of in OF_TABLE_6_3.items()} == expected, row


OF_TABLE_6_3: dict[str, Any] = {
    "subnet_size": lambda method, optimizer: method.segment_size,
    "epochs_per_layer": lambda method, optimizer: method.epochs,
    "lr_base": lambda method, optimizer: optimizer.lr,
    "lr_factor": lambda method, optimizer: method.lr_factor,
    "wd_base": lambda method, optimizer: optimizer.weight_decay,
    "wd_factor": lambda method, optimizer: method.weight_decay_factor,
    "grad_noise": lambda method, optimizer: method.gradient_dropout,
    "dropout_initial": lambda method, optimizer: method.input_dropout,
    "dropout_decay_per_epoch": lambda method, optimizer: method.input_dropout_decay,
    "max_decision_convs": lambda method, optimizer: method.decision.convs,
}


def pairs(scale: str) -> list[tuple[str, str]]:
    """Names of the cells of DLL, each with that of its baseline."""
    return [(name, name.replace("method=dll", "method=baseline")) for name in cells(scale) if name.endswith("method=dll")]


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_overrides_of_a_pair_differ_in_method_and_rates_alone(scale: str) -> None:
    for dll, base in pairs(scale):
        left, right = ({k: v for k, v in cells(scale)[name].set.items() if not own(k)} for name in (dll, base))
        assert left == right and cells(scale)[dll].seeds == cells(scale)[base].seeds, dll
        assert {"optimizer": "adamw", "optimizer/schedule": "multi_step", "dataset.batch_size": 128}.items() <= left.items()
    assert len(pairs(scale)) * 2 == len(cells(scale))


def own(key: str) -> bool:
    """Whether a key is a method's own: all of the method's, and the rates that are searched for each."""
    return key.split(".")[0] == "method" or key in ("optimizer.lr", "optimizer.weight_decay")


@pytest.mark.parametrize("scale", ["small", "smoke"])
def test_specs_of_a_pair_differ_in_method_and_rates_alone(scale: str) -> None:
    for dll, base in pairs(scale):
        left, right = spec(scale, dll), spec(scale, base)
        for part in ("dataset", "arch", "augment", "objective", "filter", "hardware", "probe", "seed", "test_every"):
            assert getattr(left, part) == getattr(right, part), f"{dll}: {part}"
        rates = {"lr": left.optimizer.lr, "weight_decay": left.optimizer.weight_decay}
        assert left.optimizer == replace(right.optimizer, **rates)
        assert (left.optimizer.schedule.milestones, left.method.choose) == ((0.5, 0.75), "validation")


def test_paper_scale_searches_rate_and_decay_of_each_baseline_and_of_nothing_else() -> None:
    searched = {name: cell.search for name, cell in cells("paper").items() if cell.search is not None}
    assert set(searched) == {base for _, base in pairs("paper")} and len({one.name for one in searched.values()}) == 44
    for one in searched.values():
        assert set(one.declared.params) == {"optimizer.lr", "optimizer.weight_decay"}
        assert not [text for text in one.fixed if text.startswith(("optimizer.lr", "optimizer.weight_decay"))]
        assert "method.epochs=60" in one.fixed and one.declared.metric is None
    assert not any(cell.search for scale in ("small", "smoke") for cell in cells(scale).values())


def test_paper_scale_has_300_epochs_of_backprop_and_augments_by_the_policy_of_the_set() -> None:
    for name, cell in cells("paper").items():
        assert cell.set["method.epochs"] == 300 or name.endswith("dll")
        assert cell.set["augment"] == f"auto_augment_{'svhn' if 'dataset=svhn' in name else 'cifar10'}"


def test_small_scale_lets_the_forward_dropout_fall_as_far_as_300_epochs_do() -> None:
    method = spec("small", "network=shufflenet_v2_x0_5,dataset=cifar10,method=dll").method
    assert method.input_dropout_decay**method.epochs == pytest.approx(0.95**300, rel=2e-3)


@pytest.mark.parametrize("scale", ["small", "smoke"])
def test_runs_of_small_scales_are_on_one_thread_of_the_cpu_whatever_hardware_is_the_default(scale: str) -> None:
    for cell in TABLE.cells(scale):
        assert (cell.set["hardware"], cell.set["hardware.threads"], cell.set["augment"]) == ("cpu", 1, "none")


def test_margin_is_the_one_that_the_thesis_claims_and_41_of_its_44_pairs_keep() -> None:
    claim = TABLE.artefact.claims["within_0p3_of_backprop"]
    assert claim.value == -float(published.claim("ch6.dll_margin")["value"]) and claim.tolerance == 0
    accuracy = {name: cell.published or 0.0 for name, cell in cells("paper").items()}
    margins = [round(accuracy[dll] - accuracy[base], 2) for dll, base in pairs("paper")]
    assert sum(margin >= claim.value for margin in margins) == 41 and min(margins) == -3.53


def test_memory_is_asked_within_the_printed_half_percent_of_30() -> None:
    claim = TABLE.artefact.claims["memory_30_percent"]
    assert "+-0.5" in published.claim("ch6.dll_memory_target")["note"] + published.claim("ch6.dll_memory_target")["conditions"]
    assert (claim.value, claim.tolerance, claim.compare, claim.unit) == (None, 0.5, "ratio", "percent")


def test_peak_is_the_first_best_layer_by_test_and_its_depth_a_share_of_all() -> None:
    module: Any = beside(TABLE)
    series = {"test/acc": [[0, 0, 0.1], [0, 1, 0.5], [1, 0, 0.7], [1, 1, 0.6], [2, 0, 0.6], [3, 1, 0.2]]}
    plain = {"test/acc": [[0, 0, 0.4], [0, 1, 0.9]]}
    runs = module.measures(pd.DataFrame({"series": [series, plain, None], "segment/chosen": [2.0, 0.0, None]}))
    found = runs[["peak_layer", "peak_depth", "best_test_acc", "last_test_acc", "chosen_layer"]]
    assert found.loc[0].tolist() == [2, 0.5, 0.6, 0.2, 3] and found.loc[1:].isna().all(axis=None)


@pytest.mark.parametrize("network", ["shufflenet_v2_x0_5", pytest.param("shufflenet_v2_x2_0", marks=pytest.mark.slow)])
def test_smoke_scale_of_table_6_2_takes_every_path_from_plan_to_report(network: str, tmp_path: Path) -> None:
    only = ("--cell", f"network={network}")
    done = command.run("run", "table-6.2", "--scale", "smoke", *only, cwd=tmp_path, script="effdl", timeout=600)
    assert done.returncode == 0, done.stderr
    label, base, dll = {"shufflenet_v2_x0_5": ("×0.5", 91.7, 91.71), "shufflenet_v2_x2_0": ("×2.0", 95.49, 95.46)}[network]
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| ShuffleNetV2{label} | CIFAR-10"))
    assert f"| {base} |" in row and f"| {dll} |" in row and row.count("(n 2)") == 2 and "exploratory" in row
    picture = tmp_path / done.stdout.splitlines()[-1].removeprefix("Figure: ")
    assert matplotlib.image.imread(picture).shape[0] > 500
