"""What a first layer makes of single images, against products worked out apart and scikit-learn's neighbours."""

import math
from typing import Any

import pytest
import tiny
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from effdl import Batch, Run, Sgd
from effdl.archs.chain import BlockChain
from effdl.config import Spec, build, compose
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.segmentwise import Segmentwise
from effdl.probes.nearest import Nearest, accuracy, chance
from effdl.probes.probe import Probe, in_lines, measured
from effdl.probes.single_images import alone, drawn, features
from effdl.probes.tsne import Tsne
from effdl.records.carry import build_network, open_problem
from effdl.training.decision_rule import DecisionRule
from effdl.training.look import Learning, Look

CPU = torch.device("cpu")
QUICK = ("arch=mlp", "arch.hidden=[16]", "method=backprop", "method.epochs=2")
PARITY = ("dataset=parity", "dataset.digits=digits")


def spec(*overrides: str) -> Spec:
    """Of three digits side by side, unless another data set is named."""
    elsewhere = any(one.startswith("dataset=") for one in overrides)
    return build(compose([*(() if elsewhere else PARITY), *QUICK, *overrides]))


def opened(*overrides: str) -> tuple[Spec, Problem, BlockChain]:
    made = spec(*overrides)
    problem = open_problem(made, *made.dataset.load())
    return made, problem, build_network(made, problem, CPU)


def look(problem: Problem, model: BlockChain, epoch: int = 0) -> Look:
    rule = DecisionRule(model.blocks, model.head, problem.objective)
    learning = Learning(rule, problem.objective, epoch, lambda: next(problem.train(0)), problem, (model.input,), model)
    return Look(model.blocks, learning)


def run_with(probe: Probe, *overrides: str) -> list[dict[str, Any]]:
    """Lines of the probe's own numbers, without their prefix, with their epoch."""
    made, problem, model = opened(*overrides)
    run = Run(0, Sgd(lr=0.05), probes=(probe,))
    made.method.fit(problem, model, run)
    prefix = f"{probe.snake_name()}/"
    own = ({k.removeprefix(prefix): v for k, v in line.items()} for line in run.lines if any(prefix in key for key in line))
    return list(own)


# --- representations


@pytest.mark.parametrize("k", [1, 3])
def test_the_product_is_that_of_the_images_own_part_of_the_weights(k: int) -> None:
    """W = [W₁ W₂ W₃] side by side: a standardised image at place j comes out as W_j x."""
    _, problem, model = opened(f"dataset.k={k}", "dataset.scaling=channel")
    images = drawn(problem.train_split, 20, 0).x
    weight = next(p for p in model.blocks.parameters() if p.dim() == 2).detach()
    parts = weight.view(16, 8, k, 8)  # rows of 8 pixels run through all places
    z = (images.double() - model.input.mean.double()) / model.input.std.double()
    for place in range(k):
        found = features(look(problem, model), images, torch.full((20,), place), "product")
        expected = torch.einsum("nhw,uhw->nu", z[:, 0], parts[:, :, place].double())
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_products_at_all_places_add_up_to_what_the_layer_makes_of_the_whole_sample() -> None:
    _, problem, model = opened("arch.activation=identity", "arch.bias=false", "dataset.scaling=pixel")
    (batch,) = problem.train_split.gather([torch.arange(9)])
    places = list(batch.x.split(8, dim=-1))
    shown = look(problem, model)
    parts = [features(shown, x, torch.full((9,), i), "product") for i, x in enumerate(places)]
    torch.testing.assert_close(sum(parts), model.blocks(model.input(batch.x)), rtol=1e-4, atol=1e-5)
    outputs = [features(shown, x, torch.full((9,), i), "output") for i, x in enumerate(places)]
    torch.testing.assert_close(sum(outputs), sum(parts))  # of the identity
    assert torch.equal(alone(shown, places[1], torch.ones(9).long())[..., :8], torch.zeros(9, 1, 8, 8))


