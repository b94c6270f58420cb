"""The drawn figures of chapter 5 and figure 2.1: what they measure, against answers known by hand, and that they draw."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from looks import look, of_points
from torch import nn

from effdl import SigmoidBce
from effdl.archs.chain import BlockChain
from effdl.config import build, compose
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.datasets.toy import Sinusoidal
from effdl.errors import ConfigError
from effdl.probes.input_gradients import InputGradients
from effdl.probes.probe import measured as probed
from effdl.reproduce import artefact
from effdl.reproduce.frame import beside

DRAWN = ("fig-2.1", "fig-5.4", "fig-5.5", "fig-5.7", "fig-5.8", "fig-5.10", "fig-5.16", "fig-5.17", "fig-5.22", "fig-5.23")


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def recorded(values: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """Lists and numbers as a probe's one look after the first epoch."""
    return {key: [[0, 0, float(value)] for value in np.atleast_1d(one)] for key, one in values.items()}


def of_layers(prefix: str, layers: Mapping[str, tuple[Any, Any]]) -> dict[str, list[list[float]]]:
    """Weights and biases as `probe=weights` records them."""
    rows = {f"{prefix}/{name}/{i}": row for name, (weights, _) in layers.items() for i, row in enumerate(weights)}
    return recorded(rows | {f"{prefix}/{name}/bias": bias for name, (_, bias) in layers.items()})


def plane(seed: int = 0) -> dict[str, tuple[Any, Any]]:
    """Random weights of the network of figures 5.7, 5.8 and 5.10."""
    draw, widths = np.random.default_rng(seed), (2, *module("fig-5.7").WIDTHS)
    names = [*(f"linear{i + 1}" for i in range(len(widths) - 2)), "head"]
    return {
        name: (draw.normal(size=(b, a)), draw.normal(size=b)) for name, a, b in zip(names, widths[:-1], widths[1:], strict=True)
    }


# --- figures 5.4 and 5.5


def test_a_gabor_kernel_is_the_formula_and_turns_as_an_image_does() -> None:
    kernels = module("fig-5.4")
    form = {"size": 9, "wavelength": 5.0, "sigma": 2.0, "aspect": 0.5}
    angle = np.radians(30)
    u, v = 3 * np.cos(angle) - 1 * np.sin(angle), -1 * np.cos(angle) - 3 * np.sin(angle)  # of the pixel 3 right, 1 up
    by_hand = np.exp(-(u**2 + 0.25 * v**2) / 8) * np.sin(2 * np.pi * u / 5)
    assert kernels.gabor(angle, **form)[4 - 1, 4 + 3] == pytest.approx(by_hand)
    still = kernels.gabor(0, **form)
    np.testing.assert_allclose(kernels.gabor(np.pi / 2, **form), np.rot90(still, -1), atol=1e-12)
    np.testing.assert_allclose(kernels.gabor(np.pi, **form), -still, atol=1e-12)  # a sine, turned round
    assert abs(still.sum()) < 1e-12 and len(kernels.angles()) == 64


