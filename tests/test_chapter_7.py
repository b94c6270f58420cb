"""The declarations of chapter 7 against the printed settings, and the chapter's arithmetic."""

import csv
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error

from effdl import config, load_network
from effdl.archs.mlp import Mlp
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.toy import TwoSpirals
from effdl.errors import ConfigError
from effdl.methods.elm import Elm
from effdl.methods.platonic import Platonic
from effdl.methods.pseudoinverse_learning import PseudoinverseLearning
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.reproduce import artefact, published
from effdl.reproduce.artefact import Cell
from effdl.reproduce.claims import statements
from effdl.reproduce.frame import beside
from effdl.training.hardware import Hardware

MNIST = Facts((1, 28, 28), "classes", 10, 60_000, 0, 10_000, 128)


def rows(table: str) -> list[dict[str, str]]:
    with (published.PUBLISHED / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def spec(cell: Cell) -> Any:
    return config.build(config.compose(["hardware=cpu", *cell.overrides]), checked=False)


def own(name: str, scale: str = "paper") -> list[Cell]:
    """The cells under our own choices."""
    declaration = artefact.load(name)
    return [cell for cell in declaration.cells(scale) if set(cell.at) == set(declaration.artefact.axes)]


def test_table_7_1_has_the_eighteen_cpu_cells_of_a_thousand_fits_with_the_printed_settings() -> None:
    cells = own("table-7.1")
    assert len(cells) == 18 and all(cell.seeds == 1000 for cell in cells)
    printed = [row for row in rows("table_7_1") if row["device"] == "CPU"]
    assert len(printed) == 18
    for cell in cells:
        built = spec(cell)
        precision = {"float32": "fp32", "float64": "fp64"}[built.method.precision]
        solver = type(built.method.solver).__name__.lower()
        tol = "1e-5" if cell.at["precision"] == "single_tol" else "default"
        assert getattr(built.method.solver, "tol", None) == (1e-5 if tol == "1e-5" and solver != "solve" else None)
        scales = (str(built.method.alpha), str(built.method.beta))
        (row,) = [
            row
            for row in printed
            if (row["solver"], row["precision"], row["tol"]) == (solver, precision, tol)
            and (row["alpha"], row["beta"]) == scales
        ]
        assert cell.published == (float(row["value"]) if row["value"] else None)
        assert (built.arch.hidden, built.arch.activation, built.method.tries) == ((32, 32, 32, 32), "tanh", 1)
        assert isinstance(built.dataset, TwoSpirals) and built.dataset.samples == 5000 and built.dataset.val_size == 0


def test_table_7_2_has_the_printed_cells_on_all_images() -> None:
    cells = own("table-7.2")
    printed = {(row["method"], row["width"]): row for row in rows("table_7_2") if row["split"] == "test" and row["value"]}
    assert len(cells) == len(printed) == 19
    for cell in cells:
        built = spec(cell)
        label = {"elm": "Random. W", "random": "Random. P", "platonic_pca": "Platonic PCA", "sorted_pca": "Sorted PCA"}
        kind = "elm" if isinstance(built.method, Elm) else built.method.projection
        row = printed[label[kind], cell.at["width"]]
        assert cell.published == float(row["value"])
        assert built.arch.hidden == (int(row["width"]),) and built.arch.activation == "relu"
        assert built.method.solver.l2 == float(row["l2"]) == 50_000
        assert built.dataset.variant == "MNIST" and built.dataset.val_size == 0 and built.dataset.train_limit is None
        assert cell.seeds == (100 if kind in ("elm", "random") else 3)


def test_table_7_3_has_the_nine_networks_with_the_printed_penalties() -> None:
    cells = own("table-7.3")
    printed = {row["hidden_widths"]: row for row in rows("table_7_3") if row["metric"] == "test_accuracy"}
    assert len(cells) == len(printed) == 9
    for cell in cells:
        built, row = spec(cell), printed[cell.at["network"]]
        assert cell.published == float(row["value"]) and built.method.solver.l2 == float(row["l2"])
        assert "-".join(map(str, built.arch.hidden)) == row["hidden_widths"] and built.arch.activation == "relu"
        assert (built.method.projection, built.method.alpha) == ("deterministic", 1)
        assert 1e6 <= built.method.beta <= 8e7 and built.method.precision == "float32"
        widths = [784, *built.arch.hidden, 10]
        counted = sum((a + 1) * b for a, b in pairwise(widths))
        (count,) = [r for r in rows("table_7_3") if (r["hidden_widths"], r["metric"]) == (row["hidden_widths"], "n_parameters")]
        assert counted / 1e6 == pytest.approx(float(count["value"]), abs=0.006)


def conditions(claim: str) -> str:
    return published.claim(claim)["conditions"]


PRINTED_7_3 = """
 1 import torch
 2
 3 # CONFIG:
 4 nhid = 16
 5 afun = torch.nn.CELU()
 6 x, y = get_dataset("sine")
 7
 8 # FIT LAYER 1:
 9 b = torch.ones((x.shape[0], 1))
10 Z_0 = torch.cat([b, Z_0], dim=1)
11 P_1 = torch.randn(1 + Z_0.shape[1], nhid)
12 T_1 = torch.cat([Z_0, y], dim=1) @ P_1
13 W_1 = torch.linalg.pinv(Z_0) @ T_1
14
15 # FIT LAYER 2:
16 Z_1 = afun(Z_0 @ W_1)
17 Z_1 = torch.cat([b, Z_1], dim=1)
18 P_2 = torch.randn(1 + Z_1.shape[1], nhid)
19 T_2 = torch.cat([Z_1, y], dim=1) @ P_2
20 W_2 = torch.linalg.pinv(Z_1) @ T_2
21
22 # FIT OUTPUT LAYER:
23 Z_2 = afun(Z_1 @ W_2)
24 Z_2 = torch.cat([b, Z_2], dim=1)
25 W_3 = torch.linalg.pinv(Z_2) @ y
26 yhat = Z_2 @ W_3
"""


def program_of_figure_7_3() -> Any:
    module = beside(artefact.load("fig-7.3"))
    assert module is not None
    return module


def test_figure_7_3s_program_is_the_printed_one_but_for_the_lines_that_say_so() -> None:
    ours = program_of_figure_7_3().PROGRAM.read_text().splitlines()
    printed = [line[3:] for line in PRINTED_7_3.strip("\n").splitlines()]
    assert len(ours) == len(printed) == 26
    corrected = {i + 1 for i, (mine, theirs) in enumerate(zip(ours, printed, strict=True)) if mine != theirs}
    assert corrected == {10, 11, 18}
    for i in corrected:
        name = printed[i - 1].partition(" = ")[0]
        assert ours[i - 1].startswith(f"{name} = ") and ours[i - 1].endswith(f"# printed: {printed[i - 1].partition(' = ')[2]}")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_figure_7_3s_program_and_ours_are_one_function_of_the_sine_in_double_precision(seed: int) -> None:
    (cell,) = own("fig-7.3")
    built = spec(cell)
    train, _ = built.dataset.load()
    run = Run.in_memory(seed=seed)
    facts = built.dataset.facts()
    problem = Problem(train, train, built.objective, outputs=1, batch_size=128)
    network = built.method.fit(problem, built.arch.build(facts), run)
    with torch.no_grad():
        found = network(train.x)
    theirs = program_of_figure_7_3().carried_out(train.x.double(), train.y.double(), seed)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-6)
    assert (theirs - train.y).square().mean().item() < 1e-2  # of a sine, 0.5 is that of a constant