def test_outputs_have_the_bias_and_the_activation() -> None:
    _, problem, model = opened("dataset=digits")
    images = drawn(problem.train_split, 20, 0).x
    found = features(look(problem, model), images, torch.zeros(20).long(), "output")
    torch.testing.assert_close(found, model.blocks(model.input(images)))
    assert (found >= 0).all() and (found == 0).any()


# --- neighbours


@pytest.mark.parametrize("of", [torch.float32, torch.float64])
def test_accuracy_is_that_of_scikit_learns_neighbours(of: torch.dtype) -> None:
    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    known, asked = x[:1200].to(of) + 1000, x[1200:].to(of) + 1000  # far from the origin
    expected = KNeighborsClassifier(1, algorithm="brute").fit(known.numpy(), y[:1200].numpy()).score(asked.numpy(), y[1200:])
    assert accuracy(known, y[:1200], asked, y[1200:]) == pytest.approx(expected, abs=1e-12)


def test_by_the_others_nobody_is_its_own_neighbour_and_without_a_number_there_is_none() -> None:
    rows, labels = torch.tensor([[0.0], [1.0], [1.5], [9.0], [9.0]]), torch.tensor([0, 1, 0, 2, 2])
    assert accuracy(rows, labels, rows, labels) == 1.0
    assert accuracy(rows, labels) == pytest.approx(2 / 5)
    assert math.isnan(accuracy(rows / 0, labels)) and math.isnan(accuracy(rows, labels, rows / 0, labels))


def test_chance_is_how_often_labels_drawn_at_random_agree() -> None:
    known, asked = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    expected = sum(float(a == b) for a in known.tolist() for b in asked.tolist()) / 16
    assert chance(known, asked) == pytest.approx(expected)


def test_nearest_is_scikit_learns_accuracy_on_validation_images_and_pixels_are_measured_once() -> None:
    _, problem, model = opened("dataset=digits")
    found = measured(Nearest(references=700, queries=150), look(problem, model), 0)
    known, asked = drawn(problem.train_split, 700, problem.seed), drawn(problem.val_split, 150, problem.seed)
    flat = [model.input(part.x).flatten(1).numpy() for part in (known, asked)]
    weight = next(p for p in model.blocks.parameters() if p.dim() == 2).detach().numpy()
    for name, (a, b) in {"pixels": flat, "acc": [part @ weight.T for part in flat]}.items():
        expected = KNeighborsClassifier(1).fit(a, known.y.numpy()).score(b, asked.y.numpy())
        assert found[name] == pytest.approx(expected, abs=0.5 / 150)
    assert found["queries"] == 150 and found["above"] == pytest.approx(found["acc"] - chance(known.y, asked.y))
    assert "pixels" not in measured(Nearest(), look(problem, model, epoch=3), 0)


def test_a_layer_that_makes_nothing_of_images_is_at_chance_and_pixels_are_not() -> None:
    """The control by which the measure could fail."""
    _, problem, model = opened()
    nn.init.zeros_(next(p for p in model.blocks.parameters() if p.dim() == 2))
    for places in ("same", "all"):
        found = measured(Nearest(places=places), look(problem, model), 0)
        assert abs(found["above"]) < 0.06 and found["pixels"] > 0.9


def test_at_all_places_each_image_stands_at_one_of_them() -> None:
    """Where only the first place reaches the layer, two thirds of the images are alike."""
    _, problem, model = opened()
    weight = next(p for p in model.blocks.parameters() if p.dim() == 2)
    with torch.no_grad():
        weight.view(16, 8, 3, 8)[:, :, 1:] = 0
    same, everywhere = (measured(Nearest(places=places), look(problem, model), 0)["acc"] for places in ("same", "all"))
    first = measured(Nearest(places="same"), look(problem, model), 0)["acc"]
    assert same == first and 0.3 < same < 0.5 and 0.3 < everywhere < 0.5


