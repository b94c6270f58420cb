"""What chapter 4's table and figures measure, against answers known by hand."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from effdl.config import build, compose
from effdl.errors import DataError
from effdl.objectives.amplification import ExpGa, Pow3Ga
from effdl.objectives.losses import SoftmaxCe
from effdl.reproduce import artefact, published
from effdl.reproduce.frame import beside


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def measured(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    runs = pd.DataFrame(rows)
    runs.attrs |= {"artefact": name, "scale": "paper"}
    found: pd.DataFrame = module(name).measures(runs)
    return found


def looks(*values: float | list[float] | None, first: int = 0) -> list[list[Any]]:
    """What is recorded after ``first`` epochs, after one more, and so on; several values of a look are a list."""
    rows = [value if isinstance(value, list) else [value] for value in values]
    return [[0, first + i - 1, value] for i, row in enumerate(rows) for value in row]


def test_convergence_is_the_first_epoch_of_the_highest_accuracy() -> None:
    series = {"val/acc": looks(0.9, 0.97, 0.95, 0.97, first=1), "test/acc": looks(0.9, 0.95, 0.98, 0.97, first=1)}
    rows = [{"cell": "output=linear", "seed": i, "series": one, "test/acc": 0.97} for i, one in enumerate((series, None))]
    runs = measured("table-4.1", rows)
    assert runs["converged"].iloc[0] == 2 and runs["converged_by_test"].iloc[0] == 3
    assert runs["error"].iloc[0] == pytest.approx(0.03) and runs["lowest_error"].iloc[0] == pytest.approx(0.02)
    assert math.isnan(runs["converged"].iloc[1])


def test_table_4_1_has_the_printed_errors_and_searches_each_rate() -> None:
    declaration = artefact.load("table-4.1")
    cells = {cell.name: cell for cell in declaration.cells("paper")}
    with (published.PUBLISHED / "table_4_1.csv").open(newline="") as file:
        printed = {row["output_activation"]: float(row["value"]) for row in csv.DictReader(file) if "error" in row["metric"]}
    assert {name: cells[f"output={name}"].published for name in printed} == printed
    assert cells["output=softmax"].published is None and cells["output=softmax"].seeds == 20
    assert all(cell.search is not None for cell in cells.values())


def test_runs_of_table_4_1_are_trained_in_stacks() -> None:
    from effdl.records.stacking import key

    for cell in artefact.load("table-4.1").cells("paper"):
        try:
            specs = artefact.specs(cell, ["optimizer.lr=0.1"])
        except DataError:
            pytest.skip("needs MNIST under EFFDL_DATA; dataset.download=true fetches it")
        assert len({key(spec) for spec in specs[:2]}) == 1 and key(specs[0]) is not None, cell.name


def test_errors_after_so_many_epochs() -> None:
    series = {"val/acc": looks(0.3, 0.4, 0.45, 0.5, 0.55, 0.53, first=1)}
    rows = [
        {"cell": "network=cnn5,output=exp", "seed": i, "series": one, "test/acc": 0.5} for i, one in enumerate((series, None))
    ]
    runs = measured("fig-4.1", rows)
    found = [runs[f"val_error{name}"].iloc[0] for name in ("_at_1", "_at_2", "_at_5", "")]
    assert found == pytest.approx([0.7, 0.6, 0.45, 0.47]) and math.isnan(runs["val_error_at_5"].iloc[1])


def test_settings_of_the_figures_are_the_printed_ones() -> None:
    """§4.5 and §4.7: α = 0.1, {0, 16}; α = 0.001, β = 0.4, {0, 10}. §4.10: {0, 6}, {−2, 10}, softmax with rate 1."""
    expected = {
        ("cnn5", "softmax"): SoftmaxCe(),
        ("cnn5", "exp"): ExpGa(alpha=0.1, targets=(0, 16)),
        ("cnn5", "pow3"): Pow3Ga(alpha=0.001, beta=0.4, targets=(0, 10)),
        ("cnn10", "softmax"): SoftmaxCe(),
        ("cnn10", "exp"): ExpGa(alpha=0.1, targets=(0, 6)),
        ("cnn10", "pow3"): Pow3Ga(alpha=0.001, beta=0.4, targets=(-2, 10)),
    }
    cells = {tuple(cell.at.values()): cell for cell in artefact.load("fig-4.1").cells("small")}
    for place, objective in expected.items():
        spec = build(compose(artefact.on_the_cpu(cells[place].overrides)), checked=False)
        assert spec.objective == objective and spec.method.epochs == 10 and spec.optimizer.momentum == 0
        assert (cells[place].search is None) == (place == ("cnn10", "softmax"))
        if cells[place].search is None:
            assert spec.optimizer.lr == 1
    for name in ("fig-4.2", "fig-4.3"):
        for cell in artefact.load(name).cells("paper"):
            spec = build(compose(artefact.on_the_cpu(cell.overrides)), checked=False)
            assert spec.objective == expected["cnn10", cell.at["output"]] and spec.arch.widths == (96, 192)


def test_deltas_near_the_negated_target_are_counted() -> None:
    def series(*rows: tuple[float, float, list[float]]) -> dict[str, Any]:
        edges = [np.linspace(low, high, len(count) + 1) for low, high, count in rows]
        return {
            "output_deltas/low": looks(*(list(e[:-1]) for e in edges)),
            "output_deltas/high": looks(*(list(e[1:]) for e in edges)),
            "output_deltas/count": looks(*(count for *_, count in rows)),
            "output_deltas/min": looks(*(low for low, *_ in rows)),
            "output_deltas/max": looks(*(high for _, high, _ in rows)),
            "output_deltas/rms": looks(2.0, 3.0),
        }

    # 8 of 100 deltas, ten classes: bins of one from −6 to 4, those around −5.5 and −4.5 hold 5 and 3; the second is too far
    first = (-6.0, 4.0, [5.0, 3.0, 0.0, 0.0, 2.0, 90.0, 0.0, 0.0, 0.0, 0.0])
    second = (-4.0, 8.0, [1.0, 2.0, 97.0])
    rows = [
        {"cell": "output=exp", "output": "exp", "seed": i, "series": s} for i, s in enumerate((series(first, second), None))
    ]
    runs = measured("fig-4.2", rows)
    assert runs["clustered_before"].iloc[0] == pytest.approx(0.5) and runs["clustered_after"].iloc[0] == 0
    assert runs["delta_min"].iloc[0] == -6 and runs["delta_max"].iloc[0] == 8
    assert (runs["delta_rms_before"].iloc[0], runs["delta_rms"].iloc[0]) == (2, 3) and math.isnan(runs["delta_min"].iloc[1])


def test_gradients_by_layer_are_compared_by_their_logarithms() -> None:
    series = {
        f"gradient_rms/deltas/conv{i}": looks(1.0, 10.0 ** (i - 5), 10.0 ** (i - 4), 10.0 ** (i - 2)) for i in range(1, 10)
    }
    series["gradient_rms/deltas/output"] = looks(1e3, 1e1, 1e2, 1e3)
    rows = [{"cell": "output=exp", "seed": i, "series": one} for i, one in enumerate((series, None))]
    runs = measured("fig-4.3", rows)
    assert runs["hidden_log10"].iloc[0] == pytest.approx((0 + 1 + 3) / 3)  # the mean of i − 5 is 0
    assert runs["growth_log10"].iloc[0] == pytest.approx(3) and runs["output_log10"].iloc[0] == pytest.approx(2)
    assert math.isnan(runs["hidden_log10"].iloc[1]) and math.isnan(runs["growth_log10"].iloc[1])


def test_the_normalisers_least_step_is_of_its_logarithm() -> None:
    series = {"softmax_normaliser/mean": looks(10.5, 80.0, None), "softmax_normaliser/log": looks(2.3, 4.0, 3.5)}
    runs = measured("fig-4.5", [{"cell": "output=softmax", "seed": i, "series": one} for i, one in enumerate((series, None))])
    assert runs["start"].iloc[0] == 10.5 and runs["start_of_batch"].iloc[0] == 1344 and runs["after_one"].iloc[0] == 80
    assert runs["least_step"].iloc[0] == -0.5 and runs["last_log"].iloc[0] == 3.5 and math.isnan(runs["start"].iloc[1])


def test_curvatures_by_hand() -> None:
    """Second derivatives against central differences in plain Python, and where first terms are larger by plain arithmetic."""
    curvature = module("curvature")
    units = {
        "linear": lambda x: x,
        "softmax": lambda x: math.exp(x) / (math.exp(x) + 1),
        "exp": math.exp,
        "pow3": lambda x: x**3,
    }
    for name, unit in units.items():
        true = curvature.derivative(
            lambda x, name=name: curvature.derivative(lambda z: (curvature.UNITS[name](z, z.exp() + 1) - 1) ** 2 / 2, x),
            torch.tensor([-1.5, 0.25, 2.0], dtype=torch.float64),
        )
        for x, found in zip((-1.5, 0.25, 2.0), true.tolist(), strict=True):
            error = [(unit(x + step) - 1) ** 2 / 2 for step in (-1e-4, 0, 1e-4)]
            assert found == pytest.approx((error[0] - 2 * error[1] + error[2]) / 1e-8, rel=1e-4, abs=1e-5), (name, x)
    for name, right in {"linear": True, "softmax_fixed": True, "exp": True, "pow3": True, "softmax": False}.items():
        assert (curvature.numbers(name)["formula_error"] < 1e-12) == right
    grid = [x / 100 for x in range(-1000, 1001) if abs(x) >= 100]
    above = sum(9 * x**4 > math.exp(2 * x) for x in grid) / len(grid)
    assert curvature.numbers("pow3")["above_next"] == pytest.approx(above, abs=1e-3)
    assert curvature.numbers("exp")["above_next"] == 1 and curvature.numbers("softmax_fixed")["above_next"] == 0
    assert curvature.numbers("softmax")["delta_slope_most"] == pytest.approx(0.25)


def test_settings_of_tables_4_2_to_4_4_are_the_printed_ones() -> None:
    """Rates, decays, targets, α and β of each cell against the tables, of figure 4.4 against table 4.2."""
    networks = {"vgg_13": "vgg13", "vgg_19": "vgg19", "pyramidnet_55": "p56", "pyramidnet_110": "p110"}
    outputs = {"Softmax+CE": "softmax", "exp-GA": "exp", "pow3-GA": "pow3", "Linear+MSE": "linear"}
    for table, names in {"4_2": ("table-4.2", "fig-4.4"), "4_3": ("table-4.3",), "4_4": ("table-4.4",)}.items():
        with (published.PUBLISHED / f"table_{table}.csv").open(newline="") as file:
            rows = {(networks[row["architecture_key"]], outputs[row["method"]]): row for row in csv.DictReader(file)}
        for name in names:
            cells = artefact.load(name).cells("paper")
            assert len(cells) == len(rows)
            for cell in cells:
                row = rows[cell.at["network"], cell.at["output"]]
                spec = build(compose(artefact.on_the_cpu(cell.overrides)), checked=False)
                assert (spec.optimizer.lr, spec.optimizer.weight_decay) == (float(row["lr"]), float(row["wd"])), cell.name
                for setting in ("alpha", "beta"):
                    if row[setting]:
                        assert getattr(spec.objective, setting) == float(row[setting]), cell.name
                if (targets := getattr(spec.objective, "targets", None)) is not None:
                    assert targets == (float(row["tval_negative"]), float(row["tval_positive"])), cell.name
                assert spec.optimizer.schedule is not None
                factors = [spec.optimizer.schedule.factor(epoch, 300) for epoch in range(300)]
                falls = [epoch for epoch in range(1, 300) if factors[epoch] != factors[epoch - 1]]
                assert falls == [150, 225] and spec.method.epochs == 300 and spec.optimizer.momentum == 0.9
                assert name == "fig-4.4" or cell.published == float(row["value"])


def test_errors_by_quarters_of_the_training() -> None:
    accuracies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    series = {"val/acc": looks(*accuracies, first=1), "train/loss": looks(*range(8, 0, -1), first=1)}
    rows = [
        {"cell": "network=vgg13,output=exp", "seed": i, "series": one, "test/acc": 0.8} for i, one in enumerate((series, None))
    ]
    runs = measured("fig-4.4", rows)
    assert [runs[f"error_in_quarter_{i}"].iloc[0] for i in (1, 2, 3, 4)] == pytest.approx([0.85, 0.65, 0.45, 0.25])
    assert runs["val_error"].iloc[0] == pytest.approx(0.2) and runs["train_loss"].iloc[0] == 1
    assert math.isnan(runs["error_in_quarter_2"].iloc[1])


def test_convergence_of_pyramidnets_is_scaled_to_300_epochs() -> None:
    series = {"val/acc": looks(0.2, 0.5, 0.4, 0.5, first=1)}
    rows = [
        {"cell": f"network=p56,output={output}", "network": "p56", "output": output, "seed": 0, "series": one}
        for output, one in (("pow3", series), ("softmax", None))
    ]
    runs = measured("table-4.4", rows)
    assert runs["converged_of_300"].iloc[0] == 150 and math.isnan(runs["converged_of_300"].iloc[1])
    assert list(runs["printed_rate"]) == [20, 0.5]


def test_cells_of_table_4_5_take_a_step_each_at_their_printed_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a set of VOC's form and a narrow PixelNet; rates and epochs against the footnote, the weights asked for by digest."""
    from command import run_here
    from scenes import voc

    with (published.PUBLISHED / "table_4_5.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file) if row["metric"] == "mIoU"}
    root = voc(tmp_path / "data", train=8, val=2, sbd=4)
    monkeypatch.chdir(tmp_path)
    cells = artefact.load("table-4.5").cells("paper")
    assert {cell.at["run"] for cell in cells} == {*rows, "E-60"}
    for cell in cells:
        spec = build(compose(artefact.on_the_cpu(cell.overrides)), checked=False)
        row = rows.get(cell.at["run"], {"lr_initial": "1e-4", "epochs": "60", "value": ""})
        assert spec.optimizer.lr == float(row["lr_initial"]) and spec.method.epochs == int(row["epochs"])
        assert spec.arch.weights == "pretrained" and spec.arch.weights_sha256.startswith("397923af")
        assert (spec.dataset.val_size, spec.dataset.size, spec.dataset.sbd) == (100, 224, "train")
        assert cell.published == (float(row["value"]) if row["value"] else None)
        narrow = ["arch.widths=[2,2,2,2,2]", "arch.wide=0", "arch.hidden=[4]", "arch.pixels=50"]
        few = ["dataset.val_size=2", "dataset.batch_size=10", "method.epochs=1", "dataset.size=32", f"dataset.root={root}"]
        given = [override for override in artefact.on_the_cpu(cell.overrides) if not override.startswith("arch.weights")]
        assert run_here(*given, *narrow, *few) == 0


def test_chance_of_the_scenes_is_what_background_throughout_has() -> None:
    """Counted on labels of the training scenes: right pixels over all that have a label, of one class in eleven."""
    declaration = artefact.load("table-4.5")
    for scale in ("small", "medium"):
        overrides = artefact.on_the_cpu(declaration.cells(scale)[0].overrides)
        spec = build(compose([*overrides, "optimizer.lr=0.1"]), checked=False)
        try:
            y = spec.dataset.load()[0].y.numpy()
        except DataError:
            pytest.skip("needs FashionMNIST under EFFDL_DATA; dataset.download=true fetches it")
        expected = 100 * (y == 0).sum() / (y != 255).sum() / spec.dataset.facts().outputs
        floors = declaration.scale(scale).floors
        assert {floor.baseline["run"] for floor in floors} == {"S-40", "S-60"}
        assert [floor.chance for floor in floors] == pytest.approx([expected] * 2, abs=0.1)


MEDIUM = ("fig-4.4", "table-4.2", "table-4.3", "table-4.4", "table-4.5", "output-saturation")


@pytest.mark.parametrize("name", [*MEDIUM, "amplification-reasons", "effective-rates", "fair-rates"])
def test_medium_scales_compose_and_take_five_runs(name: str) -> None:
    cells = artefact.load(name).all_cells("medium")
    for cell in cells:
        given = [] if cell.search is None else ["optimizer.lr=0.1"]
        spec = build(compose([*artefact.on_the_cpu(cell.overrides), *given]), checked=False)
        assert spec.method.epochs >= 10 and (cell.seeds == 5 or cell.at.get("floor") == "longer"), cell.name
        if name in MEDIUM and name != "table-4.5":
            assert spec.dataset.train_limit is None and spec.method.epochs == (60 if "floor" in cell.at else 20)


def test_the_epoch_of_the_highest_miou_is_scaled_to_60() -> None:
    series = {"val/miou": looks(0.1, 0.4, 0.3, 0.4, first=1)}
    rows = [{"cell": f"run={run}", "run": run, "seed": 0, "series": one} for run, one in (("E-60", series), ("S-40", None))]
    runs = measured("table-4.5", rows)
    assert runs["converged_of_60"].iloc[0] == 30 and math.isnan(runs["converged_of_60"].iloc[1])


def test_right_answers_that_are_undone_are_counted_by_hand() -> None:
    """Of four images 3, 3 and 2 are right after epochs 1 to 3: one of three is undone, then two; one of one is mended."""
    series = {
        "right_answers/right": looks([0.0] * 4, [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]),
        "val/acc": looks(0.5, 0.6, 0.7, first=1),
    }
    rows = [{"cell": "output=exp", "output": "exp", "seed": i, "series": one} for i, one in enumerate((series, None))]
    runs = measured("amplification-reasons", rows)
    assert runs["undone"].iloc[0] == pytest.approx((1 / 3 + 2 / 3) / 2) and runs["mended"].iloc[0] == pytest.approx(1)
    assert runs["val_error"].iloc[0] == pytest.approx(0.3) and math.isnan(runs["undone"].iloc[1])


def test_rates_of_softmax_make_its_first_gradients_as_large_as_those_of_exp_ga() -> None:
    """By automatic differentiation, where all ten outputs are 0."""
    y, deltas = torch.zeros(1, dtype=torch.long), {}
    for name, objective in {"exp": ExpGa(alpha=0.1, targets=(0, 16)), "softmax": SoftmaxCe()}.items():
        a = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
        deltas[name] = torch.autograd.grad(objective.loss(a, y).sum(), a)[0].square().mean().sqrt().item()
    lr = {}
    for cell in artefact.load("effective-rates").cells("small"):
        lr[cell.at["rate"], cell.at["output"]] = build(compose(artefact.on_the_cpu(cell.overrides)), checked=False).optimizer.lr
    for rate in {rate for rate, _ in lr}:
        assert lr[rate, "exp"] == lr[rate, "softmax_same"] == float(rate)
        assert lr[rate, "softmax"] * deltas["softmax"] == pytest.approx(lr[rate, "exp"] * deltas["exp"], rel=5e-3)


def test_saturated_outputs_are_those_near_their_target() -> None:
    edges = [-1.0, -0.5, -0.005, 0.005, 1.0]
    series = {
        "output_deltas/low": looks(*[edges[:-1]] * 3),
        "output_deltas/high": looks(*[edges[1:]] * 3),
        "output_deltas/count": looks([4.0, 4, 0, 2], [4.0, 3, 1, 2], [2.0, 1, 6, 1]),
        "output_deltas/rms": looks(0.5, 0.4, 0.1),
    }
    rows = [{"cell": "network=vgg13", "seed": i, "series": one} for i, one in enumerate((series, None))]
    runs = measured("output-saturation", rows)
    assert runs["saturated"].iloc[0] == pytest.approx(0.6) and runs["saturated_at_half"].iloc[0] == pytest.approx(0.1)
    assert runs["growth"].iloc[0] == pytest.approx(0.5) and runs["delta_rms"].iloc[0] == 0.1
    assert math.isnan(runs["saturated"].iloc[1])
