"""What chapter 5's figures measure, against answers known by hand."""

import csv
from typing import Any

import numpy as np
import pandas as pd
import pytest

from effdl import config
from effdl.datasets.idx import Idx
from effdl.datasets.toy import Checkerboard, Separable, Sinusoidal
from effdl.errors import DataError
from effdl.filters.k_filter import KFilter
from effdl.reproduce import artefact, published
from effdl.reproduce.frame import beside


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def measured(name: str, scale: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    runs = pd.DataFrame(rows)
    runs.attrs |= {"artefact": name, "scale": scale}
    found: pd.DataFrame = module(name).measures(runs)
    return found


def test_distances_to_boundaries() -> None:
    bands = module("fig-5.13")
    board = bands.to_boundary(Checkerboard(squares=4), np.array([[0.0, 0.1], [-0.5, 0.5], [0.125, -0.125], [0.24, -0.36]]))
    assert board == pytest.approx([0, 0.25, 0.125, 0.01])  # the outer edge is no boundary
    line = bands.to_boundary(Separable(angle=90.0), np.array([[0.3, 0.2], [-0.9, -0.5]]))
    assert line == pytest.approx([0.2, 0.5])
    flat = Sinusoidal(amplitude=1e-9, periods=1)
    for found in (bands.to_boundary, module("fig-5.11").to_boundary):
        assert found(flat, np.array([[0.3, 0.2], [-0.9, -0.5]])) == pytest.approx([0.2, 0.5], abs=1e-4)
        steep = Sinusoidal(amplitude=0.5, periods=2)  # its crest is at x = 1/4: nothing is nearer to what lies straight above
        assert found(steep, np.array([[0.25, 0.9]])) == pytest.approx([0.4], abs=1e-4)
        assert found(steep, np.array([[0.0, 0.3]])) < 0.3 * 0.4  # beside a slope the vertical distance says too much


def test_a_filter_that_keeps_a_band_is_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bands = module("fig-5.13")
    x = np.array([[0.0, 0.1], [0.0, -0.2], [0.0, 0.5], [0.0, -0.7]])
    monkeypatch.setattr(bands, "drawn", lambda *_: (Separable(angle=90.0), 1, x, np.array([1, 0, 1, 0])))
    for kept, alike, width in (([0, 1], 1.0, 0.2), ([0, 2], 0.5, 0.2), ([0, 1, 2], 1.0, 0.5)):
        monkeypatch.setattr(bands, "k_filter", lambda *_, kept=kept: np.array(kept))
        bands.filtered.cache_clear()
        found = bands.filtered(("fig-5.13", "paper"), "data=line,k=5", 0)
        assert found == pytest.approx({"kept": len(kept) / 4, "as_a_band": alike, "width": width})


@pytest.mark.parametrize(("name", "cell"), [("fig-5.13", "data=line,k=5"), ("fig-5.15", "k=5")])
def test_cells_of_the_same_name_are_those_of_their_artefact_and_scale(name: str, cell: str) -> None:
    sizes = {scale: len(module(name).drawn((name, scale), cell, 0)[2]) for scale in ("smoke", "paper")}
    assert sizes == {"fig-5.13": {"smoke": 200, "paper": 2000}, "fig-5.15": {"smoke": 500, "paper": 5000}}[name]
    runs = measured(name, "smoke", [{"cell": cell, "seed": 0}, {"cell": cell, "seed": 1}])
    assert (runs["kept"] > 0).all() and runs["width"].nunique() == 2


def test_maps_are_of_the_points_that_the_seed_draws() -> None:
    maps = module("fig-5.11")
    dataset, x, y = maps.drawn(("fig-5.12", "smoke"), "samples=125", 3)
    assert x.shape == (125, 2) and dataset.periods == 1
    assert np.array_equal(y, x[:, 1] > 0.4 * np.sin(np.pi * x[:, 0]))
    runs = measured("fig-5.12", "smoke", [{"cell": "samples=125", "seed": 3}, {"cell": "samples=125", "seed": 4}])
    first, second = (maps.drawn(("fig-5.12", "smoke"), "samples=125", seed)[1:] for seed in (3, 4))
    assert not np.array_equal(first[0], second[0])
    assert (runs["pure_entropy"] <= np.log2(runs["centroids"]) + 1e-9).all() and (runs["centroids"] >= 2).all()


def looks(*values: list[float | None]) -> list[list[float | None]]:
    """What a probe recorded before the first epoch, after it, and so on; several values of a look are a list."""
    return [[0, epoch - 1, value] for epoch, row in enumerate(values) for value in row]


def test_distances_by_layer_and_their_largest_step() -> None:
    falls = {f"lsd/y/linear{i + 1}": looks([0.5 + 0.1 * i], [0.3], [0.3 - 0.1 * i]) for i in range(3)}
    rises = {**falls, "lsd/y/linear3": looks([0.1], [0.2], [0.25]), "lsd/y/input": looks([0.4])}
    runs = measured(
        "fig-5.6", "paper", [{"cell": "rate=0.1", "seed": i, "series": one} for i, one in enumerate((falls, rises, None))]
    )
    assert runs["worst_step"].tolist()[:2] == pytest.approx([-0.1, 0.05]) and np.isnan(runs["worst_step"].iloc[2])
    assert runs["least_approach"].tolist()[:2] == pytest.approx([-0.2, 0.15])
    assert runs["lsd_third_before"].tolist()[:2] == pytest.approx([0.7, 0.1]) and runs["lsd_input"].iloc[1] == 0.4


def test_the_entropy_of_all_samples_is_that_of_the_real_digits() -> None:
    try:
        train, _ = Idx(variant="MNIST").load()
    except DataError:
        pytest.skip("needs MNIST under EFFDL_DATA; dataset.download=true fetches it")
    assert np.array_equal(np.bincount(train.y), module("fig-5.21").DIGITS)


def test_entropies_by_layer_beside_those_of_all_samples() -> None:
    series = {f"selection_entropy/entropy/linear{i + 1}": looks([3.0 + 0.1 * i], [3.0 - 0.1 * i]) for i in range(3)}
    runs = measured("fig-5.21", "paper", [{"cell": "optimizer=sgd", "seed": 0, "series": series}])
    assert runs["worst_step"].iloc[0] == pytest.approx(-0.1) and runs["least_fall"].iloc[0] == pytest.approx(0.0)
    assert runs["above_prior"].iloc[0] == pytest.approx(3.0 - np.log2(10), abs=0.01)  # digits are nearly as many of each


def test_a_printed_entropy_stands_among_those_of_all_features() -> None:
    features = looks([3.3, 3.2, 3.4, None], [3.0], [3.1, 3.2, 3.0, 3.3])
    runs = measured(
        "fig-5.18", "paper", [{"cell": "steps=fast", "seed": 0, "series": {"selection_entropy/feature/linear1": features}}]
    )
    assert runs["place_before"].iloc[0] == pytest.approx(1 / 3)  # of 3.3, 3.2 and 3.4 below 3.26
    assert runs["place_after"].iloc[0] == pytest.approx(2 / 4)  # of 3.1, 3.2, 3.0 and 3.3 below 3.12
    assert (runs["lowest_before"].iloc[0], runs["highest_after"].iloc[0]) == (3.2, 3.3)
    assert runs["change"].iloc[0] == pytest.approx(3.15 - 3.3)
    assert np.isnan(measured("fig-5.20", "paper", [{"cell": "steps=fast", "seed": 0, "series": None}])["after"].iloc[0])


def test_the_lowest_step_is_sought_over_all_layers_and_k_at_the_end() -> None:
    series = {
        f"k_redundancy/{k}/conv{i}": looks(
            [0.3], [0.01 * i + 0.5 - 0.02 * (k == 20 and i == 8)], [0.02 * i + 0.7 - 0.05 * (k == 5 and i == 4)]
        )
        for k in (5, 10, 20)
        for i in range(1, 11)
    }
    runs = measured(
        "fig-5.14", "paper", [{"cell": "network=vgg13_bn", "seed": i, "series": one} for i, one in enumerate((series, None))]
    )
    assert runs["lowest_step"].iloc[0] == pytest.approx(-0.03) and np.isnan(runs["lowest_step"].iloc[1])
    assert runs["top_five"].iloc[0] == pytest.approx(0.82)
    assert runs["last_before"].iloc[0] == 0.3 and runs["last_after"].iloc[0] == pytest.approx(0.9)


def test_table_5_1_filters_by_the_printed_k_and_has_the_printed_shares_beside() -> None:
    declaration = artefact.load("table-5.1")
    cells = {cell.name: cell for cell in declaration.cells("paper") if set(cell.at) == set(declaration.artefact.axes)}
    networks = {"vanilla_cnn_4": "cnn4", "vgg_13": "vgg13"}
    datasets = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "KMNIST": "kmnist"}
    filters = {"baseline": "none", "k_star": "best", "k=5": "k5", "k=10": "k10", "k=20": "k20"}
    share = module("table-5.1").printed_share
    with (published.PUBLISHED / "table_5_1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(cells) == 60
    for row in rows:
        network, dataset, of = networks[row["architecture_key"]], datasets[row["dataset"]], filters[row["setting"]]
        if row["metric"] == "data_fraction_used":
            assert 100 * share(network, dataset, of) == pytest.approx(float(row["value"]))
            continue
        cell = cells[f"network={network},dataset={dataset},filter={of}"]
        spec = config.build(config.compose(["hardware=cpu", *cell.overrides]), checked=False)
        assert cell.published == float(row["value"]) and (spec.method.epochs, spec.dataset.batch_size) == (100, 128)
        assert (spec.filter.k if isinstance(spec.filter, KFilter) else "") == (int(row["k"]) if row["k"] else "")


def test_runs_without_a_filter_keep_all_and_the_rest_is_removed() -> None:
    rows = [{"network": "cnn4", "dataset": "mnist", "filter": one, "status": "finished"} for one in ("none", "k20")]
    runs = measured("table-5.1", "paper", [rows[0], {**rows[1], "filter/kept_share": 0.4}])
    assert runs["filter/kept_share"].tolist() == [1.0, 0.4] and runs["removed"].tolist() == pytest.approx([0.0, 0.6])
    assert runs["kept_printed"].tolist() == [1.0, 0.53]


def test_classes_have_parted_where_samples_are_nearest_to_their_own_mean() -> None:
    labels = [0.0, 0.0, 1.0, 1.0, 7.0]
    mixed, apart = [0.0, 4.0, 1.0, 3.1, 9.0], [0.0, 1.0, 5.0, 6.0, 0.0]
    key = "principal_components"
    series = {f"{key}/class": looks(labels, labels)}
    for layer in ("conv2", "conv4", "conv6", "conv8", "output"):
        series |= {f"{key}/x/{layer}": looks(mixed, apart), f"{key}/y/{layer}": looks([0.0] * 5, [0.0] * 5)}
    series |= {f"{key}/x/input": looks(mixed), f"{key}/y/input": looks([0.0] * 5)}
    runs = measured(
        "fig-5.9", "paper", [{"cell": "network=vgg13_bn", "seed": i, "series": one} for i, one in enumerate((series, None))]
    )
    # Means of the mixed ones are at 2 and 2.05: 4 and 3.1 are nearer to the second, 0 and 1 to the first
    assert runs["input"].iloc[0] == 0.5 and runs["output"].iloc[0] == 1.0 and np.isnan(runs["output"].iloc[1])
    assert runs["lowest_step"].iloc[0] == pytest.approx(0) and runs["gain"].iloc[0] == pytest.approx(0.5)