def test_images_are_the_same_at_each_look_and_the_untrained_layer_is_looked_at_first() -> None:
    found = run_with(Nearest())
    assert [line["epoch"] for line in found] == [-1, 0, 1]
    assert len({line["chance"] for line in found}) == 1 and ["pixels" in line for line in found] == [True, False, False]


def test_a_segment_above_others_has_no_single_images_before_it() -> None:
    run = Run(0, Sgd(lr=0.05), probes=(Nearest(of="output"),))
    Segmentwise(epochs=1).fit(tiny.problem(), tiny.chain(), run)
    assert {line["segment"] for line in run.lines if "nearest/acc" in line} == {0}


# --- pictures


def test_tsne_gives_points_of_three_kinds_and_how_often_neighbours_agree() -> None:
    found = run_with(Tsne(samples=200, perplexity=10, shown=5), "dataset=digits")
    before = [line for line in found if line["epoch"] == -1]
    after = [line for line in found if line["epoch"] == 1]
    assert len(found) == len(before) + len(after) == 12
    assert all(0.7 < before[0][name] <= 1 for name in ("untrained_acc", "pixels_acc")) and 0.7 < after[0]["acc"] <= 1
    assert all(line.keys() >= {"digit", "untrained_x", "untrained_y", "pixels_x", "pixels_y"} for line in before[1:])
    assert all(line.keys() == {"segment", "epoch", "x", "y"} for line in after[1:])


def test_tsne_is_scikit_learns_and_repeats() -> None:
    from sklearn.manifold import TSNE

    z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    probe = Tsne(samples=60, perplexity=5)
    assert torch.equal(probe.embedded(z), probe.embedded(z))
    expected = TSNE(perplexity=5, random_state=123).fit_transform(z.numpy())
    assert probe.embedded(z).float().tolist() == expected.tolist()


def test_lists_stand_point_by_point_behind_the_numbers() -> None:
    assert list(in_lines({"a": 1.0, "x": [1, 2], "y": [3]})) == [{"a": 1.0}, {"x": 1, "y": 3}, {"x": 2}]
    assert list(in_lines({})) == [{}] and list(in_lines({"x": [1]})) == [{"x": 1}] and list(in_lines({"a": 2})) == [{"a": 2}]


# --- what cannot be


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("probe=tsne", "probe.tsne.samples=30"), "probe.tsne: 30 samples are too few for a perplexity of 30"),
        (
            ("probe=tsne", "dataset.train_limit=25", "dataset.batch_size=5"),
            "probe.tsne: 25 samples are too few for a perplexity of 30",
        ),
        (("probe=nearest", "dataset.val_size=0"), "probe=nearest: there are no validation images"),
        (("probe=nearest", "dataset=clusters"), "probe=nearest: looks at images of classes, and these are vectors"),
        (("probe=tsne", "dataset=digits", "arch.batch_norm=true"), "probe=tsne: of=product is of a first layer that is linear"),
        (
            ("probe=weights", "arch=mlp", "arch.hidden=[40]"),
            "probe=weights: a layer of 7,680 weights is more than can be drawn",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_before_data_are_read(
    overrides: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effdl.datasets.digits.Digits.load", lambda self: pytest.fail("read"))
    with pytest.raises(ConfigError, match=said) as raised:
        spec(*overrides)
    assert "\n" not in str(raised.value)


def test_images_whose_places_a_network_changes_are_refused() -> None:
    _, problem, model = opened()
    changed = look(problem, model)
    assert changed.learning is not None

    class Larger(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pad(x, (4, 4)).float()

    other = Learning(changed.learning.rule, problem.objective, 0, lambda: Batch(*3 * [torch.ones(1)]), problem, (Larger(),))
    with pytest.raises(ConfigError, match=r"^probe: this network's input block makes images of 32 columns of 24"):
        Nearest(of="output").measure(Look(model.blocks, other))
