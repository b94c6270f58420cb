"""The declarations of chapter 7 against the printed settings, and the chapter's arithmetic."""

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from effdl import config
from effdl.archs.mlp import Mlp
from effdl.datasets.problem import Facts
from effdl.datasets.toy import Separable, Sinusoidal, TwoSpirals
from effdl.errors import ConfigError
from effdl.methods.elm import Elm
from effdl.methods.platonic import Platonic
from effdl.methods.pseudoinverse_learning import PseudoinverseLearning
from effdl.reproduce import artefact, published
from effdl.reproduce.artefact import Cell
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


def test_claim_pseudoinverse_learning_on_mnist_would_have_60_000_units_and_3_6_billion_weights() -> None:
    """ch7.pil_units, ch7.pil_params."""
    arch = Mlp(hidden=(60_000, 60_000))
    assert pytest.approx(3.6e9) == 60_000**2
    with pytest.raises(ConfigError, match=r"^method\.keep_features_mib: two layers of 60,000 samples of 60,000 features"):
        PseudoinverseLearning().check(MNIST, arch.facts(MNIST), Hardware())
    with pytest.raises(ConfigError, match=r"as training samples, 60,000, with 13.4 GiB of weights between two of them"):
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


@pytest.mark.parametrize("toy", [TwoSpirals(), Separable(), Sinusoidal()], ids=lambda toy: toy.snake_name())
def test_claim_targets_come_back_exactly_from_the_augmented_matrix(toy: Any) -> None:
    """ch7.platonic_target_recovery: y = A[0 0 1]ᵀ."""
    train, _ = toy.load()
    y = 2.0 * train.y - 1
    augmented = torch.cat([train.x, y[:, None]], 1)
    assert torch.equal(augmented @ torch.tensor([0.0, 0.0, 1.0]), y)


def test_the_folder_names_every_point_of_the_future_work() -> None:
    text = (Path(published.EXPERIMENTS) / "chapter_7" / "README.md").read_text()
    for words in (
        "found solution",
        "mini-batches",
        "pseudoinverses",
        "augmentation",
        "low rank",
        "noise",
        "ICA",
        "convolutions",
    ):
        assert words in text
    for words in ("initialisation", "pruning", "quantum"):
        assert words in text