def test_figure_7_9_trains_as_printed() -> None:
    (cell,) = own("fig-7.9")
    built, printed = spec(cell), conditions("ch7.spirals_bp_ce")
    assert "lr 0.01, divided by 10 after epoch 56, momentum 0.9, wd 0, batch 32, 75 epochs" in printed
    rates = [built.optimizer.lr * built.optimizer.schedule.factor(epoch, 75) for epoch in range(75)]
    assert rates == pytest.approx([0.01] * 56 + [0.001] * 19)
    assert (built.method.epochs, built.dataset.batch_size, built.dataset.samples) == (75, 32, 5000)
    assert (built.optimizer.momentum, built.optimizer.weight_decay, built.optimizer.nesterov) == (0.9, 0, False)
    assert (built.arch.hidden, built.arch.activation, built.dataset.facts().outputs) == ((32, 32, 32, 32), "tanh", 1)
    assert built.objective.bounded and built.method.measure_train


def test_figure_7_10_has_four_panels_of_two_pairs_of_factors_with_both_solvers() -> None:
    cells = own("fig-7.10")
    assert len(cells) == 2 * 2 * 2 * 2
    printed = conditions("ch7.checker_deep_acc")
    assert "500 hidden layers of 300" in printed and "(alpha,beta) = (0.06,25) and (0.08,200)" in printed
    assert "4 hidden layers of 2500" in conditions("ch7.checker_shallow_acc_min")
    for cell in cells:
        built = spec(cell)
        depth, width = {"shallow": (4, 2500), "deep": (500, 300)}[cell.at["network"]]
        assert built.arch.facts(Facts((2,), "classes", 1, 5000, 0, 5000, 128)).linear == (width,) * depth
        assert (built.method.alpha, built.method.beta) in ((0.06, 25), (0.08, 200)) and built.method.tries == 1
        assert (built.arch.activation, built.dataset.samples, built.dataset.squares) == ("relu", 5000, 8)
        assert built.method.precision == {"single": "float32", "double": "float64"}[cell.at["precision"]]