def test_a_kernel_answers_to_an_edge_and_to_nothing_even(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = module("fig-5.5")
    step = np.zeros((60, 80))
    step[:, 40:] = 1.0
    answer = kernels.convolved(step, 0)
    half = kernels.EDGES["size"] // 2
    assert answer.shape == (60 - 2 * half, 80 - 2 * half)
    assert np.abs(answer).argmax(1) + half == pytest.approx(39.5, abs=1) and np.abs(answer[:, :5]).max() < 1e-9
    assert np.abs(kernels.convolved(step, np.pi / 2)).max() < 1e-6 < np.abs(answer).max()
    image = step + np.random.default_rng(0).normal(scale=1e-3, size=step.shape)
    monkeypatch.setattr(kernels, "photograph", lambda _: image)
    found = kernels.edges("temple")
    assert set(found) == {"on_edges", "on_edges_all", "brightness_there"} and found["on_edges"] > found["brightness_there"]


# --- figures 5.7, 5.8 and 5.10


def test_a_network_of_recorded_weights_is_the_network() -> None:
    planes, given = module("fig-5.7"), plane()
    layers = planes.layers(of_layers("weights", given))
    x = np.random.default_rng(1).uniform(-1, 1, (20, 2))
    modules: list[nn.Module] = []
    for weights, bias in given.values():
        linear = nn.Linear(weights.shape[1], len(weights)).double()
        linear.weight.data, linear.bias.data = torch.tensor(weights), torch.tensor(bias)
        modules += [linear, nn.Tanh()]
    network = nn.Sequential(*modules[:-1])
    with torch.no_grad():
        np.testing.assert_allclose(planes.forward(layers, x), network(torch.tensor(x)).numpy(), atol=1e-12)
        np.testing.assert_allclose(planes.forward(layers[:2], x), network[:4](torch.tensor(x)).numpy(), atol=1e-12)
    assert planes.layers({}) == [] and planes.layers(None) == []


def test_lines_ellipses_and_cells_of_points_that_are_easy() -> None:
    planes = module("fig-5.7")
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    cloud = np.concatenate([corners, corners + np.array([9.0, 0.0])])
    y = np.repeat([0, 1], 4)
    assert (planes.linear(cloud, y), planes.shared(cloud, y), planes.cells(cloud, y)) == (1.0, 0.0, 2.0)
    mixed = np.concatenate([corners, corners])
    assert (planes.linear(mixed, y), planes.shared(mixed, y)) == (0.5, 1.0)  # corners lie at the squared distance 1.5
    away = planes.within(np.array([[0.5, 0.5], [0.5 + 1.23, 0.5], [0.5 + 1.25, 0.5]]), corners)
    assert away.tolist() == [True, True, False]  # the variance is 1/3: √(4.605/3) = 1.239


# --- figure 5.16


def test_dominance_and_opposition_by_hand() -> None:
    fields = module("fig-5.16")
    on, off = np.array([[0.2, 0.19], [-0.3, -0.31], [0.2, -0.21]]), np.array([[0.4, 0.1], [-0.1, 0.3]])
    x, slopes = np.concatenate([on, off]), np.array([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert fields.dominance(x, slopes) == pytest.approx(5.0)
    sides = np.array([[0.21, 0.2], [0.1, 0.11], [-0.3, -0.29]])  # below the diagonal, above it, and above it
    outwards, normal = np.array([[1.0, -1.0], [-2.0, 2.0], [-3.0, 3.0]]), fields.DIAGONALS[:1]
    assert fields.opposing(sides, outwards, normal) == pytest.approx(1.0)  # all away from it
    assert fields.opposing(sides, outwards * [[1], [1], [-1]], normal) == pytest.approx(0.0)  # 1 + 2 − 3


def test_only_what_the_filter_keeps_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = module("fig-5.16")
    points = {"input/0": [0.25, -0.123456, 0.1], "input/1": [0.0, 0.3, 0.4], "gradient/0": [1.0, 2.0, 3.0]}
    series = recorded(
        {f"input_gradients/{key}": one for key, one in {**points, "gradient/1": [0] * 3, "class": [0, 1, 0]}.items()}
    )
    monkeypatch.setattr(fields, "kept_by", lambda *_: frozenset({(0.25, 0.0), (-0.12346, 0.3)}))
    x, slopes, y = fields.trained_on("smoke", "a cell", series)
    assert slopes.tolist() == [[1, 0], [2, 0]] and y.tolist() == [0, 1] and len(x) == 2
    assert fields.trained_on("smoke", "a cell", {}) is None
    assert np.isnan(fields.numbers("smoke", "a cell", None)["dominance"])


def test_gradients_of_inputs_are_those_worked_out_by_hand() -> None:
    x, y = torch.tensor([[0.5, 1.0], [-1.0, 0.25], [0.0, 2.0]]), torch.tensor([1, 0, 1])
    problem = Problem(Samples(x, y), Samples(x[:0], y[:0]), SigmoidBce(), outputs=1, batch_size=2)
    block, head = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    block.weight.data, head.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0, 0.5]])
    found = probed(InputGradients(), look(BlockChain([block], head, nn.Identity()), problem), 0)
    slope = torch.tensor([3.0, 5.5])  # of the logit: Wᵀ of the head's weights
    error = torch.sigmoid(x @ slope) - y
    for i in range(2):
        assert found[f"gradient/{i}"] == pytest.approx((error * slope[i]).tolist(), rel=1e-4, abs=1e-7)
        assert found[f"input/{i}"] == x[:, i].tolist()
    assert found["class"] == [1, 0, 1]
    assert found["rms"] == pytest.approx(float((error.square().mean() * slope.square().sum()).sqrt()), rel=1e-4)
    assert all(p.grad is None for p in (*block.parameters(), *head.parameters()))
    assert len(probed(InputGradients(samples=2), of_points(x, y, 1.0), 0)["class"]) == 2


