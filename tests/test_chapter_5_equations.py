"""What is measured of chapter 5's equations and of its probe vectors, against answers known by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from effdl.datasets.toy import Sinusoidal
from effdl.reproduce import artefact
from effdl.reproduce.frame import beside


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def looks(*values: float) -> list[list[float | None]]:
    return [[0, epoch - 1, value] for epoch, value in enumerate(values)]


LAYERS = ["linear1", "linear2", "linear3", "linear4"]


def series(lost: float) -> dict[str, list[list[float | None]]]:
    """Before and after an epoch; the input is looked at once."""
    told = {"layer_information/classes": looks(1.0, 1.0)}
    for kind, ends in (("information", [1.0, 0.9, 0.9, 0.8, 0.7]), ("entropy", [8.0, 7.0, 6.5, 6.5, 2.0 + lost])):
        told[f"layer_information/{kind}/input"] = looks(ends[0] + 0.5 * (kind == "entropy"))
        for layer, end in zip([*LAYERS, "output"], ends, strict=True):
            told[f"layer_information/{kind}/{layer}"] = looks(9.0, end)
    told["pure_voronoi/entropy/input"] = looks(5.0)
    for i, layer in enumerate(LAYERS):
        told[f"pure_voronoi/entropy/{layer}"] = looks(6.0, 4.5 - i if i != 2 else 3.6)
        told[f"lsd/y/{layer}"], told[f"lsd/x/{layer}"] = looks(0.9, 0.4 - 0.1 * i), looks(1.0, 2.0 + i)
    return told


def test_ends_and_worst_steps_by_layer_are_those_worked_out_by_hand() -> None:
    found = module("layer-information").of_run(series(0.0))
    assert (found["lsd_y_step"], found["lsd_x_step"]) == pytest.approx((-0.1, 1.0))
    assert (found["pure_step"], found["pure_change"]) == pytest.approx((3.6 - 3.5, 1.5 - 5.0))
    assert (found["information_step"], found["entropy_step"]) == pytest.approx((0.0, 0.0))
    assert (found["entropy_excess"], found["entropy_lost"], found["entropy_input"]) == pytest.approx((1.0, 6.5, 8.5))
    assert all(math.isnan(value) for value in module("autoencoder-entropy").of_run(None).values())


@pytest.mark.parametrize("name", ["layer-information", "autoencoder-entropy"])
def test_layers_are_drawn_before_and_after(name: str) -> None:
    declaration = artefact.load(name)
    names = [cell.name for cell in declaration.cells("paper")]
    runs = pd.DataFrame([{"cell": one, "seed": 0, "status": "finished", "series": series(0.0)} for one in names])
    figure = module(name).draw(declaration, "paper", runs)
    assert len(figure.axes) == 6 and all(len(axes.lines) == 2 for axes in figure.axes)


def test_flipped_labels_have_the_entropy_that_is_claimed_of_them() -> None:
    assert [module("pure-entropy-proxy").of_flips(p) for p in (0, 0.5)] == [0, 1]
    clean, flipped = (Sinusoidal(samples=20_000, flipped=p).draw(torch.Generator().manual_seed(0)) for p in (0.0, 0.15))
    assert torch.equal(clean.x, flipped.x)
    share = float((clean.y != flipped.y).double().mean())
    assert share == pytest.approx(0.15, abs=0.01)
    bits = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert module("pure-entropy-proxy").of_flips(0.15) == pytest.approx(bits, abs=0.03)


def test_the_spectrogram_finds_the_frequency_that_the_function_has_there() -> None:
    lines = module("labelling-spectrogram")
    for level, last in lines.LAST.items():
        t = np.linspace(0.15, 0.85, 8)
        assert lines.dominant(t, last) == pytest.approx(6 + (last - 6) * t, abs=0.1 * last)
        places, labels = lines.drawn(level, 1)
        turns = 6 * places + (last - 6) * places**2 / 2
        assert (labels == (turns % 1 < 0.5)).all()


def test_redundancy_and_large_intervals_are_where_the_function_is_slow() -> None:
    found = module("labelling-spectrogram").of_draw("24", 3)
    assert found["redundancy_with_frequency"] < 0
    # A half-period is a twentieth of the line up to 10 periods per length: 4 of 18 on the way, at 8 on average; all are at 15
    assert found["interval_share"] == pytest.approx(4 / 18, abs=0.06)
    assert found["interval_frequency"] == pytest.approx(8 / 15, abs=0.1)


def test_pins_are_worth_what_their_selections_share_and_tell() -> None:
    pins = module("probe-vectors")
    x, y = np.array([[1.0, 1.0], [2.0, -1.0], [-1.0, 1.0], [-3.0, -1.0]]), np.array([0, 0, 1, 1])
    two = np.array([[1.0, 0.0], [0.0, 1.0]])
    entropies, shares = pins.selected(x, y, two)
    assert (entropies.tolist(), shares.tolist()) == ([0, 1], [0.5, 0.5])
    assert pins.worth(x, y, two).tolist() == [0.5, 0]
    end = pins.dragged(x, y, two, np.random.default_rng(0))
    assert (pins.worth(x, y, end) == 0.5).all() and np.linalg.norm(end, axis=0) == pytest.approx(1)


def test_what_no_pin_selects_has_one_stuck_in() -> None:
    pins = module("probe-vectors")
    x, y = np.array([[1.0, 0.2], [2.0, 0.1], [-1.0, 0.3], [-3.0, 0.1]]), np.array([0, 0, 1, 1])
    both = np.array([[1.0, 0.9], [0.0, -0.1]])
    covered = pins.covering(x, y, both)
    assert (x @ covered > 0).any(1).all() and (covered == both).all(0).sum() == 1