def test_spirals_tries_are_those_of_the_text_on_the_spirals_of_table_7_1() -> None:
    of_table = {spec(cell).dataset for cell in own("table-7.1")}
    for cell in own("spirals-tries"):
        built, name = spec(cell), cell.at["fit"]
        printed = conditions(f"ch7.spirals_pp_{name}_acc")
        assert f"N_tries={built.method.tries}" in printed and built.method.precision.replace("float", "fp") in printed
        assert ("pinv atol=1e-5" in printed) == (built.method.solver.tol == 1e-5)
        assert "alpha=0.1, beta=10, pinv" in printed and (built.method.alpha, built.method.beta) == (0.1, 10)
        assert {built.dataset} == of_table and cell.seeds >= 20


def test_ratios_of_printed_times_are_what_the_claims_print() -> None:
    """Of the spirals' tries each claim answers its numerator, over one try; elsewhere both are named and looked up."""
    compared = [one for one in artefact.load("spirals-tries").artefact.claims.values() if one.compare == "ratio"]
    assert len(compared) == 4
    one_try = float(published.claim("ch7.spirals_pp_n1_time")["value"])
    for one in compared:
        assert one.value == pytest.approx(float(published.claim(str(one.answers))["value"]) / one_try, rel=0.005)
    for name, claim, ratio in (
        ("lstsq-timing", "lstsq_takes_half", 3.4 / 6.3),
        ("spirals-timing", "backprop_over_one_try", 52 / 0.018),
    ):
        found = artefact.load(name).artefact.claims[claim]
        assert statements(found) == [("~", pytest.approx(ratio))]
    ends = found.model_copy(update={"answers": ("ch7.checker_shallow_acc_min", "ch7.checker_shallow_acc_max")})
    assert statements(ends) == [(">=", 99.88), ("<=", 100)]  # a range, of a ratio too


def test_the_mnist_baseline_trains_as_printed() -> None:
    (cell,) = own("mnist-backprop")
    built, printed = spec(cell), conditions("ch7.mnist_bp_test_acc")
    assert "784-392-50-10, ReLU" in printed
    assert "lr 0.02 divided by 10 after epoch 8, wd 0.003, momentum 0.9, 10 epochs" in printed
    rates = [built.optimizer.lr * built.optimizer.schedule.factor(epoch, 10) for epoch in range(10)]
    assert rates == pytest.approx([0.02] * 8 + [0.002] * 2)
    assert (built.method.epochs, built.dataset.batch_size, built.dataset.val_size) == (10, 128, 0)
    assert (built.optimizer.momentum, built.optimizer.weight_decay, built.arch.hidden) == (0.9, 0.003, (392, 50))


def test_the_pair_of_large_and_small_beta_is_the_printed_one() -> None:
    printed = conditions("ch7.mnist_beta1e7_train_acc")
    assert "784-2500-1500-500-10, ReLU" in printed and "alpha=1" in printed
    cells = own("large-beta")
    assert [cell.at["precision"] for cell in cells] == ["single", "single", "double", "double"]
    for cell in cells:
        built = spec(cell)
        assert built.arch.hidden == (2500, 1500, 500) and built.method.beta == float(cell.at["beta"])
        assert (built.method.projection, built.method.alpha, built.dataset.val_size) == ("deterministic", 1, 0)