def test_gradients_of_many_inputs_are_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"^probe=input_gradients: 64 inputs are more than can be drawn, 8; "):
        build(compose(["arch=mlp", "probe=input_gradients"]))


# --- figures 5.17, 5.22, 5.23 and 2.1


def test_half_spaces_and_the_intervals_of_the_best_line() -> None:
    units = module("fig-5.17")
    x = np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 5.0], [-3.0, 1.0]])
    found = units.half_spaces(x, np.array([0, 1, 0, 1]), np.array([[2.0, 0.0]]), np.array([-3.0]))
    assert found == pytest.approx({"positive": 0.5, "selected": 0.25, "shift": 1.5})
    line = np.arange(40.0)
    y = np.array([0] * 20 + [0, 1] * 10)
    other = np.concatenate([line[::2], line[1::2]])
    x = np.column_stack([other, line])
    weights, bias = np.eye(2), np.array([0.0, 7.0])
    assert units.best(x, y, weights, bias) == 1
    assert units.of_line(x, y, weights, bias) == pytest.approx({"intervals": 2, "discriminative": 1, "within": 21 / 40})
    first, last = units.intervals(line + 7, y)
    assert units.ends(first, line + 7) == (7.0, 27.5) and units.ends(last, line + 7) == (27.5, 46.0)
    assert units.layer({})[0].shape == (0, 2)


def test_a_labelling_function_has_the_sign_of_the_labels_and_its_problems_frequency() -> None:
    functions, dataset = module("fig-5.23"), Sinusoidal(samples=4000, amplitude=0.5, periods=3)
    t, y = functions.beside_line(dataset, 5)
    assert (np.diff(t) >= 0).all() and 0.9 < ((functions.labelling(dataset, t) > 0) == y).mean() < 1  # samples are near it
    values = functions.labelling(dataset, (np.arange(2048) + 0.5) / 2048)
    assert functions.spectrum(values)[1:].argmax() + 1 == 3  # periods over (−1, 1)
    assert functions.changes(values > 0) == 7  # in each half three, where the line meets two crests, and one in the middle
    assert functions.changes(np.array([0, 0, 1, 0])) == 2


def test_figure_2_1_is_of_twenty_weights_and_six_biases() -> None:
    nets = module("fig-2.1")
    given = {"linear1": (np.ones((4, 3)), np.ones(4)), "head": (np.ones((2, 4)), np.ones(2))}
    runs = nets.measures(pd.DataFrame([{"series": of_layers("weights", given)}, {"series": None}]))
    assert runs["parameters"].iloc[0] == 26 and np.isnan(runs["parameters"].iloc[1])


# --- all of them


def made_up(name: str) -> dict[str, list[list[float]]]:
    """Series of a run that nobody made, of the figures that draw some."""
    draw = np.random.default_rng(0)
    if name == "fig-5.16":
        columns = {key: draw.uniform(-0.5, 0.5, 60) for key in ("input/0", "input/1", "gradient/0", "gradient/1")}
        return recorded({f"input_gradients/{key}": one for key, one in {**columns, "class": draw.integers(0, 2, 60)}.items()})
    if name == "fig-2.1":
        return of_layers(
            "weights", {"linear1": (draw.normal(size=(4, 3)), np.ones(4)), "head": (draw.normal(size=(2, 4)), np.ones(2))}
        )
    return of_layers("weights", plane())


@pytest.mark.parametrize("name", DRAWN)
def test_it_composes_and_draws_at_smoke_with_runs_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declaration, own = artefact.load(name), module(name)
    cells = declaration.cells("smoke")
    assert all(artefact.specs(cell) for cell in cells)
    if name == "fig-5.16":
        monkeypatch.setattr(own, "kept_by", lambda *_: None)
    rows = [{"cell": cell.name, **cell.at, "seed": 0, "status": "finished", "train/acc": 0.9} for cell in cells]
    for series in (made_up(name), None):
        runs = pd.DataFrame([{**row, "series": series} for row in rows])
        runs.attrs |= {"artefact": name, "scale": "smoke"}
        runs = own.measures(runs)
        assert declaration.artefact.metric in runs and (series is None or runs[declaration.artefact.metric].notna().all())
        assert {column.metric for column in declaration.artefact.details} - {*runs} <= {"test/acc", "test/mse", "train/acc"}
        figure = own.draw(declaration, "smoke", runs)
        figure.draw_without_rendering()
        assert figure.axes or series is None
