"""Probes of layers: answers known by hand and by NumPy, one pass for all that ask, bounded memory, and no trace in training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from looks import look, of_points
from sklearn.decomposition import PCA
from torch import nn

import effdl
from effdl.archs.chain import BlockChain
from effdl.config import build, build_choice, choices, compose, run_id
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.probes.discriminative_intervals import DiscriminativeIntervals
from effdl.probes.gradient_rms import GradientRms
from effdl.probes.k_redundancy import KRedundancy
from effdl.probes.lsd import Lsd
from effdl.probes.of_layers import OfLayers, OfSample
from effdl.probes.principal_components import PrincipalComponents
from effdl.probes.probe import measured
from effdl.probes.pure_voronoi import PureVoronoi
from effdl.probes.sample import Features, Sample, seen, share
from effdl.probes.selection_entropy import SelectionEntropy
from effdl.probes.softmax_normaliser import SoftmaxNormaliser
from effdl.probes.stable_rank import StableRank
from effdl.probes.weight_entropy import WeightEntropy
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.representations.principal_components import principal_components
from effdl.training.decision_rule import DecisionRule
from effdl.training.look import Learning, Look
from effdl.training.optim import Sgd

NEW = [
    made
    for name in choices("probe")
    if name != "none" and isinstance(made := build_choice("probe", name), OfSample | WeightEntropy)
]


LINE = torch.arange(10.0)[:, None], torch.tensor([0] * 5 + [1] * 5)


def test_k_redundancy_of_a_line_of_ten_points_is_the_same_at_any_scale() -> None:
    found = measured(KRedundancy(k=(1, 2, 3)), of_points(*LINE, 2.0, -0.5), 0)
    for layer in ("input", "0", "1", "output"):
        assert [found[f"{k}/{layer}"] for k in (1, 2, 3)] == [0.9, 0.8, 0.7]
    assert len(found) == 12


def test_entropy_of_features_that_select_one_class_all_and_none() -> None:
    y = torch.arange(40) % 4
    x = torch.stack([y == 2, y >= 0, y < 0, y < 2], 1).float()
    found = measured(SelectionEntropy(shown=2), of_points(x, y, 3.0, -1.0), 0)
    assert found["entropy/0"] == pytest.approx((0 + 2 + 1) / 3) and found["silent/0"] == 1
    assert found["classes/0/0"] == [0, 0, 10, 0] and found["classes/0/1"] == [10] * 4
    assert found["feature/0"] == pytest.approx([0, 2])
    assert np.isnan(found["entropy/1"]) and found["silent/1"] == 4


def test_distances_are_numpys_of_features_worked_out_apart() -> None:
    problem, model = tiny.problem(train=60), tiny.chain()
    found = measured(Lsd(), look(model, problem), 0)
    data = problem.train_tensors()
    with torch.no_grad():
        z = x = model.input(data.x).flatten(1).double().numpy()
        y = np.eye(3)[data.y]
        features, made = {"input": x}, model.input(data.x)
        for name, block in model.blocks.named_children():
            made = block(made)
            features[name] = made.mean((2, 3)).double().numpy()
        features["output"] = model.head(made).double().numpy()
    for name, z in features.items():
        for kind, target in (("y", y), ("x", x)):
            rest = target - z @ np.linalg.lstsq(z, target, rcond=None)[0]
            expected = np.square(rest).sum() / len(rest)
            assert found[f"{kind}/{name}"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert found["y/output"] > 0 and found["x/input"] == pytest.approx(0, abs=1e-6)
    assert set(found) == {f"{kind}/{name}" for kind in "xy" for name in features}


def test_as_many_features_as_samples_are_said_to_explain_anything() -> None:
    probe = Lsd(samples=20, layers=("conv1",), pool="none", to_inputs=False)
    with pytest.warns(RuntimeWarning, match="conv1 explains 20 samples by 144 features without a rest"):
        found = measured(probe, look(tiny.chain(), tiny.problem()), 0)
    assert found["y/conv1"] == pytest.approx(0, abs=1e-6)


def test_four_clusters_are_four_cells() -> None:
    corners = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    noise = torch.rand(4, 25, 2, generator=torch.Generator().manual_seed(0))
    x, y = (corners[:, None] + noise).reshape(-1, 2), torch.arange(4).repeat_interleave(25)
    found = measured(PureVoronoi(), of_points(x, y, 3.0), 0)
    assert found["cells/0"] == 4 and found["entropy/0"] == pytest.approx(2)


def test_of_equally_near_neighbours_the_lower_index_counts() -> None:
    tied = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]]), torch.tensor([0, 1, 1, 0, 0])
    assert measured(KRedundancy(k=(1,)), of_points(*tied, 1.0), 0)["1/0"] == pytest.approx(3 / 5)


def test_points_of_a_line_are_their_own_first_component() -> None:
    x = torch.stack([3 * torch.arange(9.0), 4 * torch.arange(9.0)], 1)
    found = measured(PrincipalComponents(shown=4), of_points(x, torch.arange(9) % 2, 2.0), 0)
    assert found["x/0"] == pytest.approx([-40, -30, -20, -10]) and found["y/0"] == pytest.approx([0] * 4, abs=1e-6)
    assert found["share/0"] == pytest.approx(1) and found["class"] == [0, 1, 0, 1]


@pytest.mark.parametrize("shape", [(200, 90), (80, 300), (30, 5)])
def test_principal_components_are_scikit_learns(shape: tuple[int, int]) -> None:
    z = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 4, shape[1]) + 7
    ours, theirs = principal_components(z, 3), PCA(3, svd_solver="full").fit(z)
    np.testing.assert_allclose(np.abs(ours.scores), np.abs(theirs.transform(z)), atol=1e-7)
    np.testing.assert_allclose(ours.shares, theirs.explained_variance_ratio_, rtol=1e-9)


def test_a_discriminative_interval_is_found_where_it_was_put() -> None:
    y = torch.tensor([0] * 20 + [0, 1] * 10)
    found = measured(DiscriminativeIntervals(), of_points(torch.arange(40.0)[:, None], y, 1.0), 0)
    assert (found["intervals/0"], found["discriminative/0"]) == (2, 1) and found["samples/0"] == pytest.approx(21 / 40)


# --- which layers, which samples, and when


def test_a_block_of_that_name_leaves_input_and_output_another() -> None:
    problem = tiny.problem()
    names = dict(zip(("input", "output"), (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), nn.Linear(3, 3)), strict=True))
    found = measured(KRedundancy(k=(1,)), look(BlockChain(names, nn.Identity(), tiny.chain().input), problem), 0)
    assert list(found) == ["1/input_", "1/input", "1/output", "1/output_"]


def test_a_layer_that_is_not_there_is_named_with_those_that_are() -> None:
    probe = KRedundancy(layers=("conv2", "conv7"), k=(1,))
    known = "input, conv1, conv2, conv3, output"
    with pytest.raises(ConfigError, match=rf"^probe\.k_redundancy\.layers: .* 'conv7'; there are {known}$"):
        measured(probe, look(tiny.chain(), tiny.problem()), 0)
    run = Run(0, Sgd(lr=0.05), probes=(probe,))
    with pytest.raises(ConfigError, match="'conv7'"):
        Segmentwise(epochs=1).fit(tiny.problem(), tiny.chain(), run)
    assert run.lines == []


def test_layers_are_measured_with_their_segment_and_the_input_once() -> None:
    run = Run(0, Sgd(lr=0.05), probes=(KRedundancy(k=(1,)),))
    Segmentwise(epochs=2).fit(tiny.problem(), tiny.chain(), run)
    found = [
        (line["segment"], line["epoch"], key.split("/")[-1]) for line in run.lines for key in line if "k_redundancy" in key
    ]
    looks = [(s, e) for s in range(3) for e in (-1, 0, 1)]
    assert sorted(found) == sorted([(0, -1, "input"), *((s, e, n) for s, e in looks for n in (f"conv{s + 1}", "output"))])


@pytest.mark.parametrize(("at", "epochs"), [((0,), [-1]), ((0, 2, 9), [-1, 1]), ((3,), [2]), (None, [-1, 0, 1, 2])])
def test_it_measures_at_chosen_epochs_0_included(at: Any, epochs: list[int]) -> None:
    run = Run(0, Sgd(lr=0.05), probes=(KRedundancy(k=(1,), at=at), StableRank(at=at)))
    Backprop(epochs=3).fit(tiny.problem(), tiny.chain(), run)
    assert [line["epoch"] for line in run.lines if "k_redundancy/1/conv2" in line] == epochs
    assert [line["epoch"] for line in run.lines if "k_redundancy/1/input" in line] == epochs[:1]
    assert [line["epoch"] for line in run.lines if "stable_rank/conv2" in line] == epochs[at is None :]


def test_samples_are_the_same_at_each_look_and_no_more_than_there_are() -> None:
    problem = tiny.problem()
    split, index = Sample("train", 15).of(problem)
    assert len(index) == 15 and len(index.unique()) == 15 and torch.equal(index, Sample("train", 15).of(problem)[1])
    assert split is problem.train_split and Sample("val").of(problem)[1].tolist() == list(range(20))


# --- one pass, bounded memory


def counted(blocks: nn.Sequential) -> list[int]:
    """How many samples go through the first block from now on, call by call."""
    calls: list[int] = []
    blocks[0].register_forward_hook(lambda module, args, out: calls.append(len(out)))
    return calls


def test_probes_that_ask_for_the_same_features_share_one_pass() -> None:
    at, probes = look(tiny.chain(), tiny.problem()), (Lsd(), KRedundancy(), SelectionEntropy())
    calls = counted(at.blocks)
    share(at, [view for probe in probes for view in probe.asks(at)])
    assert sum(calls) == 40 + 1  # and one for its form
    shared = [measured(probe, at, 0) for probe in probes]
    assert sum(calls) == 40 + 1
    assert repr(shared) == repr([measured(probe, look(tiny.chain(), tiny.problem()), 0) for probe in probes])


def test_what_does_not_fit_in_memory_is_made_in_several_passes_with_the_same_numbers() -> None:
    layers, whole = ("input", "conv1", "conv2", "conv3", "output"), look(tiny.chain(), tiny.problem())
    view = Features(Sample(count=40), layers)
    expected = dict(seen(whole, view))
    sizes = {name: 4 * 40 * count for name, count in zip(layers, (36, 144, 180, 216, 3), strict=True)}
    assert {name: z.nbytes for name, z in expected.items()} == sizes
    for memory, passes in ((sum(sizes.values()), 1), (sizes["conv3"] + 480, 3), (sizes["conv3"], 4)):
        bounded = look(tiny.chain(), tiny.problem())
        calls = counted(bounded.blocks)
        share(bounded, [replace(view, memory=memory)])
        found = dict(seen(bounded, replace(view, memory=memory)))
        assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in layers)
        assert calls.count(8) == 5 * passes
        assert len(bounded.kept) == (passes == 1)
    with pytest.raises(ConfigError, match=r"memory_mib: layer conv3 of 40 samples takes .* MiB, more than"):
        dict(seen(bounded, replace(view, memory=sizes["conv3"] - 1)))


# --- wrong input


def test_features_that_are_not_finite_are_null() -> None:
    at = of_points(*LINE, 1.0, float("nan"))
    for probe in (KRedundancy(k=(1,)), Lsd(), SelectionEntropy()):
        found = measured(probe, at, 0)
        assert {key for key, value in found.items() if isinstance(value, float) and np.isnan(value)} >= {
            f"{kind}/{layer}" for kind in probe.kinds() for layer in ("1", "output")
        }
        assert all(np.isfinite(found[f"{kind}/0"]) for kind in probe.kinds())


def test_a_run_says_once_of_which_numbers_null_is_recorded() -> None:
    run = Run(0, Sgd(lr=0.05), probes=(SelectionEntropy(threshold=1e9), KRedundancy(k=(1,))))
    said: list[str] = []
    run.say = said.append  # type: ignore[method-assign]
    Backprop(epochs=2).fit(tiny.problem(), tiny.chain(), run)
    (line,) = [one for one in said if "probe" in one]
    assert line == (
        "probe=selection_entropy: entropy/input, entropy/conv1, entropy/conv2 and 2 more are no finite numbers, so that null "
        "is recorded, in epoch 0 of segment 1"
    )


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["probe=k_redundancy", "probe.k_redundancy.k=[5,300]"], r"probe\.k_redundancy\.k: 300 neighbours .* 300 samples$"),
        (["probe=k_redundancy", "probe.k_redundancy.k=[]"], r"probe\.k_redundancy\.k: .*at least 1 item"),
        (["probe=k_redundancy", "probe.k_redundancy.k=[0]"], r"probe\.k_redundancy\.k\.0: .*got 0$"),
        (["probe=lsd", "probe.lsd.split=test"], r"probe\.lsd\.split: .*'train' or 'val'"),
        (["probe=lsd", "probe.lsd.split=val", "dataset.val_size=0"], r"probe\.lsd\.split: there are no validation samples"),
        (["probe=lsd", "probe.lsd.at=[]"], r"probe\.lsd\.at: .*at least 1 item"),
        (["probe=lsd", "probe.lsd.layers=[]"], r"probe\.lsd\.layers: .*at least 1 item"),
        (["probe=selection_entropy", "dataset=linear_map", "objective=linear_mse"], r"probe=selection_entropy: is of classes"),
        (["probe=lsd", "method=platonic", "optimizer=none", "objective=linear_mse"], r"probe: Platonic has no epochs"),
    ],
)
def test_what_cannot_be_measured_is_said_before_data_are_read(overrides: list[str], line: str) -> None:
    quick = ["arch=mlp", "dataset.train_limit=300"] if "dataset=linear_map" not in overrides else ["arch=mlp"]
    with pytest.raises(ConfigError, match=rf"^{line}") as error:
        build(compose([*quick, *overrides]))
    assert "\n" not in str(error.value)


# --- no trace, and what it takes


def small(probe: Any) -> Any:
    """For forty samples, and quick."""
    if isinstance(probe, KRedundancy):
        return replace(probe, k=(1, 3))
    return replace(probe, features=2) if isinstance(probe, DiscriminativeIntervals) else probe


@pytest.mark.filterwarnings("ignore:probe=lsd")
@pytest.mark.parametrize("choice", [name for name in choices("method") if "probe" in build_choice("method", name).takes])
def test_probes_on_and_off_give_the_same_weights_bit_for_bit(choice: str) -> None:
    method = tiny.fitting(replace(build_choice("method", choice), epochs=2))
    assert len(NEW) >= 10
    found = []
    for probes in ((), [small(probe) for probe in NEW]):
        run = Run(0, Sgd(lr=0.02), probes=probes)
        network = method.fit(tiny.problem(), tiny.network_for(method), run)
        trained = [{k: v for k, v in line.items() if "time" not in k} for line in run.lines if "train/loss" in line]
        found.append([network.state_dict(), trained])
    assert tiny.same(*found)
    names = {key.split("/")[0] for line in run.lines for key in line if "/" in key}
    assert {probe.snake_name() for probe in NEW} <= names


def test_the_shared_pass_is_counted_apart_and_nothing_is_where_nobody_asks(tmp_path: Path) -> None:
    run = Run(0, Sgd(lr=0.05), probes=(StableRank(),))
    network = Backprop(epochs=1).fit(tiny.problem(), tiny.chain(), run)
    assert "time/probe/passes_s" not in run.summary(network, [])
    quick = ("arch=mlp", "arch.hidden=[8,8]", "method.epochs=1", "dataset.train_limit=300", "test_every=run")
    done = carry_out(build(compose([*quick, "probe=[lsd,k_redundancy,selection_entropy]"])), tmp_path)
    times = {key: value for key, value in done["summary"].items() if key.startswith("time/probe")}
    parts = [times[f"time/probe/{name}_s"] for name in ("passes", "lsd", "k_redundancy", "selection_entropy")]
    assert all(part > 0 for part in parts) and sum(parts) == pytest.approx(times["time/probe_s"], rel=0.05)
    lines = [json.loads(line) for line in (Path(done["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert any("lsd/y/linear2" in line for line in lines)


def test_memory_is_no_part_of_a_runs_name() -> None:
    assert any(isinstance(probe, OfLayers) for probe in NEW)
    quick = ("arch=mlp", "dataset.train_limit=300", "probe=lsd")
    one, other, third = (
        build(compose([*quick, *more])) for more in ((), ("probe.lsd.memory_mib=7",), ("probe.lsd.samples=9",))
    )
    assert run_id(one, "data") == run_id(other, "data") != run_id(third, "data")


def test_the_library_gives_what_the_probe_records() -> None:
    problem, model = tiny.problem(), tiny.chain()
    found = measured(KRedundancy(k=(1, 3)), look(model, problem), 0)
    data = problem.train_tensors()
    with torch.no_grad():
        z = model.blocks[0](model.input(data.x)).mean((2, 3))
    assert found["3/conv1"] == effdl.k_redundancy(z, data.y, 3)
    assert found["1/conv1"] == effdl.nearest_neighbour_accuracy(z, data.y)


class Prepares(DecisionRule):
    """Makes batches of its own."""

    def prepare(self, batch: Any, generator: torch.Generator) -> Any:
        return batch


def test_what_depends_on_batches_that_a_rule_makes_is_refused_in_a_line() -> None:
    problem, model = tiny.problem(), tiny.chain()
    rule = Prepares(model.blocks, model.head, problem.objective)
    learning = Learning(rule, problem.objective, 0, lambda: next(problem.train(0)), problem, (model.input,), model)
    for probe in (Lsd(), GradientRms(), SoftmaxNormaliser()):
        with pytest.raises(ConfigError, match=r"^probe: the rule Prepares makes batches of its own"):
            measured(probe, Look(model.blocks, learning), 0)


def test_distances_to_real_targets_are_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator), torch.randn(30, 2, generator=generator)
    problem = Problem(Samples(x, y), Samples(x[:0], y[:0]), effdl.LinearMse(), outputs=2, batch_size=8)
    found = measured(Lsd(to_inputs=False), look(BlockChain([nn.Linear(4, 3)], nn.Linear(3, 2), nn.Identity()), problem), 0)
    rest = y.numpy() - x.numpy() @ np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    assert found["y/input"] == pytest.approx(np.square(rest).sum() / 30, rel=1e-5)