def test_claim_pseudoinverse_learning_on_mnist_would_have_60_000_units_and_3_6_billion_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ch7.pil_units, ch7.pil_params."""
    units, weights = (float(published.claim(f"ch7.pil_{name}")["value"]) for name in ("units", "params"))
    arch = Mlp(hidden=(int(units), int(units)))
    for gib, says in (
        (24, r"^dataset\.train_limit: .* take 67\.1 GiB"),
        (1000, r"^method\.keep_features_mib: two layers of 60,000"),
    ):
        monkeypatch.setattr(Hardware, "memory", lambda self, gib=gib: gib * 2**30)
        with pytest.raises(ConfigError, match=says):
            PseudoinverseLearning().check(MNIST, arch.facts(MNIST), Hardware())
    between = f"as training samples, {units:,.0f}, with {4 * weights / 2**30:.1f} GiB of weights between two of them"
    with pytest.raises(ConfigError, match=between):
        PseudoinverseLearning(keep_features_mib=1e6).check(MNIST, Mlp(hidden=(784,)).facts(MNIST), Hardware())


def test_claim_platonic_pca_gives_at_most_794_units_on_mnist() -> None:
    """ch7.platonic_pca_max_width."""
    method = Platonic(projection="platonic_pca")
    method.check(MNIST, Mlp(hidden=(794,)).facts(MNIST), Hardware())
    with pytest.raises(ConfigError, match=r"gives at most 794$"):
        method.check(MNIST, Mlp(hidden=(795,)).facts(MNIST), Hardware())


def test_claim_the_widest_checkerboard_network_has_6_145_nodes_and_over_8_4_million_parameters() -> None:
    """ch7.checker_w2048_nodes, ch7.checker_w2048_params: only true with biases."""
    facts = Facts((2,), "classes", 1, 5000, 0, 5000, 128)
    network = Mlp(hidden=(2048, 2048, 2048)).build(facts)
    assert sum(layer.out_features for layer in network.modules() if isinstance(layer, torch.nn.Linear)) == 6145
    assert sum(p.numel() for p in network.parameters()) == 8_400_897 >= 8.4e6


@pytest.mark.parametrize("problem", artefact.load("fig-7.2").artefact.axes["problem"])
def test_claim_targets_come_back_exactly_from_the_augmented_matrix_as_figure_7_2_measures_it(problem: str) -> None:
    """ch7.platonic_target_recovery: y = A[0 0 1]ᵀ. From the inputs alone they come back as far as a plane tells the classes."""
    (cell,) = [cell for cell in artefact.load("fig-7.2").cells("paper") if cell.at["problem"] == problem]
    train, _ = spec(cell).dataset.load()
    ours = LinearRegression().fit(train.x.double().numpy(), 2.0 * train.y.numpy() - 1)
    apart = mean_squared_error(2.0 * train.y.numpy() - 1, ours.predict(train.x.double().numpy()))
    module = beside(artefact.load("fig-7.2"))
    assert module is not None
    found = module.recovered(problem, seed=0)
    assert found["recovered"] == 0 and found["recovered_from_t"] < 1e-20
    assert found["recovered_from_x"] == pytest.approx(apart, rel=1e-6) and apart > 0.01


def test_every_override_that_the_future_work_names_can_be_given() -> None:
    text = (Path(published.EXPERIMENTS) / "chapter_7" / "README.md").read_text()
    (table,) = re.findall(r"^## Future work.*?\n\n(\|.*?)\n\n", text, flags=re.DOTALL | re.MULTILINE)
    named = [code.split() for code in re.findall(r"`([^`]*=[^`]*)`|`method/", table) if code]
    assert len(named) >= 8
    for words in named:
        given = [word.replace("...", "1e-5").replace("<run>", "run") for word in words]
        method = [] if words[0].startswith("method=") else ["method=platonic"]
        composed = config.compose(["arch=mlp", "dataset=mnist", *method, *given])
        assert {word.split("=")[0].split(".")[0].split("/")[0] for word in given} <= set(composed)


@pytest.mark.parametrize(("noisy", "onset"), [(2000, 2000), (6000, 6000), (20000, 10000)])
def test_where_figure_7_5s_curve_turns_noisy_is_found(noisy: int, onset: int) -> None:
    """Drawn with ten times the noise beyond a layer; the last layer stands for none. Small networks have none."""
    steps, layers = np.random.default_rng(0).normal(size=500), np.arange(0, 10000, 20)
    errors = 10 ** (-3 + np.where(layers > noisy, 0.1, 0.01) * steps)
    curve = [[int(layer), 0, float(error)] for layer, error in zip([*layers[:-1], 9999], errors, strict=True)]
    runs = pd.DataFrame({"series": [{"train/lsd": curve}, {"train/lsd": curve[:15]}]})
    module = beside(artefact.load("fig-7.5"))
    assert module is not None
    deep, shallow = module.measures(runs).to_dict("records")
    assert abs(deep["noise_onset"] - onset) <= 260  # half of a window of 25 points that are 20 layers apart, and one point
    assert (deep["noise_rise"] > 3) == (noisy < 10000)
    assert np.isnan(shallow["noise_onset"])
    assert np.isnan(shallow["noise_rise"])
    constant = pd.DataFrame({"series": [{"train/lsd": [[int(layer), 0, 0.5] for layer in layers]}]})
    assert np.isnan(module.measures(constant)["noise_rise"]).all(), "a curve without any noise has none that could rise"


def test_thousands_of_layers_are_fitted_saved_and_loaded(tmp_path: Path) -> None:
    overrides = ("method=platonic", "dataset=sine", "dataset.samples=300", "arch=mlp", "arch.hidden=[4]", "arch.repeat=2000")
    made = config.build(config.compose([*overrides, "method.alpha=0.25", "method.precision=float64", "hardware=cpu"]))
    done = carry_out(made, tmp_path)
    assert done["status"] == "finished", done
    network, (_, test) = load_network(done["path"]), made.dataset.load()
    assert sum(isinstance(module, torch.nn.Linear) for module in network.modules()) == 2001
    with torch.no_grad():
        error = (network(test.x) - test.y).square().mean().item()
    assert done["summary"]["test/mse"] == pytest.approx(error, rel=1e-9) and error < 0.45  # 0.5 is that of a constant
