"""Probes measure and leave no trace; the stable rank against singular values worked out elsewhere."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from command import made_old
from torch import nn

from effdl import SoftmaxCe, load_network
from effdl.archs.classifier import Classifier
from effdl.config import Spec, build, build_choice, choices, compose, dump, run_id
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.dfa import Dfa
from effdl.methods.lazy import Lazy
from effdl.methods.ntk import Ntk
from effdl.methods.segmentwise import Segmentwise
from effdl.probes.alignment import Alignment
from effdl.probes.fgsm import Fgsm
from effdl.probes.nearest import Nearest
from effdl.probes.probe import Probe, measured
from effdl.probes.stable_rank import StableRank, stable_rank
from effdl.probes.tsne import Tsne
from effdl.probes.weights import Weights
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.setting import Count, setting
from effdl.training.decision_rule import DecisionRule
from effdl.training.look import Learning, Look
from effdl.training.loop import reseed
from effdl.training.optim import Sgd

PROBES = [build_choice("probe", name) for name in choices("probe") if name != "none"]
CHOICES = ", ".join(choices("probe"))
METHODS = [Backprop(epochs=3), Segmentwise(epochs=3, input_dropout=0.3, gradient_dropout=0.3)]


@setting
class Clumsy(Probe):
    """Does all that a probe may do and must leave no trace: draws, trains modes, asks for gradients, calls the blocks."""

    every: Count = 1

    def measure(self, look: Look) -> dict[str, float]:
        blocks = look.blocks
        modes = {m.training for m in blocks.modules()}
        drawn = float(torch.rand(5).sum() + F.dropout(torch.ones(9)).sum())
        first = next(m for m in blocks.modules() if isinstance(m, nn.Conv2d))
        with torch.enable_grad():
            x = torch.zeros(2, first.in_channels, tiny.SIDE, tiny.SIDE, requires_grad=True)
            torch.autograd.grad(blocks(x).square().sum(), x)
        blocks.train()
        return {"eval": float(modes == {False}), "drawn": drawn, "nowhere": float("nan")}


def spec(*overrides: str) -> Spec:
    quick = ("arch=mlp", "arch.hidden=[8,8]", "method.epochs=2", "dataset.train_limit=300", "test_every=run")
    return build(compose([*quick, *overrides]))


def test_a_probe_stands_in_the_yaml_of_its_name_with_its_defaults() -> None:
    assert {*[Alignment(), Fgsm(), Nearest(), StableRank(), Tsne(), Weights()]} < {*PROBES}
    assert [type(probe)() for probe in PROBES] == PROBES
    assert [probe.snake_name() for probe in PROBES] == [name for name in choices("probe") if name != "none"]


# On networks that are not linear, and few images.
FITTING = [*(replace(one, every=1) for one in PROBES if not isinstance(one, Nearest | Tsne)), Nearest(of="output")]
FITTING += [Tsne(of="output", every=1, samples=30, perplexity=5), Clumsy()]


@pytest.mark.parametrize("probe", FITTING, ids=lambda p: p.snake_name())
class TestContract:
    @pytest.mark.parametrize("method", METHODS, ids=["backprop", "segmentwise"])
    def test_a_run_with_it_is_the_same_bit_for_bit_but_for_its_own_numbers(self, probe: Probe, method: Any) -> None:
        results = []
        for probes in ((), (probe,)):
            run = Run(0, Sgd(lr=0.05), probes=probes)
            network = method.fit(tiny.problem(), tiny.chain(), run)
            trained = [{k: v for k, v in line.items() if "time" not in k} for line in run.lines if "train/loss" in line]
            results.append([network.state_dict(), trained])
        assert tiny.same(*results)
        prefix = f"{probe.snake_name()}/"
        own = [line for line in run.lines if "train/loss" not in line]
        looks = {(line["segment"], line["epoch"]) for line in own}
        assert len(looks) == (4 if probe.begins else 3) * (1 if isinstance(method, Backprop) else 3)
        assert sum(epoch == -1 for _, epoch in looks) == (len(looks) // 4 if probe.begins else 0)
        assert all(key.startswith(prefix) for line in own for key in line if key not in ("segment", "epoch"))
        summary = run.summary(network, [])
        assert 0 < summary[f"time/probe/{probe.snake_name()}_s"] <= summary["time/probe_s"]

    def test_it_puts_back_modes_and_random_streams_and_leaves_no_gradients(self, probe: Probe) -> None:
        blocks = tiny.chain()[0:2]
        blocks[0].train(), blocks[1].eval()
        rule = DecisionRule(blocks, Classifier((tiny.WIDTHS[2], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=2), SoftmaxCe())
        seen = Look(
            blocks, Learning(rule, SoftmaxCe(), 0, lambda: next(tiny.problem().train(0)).passed_on(torch.rand(8, 1, 6, 6)))
        )
        modes, weights, stream = [m.training for m in blocks.modules()], tiny.copied(blocks), torch.get_rng_state()
        first, again, other = (measured(probe, seen, seed) for seed in (1, 1, 2))
        assert [m.training for m in blocks.modules()] == modes
        assert tiny.same(weights, blocks.state_dict())
        assert torch.equal(stream, torch.get_rng_state())
        assert all(p.grad is None and p.requires_grad for p in blocks.parameters())
        assert torch.is_grad_enabled()
        assert repr(first) == repr(again)
        assert first.keys() == other.keys()


def test_a_probe_sees_eval_mode_and_draws_from_a_stream_of_its_place() -> None:
    run = Run(0, Sgd(lr=0.05), probes=(Clumsy(),))
    Segmentwise(epochs=2).fit(tiny.problem(), tiny.chain(), run)
    lines = [line for line in run.lines if "clumsy/drawn" in line]
    assert [(line["segment"], line["epoch"]) for line in lines] == [(i, e) for i in range(3) for e in range(2)]
    assert {line["clumsy/eval"] for line in lines} == {1.0}
    assert {line["clumsy/nowhere"] for line in lines} == {None}  # JSON has no NaN, and a measurement stops no run
    assert len({line["clumsy/drawn"] for line in lines}) == 6
    reseed(0)
    blocks = tiny.chain()[0:1]
    assert measured(Clumsy(), Look(blocks), run.seed("probe/clumsy", 0, 1))["drawn"] == lines[1]["clumsy/drawn"]


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])])
def test_it_measures_after_each_so_many_epochs_and_after_the_last(every: int, epochs: list[int]) -> None:
    run = Run(0, Sgd(lr=0.05), probes=(StableRank(every=every),))
    Segmentwise(epochs=5).fit(tiny.problem(), tiny.chain(), run)
    for i in range(3):
        measured = [line["epoch"] for line in run.lines if f"stable_rank/conv{i + 1}" in line]
        assert measured == epochs
    assert {line["segment"] for line in run.lines if "stable_rank/conv2" in line} == {1}


def test_early_stopping_makes_the_last_epoch_of_a_segment_one_that_is_measured() -> None:
    run = Run(0, Sgd(lr=1e-9), probes=(StableRank(every=50),))
    Segmentwise(epochs=20, patience=1).fit(tiny.problem(), tiny.chain(), run)
    last = {line["segment"]: line["epoch"] for line in run.lines if "train/loss" in line}
    assert max(last.values()) < 19
    assert {line["segment"]: line["epoch"] for line in run.lines if "train/loss" not in line} == last


# --- weights


def test_weights_are_recorded_row_by_row_with_the_feedback_that_stands_for_them() -> None:
    model, run = tiny.perceptron(hidden=(5,)), Run(0, Sgd(lr=0.05), probes=(Weights(),))
    network = Dfa(epochs=2).fit(tiny.problem(), model, run)
    last = [line for line in run.lines if line["epoch"] == 1 and any("weights/" in key for key in line)]
    matrices = {"linear1": network.blocks[0], "head": network.head}
    for name, layer in matrices.items():
        (weight,) = (p for p in layer.parameters() if p.dim() == 2)
        keys = [f"weights/{name}/{i}" for i in range(len(weight))]
        assert [[line[key] for line in last if key in line] for key in keys] == weight.tolist()
        (bias,) = (p for p in layer.parameters() if p.dim() == 1)
        assert [line[f"weights/{name}/bias"] for line in last if f"weights/{name}/bias" in line] == bias.tolist()
    feedback = {
        key: [line[key] for line in run.lines if key in line] for key in (f"weights/feedback/linear1/{i}" for i in range(3))
    }
    assert all(len(values) == 3 * 5 and values[:5] == values[5:10] == values[10:] for values in feedback.values())


# --- the stable rank


def test_stable_rank_of_matrices_that_say_it_themselves() -> None:
    for diagonal in ([1.0], [3.0, 1.0], [2.0, 2.0, 2.0], [5.0, 0.0, 0.0], [-4.0, 3.0]):
        expected = sum(d * d for d in diagonal) / max(d * d for d in diagonal)
        assert stable_rank(torch.tensor(diagonal).diag()) == pytest.approx(expected, rel=1e-12)
    column, row = torch.randn(7, 1), torch.randn(1, 5)
    assert stable_rank(column * row) == pytest.approx(1, rel=1e-6)
    for n in (2, 5, 16):
        orthogonal, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
        assert stable_rank(orthogonal) == pytest.approx(n, rel=1e-12)
        assert stable_rank(0.001 * orthogonal[: n // 2 + 1]) == pytest.approx(n // 2 + 1, rel=1e-12)
    assert np.isnan(stable_rank(torch.zeros(3, 4)))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 9), (9, 1), (5, 3, 3, 3), (16, 1, 3, 3), (4, 2, 5), (3, 2, 2, 2, 2)])
def test_stable_rank_is_that_of_numpys_singular_values(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = np.linalg.svd(weight.numpy().astype(np.float64).reshape(shape[0], -1), compute_uv=False)
    expected = (singular**2).sum() / singular.max() ** 2
    assert stable_rank(weight) == pytest.approx(expected, rel=1e-12)
    assert 1 - 1e-12 <= expected <= min(shape[0], weight[0].numel())
    assert stable_rank(weight * 1e-18) == pytest.approx(expected, rel=1e-6)


def test_a_block_with_one_matrix_has_its_name_and_of_several_each_has_its_own() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential()
    blocks.add_module("stem", nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
    blocks.add_module("unit", nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Linear(3, 2)))
    blocks.add_module("norm", nn.LayerNorm(3))
    measured = StableRank().measure(Look(blocks))
    assert list(measured) == ["stem", "unit.0.weight", "unit.2.weight"]
    assert measured["stem"] == stable_rank(blocks.stem[0].weight)


def test_recorded_numbers_are_those_of_the_finished_network(tmp_path: Path) -> None:
    done = carry_out(spec("method=backprop", "probe=[stable_rank]"), tmp_path)
    lines = [json.loads(line) for line in (Path(done["path"]) / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if "stable_rank/linear1" in line and line["epoch"] == 1]
    network: Any = load_network(done["path"])
    for name, block in network.blocks.named_children():
        (weight,) = [p for p in block.parameters() if p.dim() == 2]
        spectral = np.linalg.norm(weight.detach().double().numpy(), 2)
        frobenius = np.linalg.norm(weight.detach().double().numpy())
        assert last[f"stable_rank/{name}"] == pytest.approx((frobenius / spectral) ** 2, rel=1e-9)


# --- identity


def test_a_probe_added_is_another_run_and_no_record_without_it_is_served(tmp_path: Path) -> None:
    plain, probed = carry_out(spec(), tmp_path), carry_out(spec("probe=[stable_rank]"), tmp_path)
    assert plain["run_id"] != probed["run_id"]
    assert plain["summary"]["network/sha256"] == probed["summary"]["network/sha256"]
    for one, has in ((plain, False), (probed, True)):
        assert ("stable_rank" in (Path(one["path"]) / "metrics.jsonl").read_text()) is has
    assert carry_out(spec(), tmp_path) == plain and carry_out(spec("probe=stable_rank"), tmp_path) == probed
    assert carry_out(spec("probe=stable_rank", "probe.stable_rank.every=2"), tmp_path)["run_id"] != probed["run_id"]


def test_a_record_from_before_there_were_filters_and_probes_is_served(tmp_path: Path) -> None:
    done = carry_out(spec(), tmp_path)
    record = Path(done["path"]) / "spec.json"
    made_old(record.parent)
    stored = json.loads(record.read_text())
    assert stored["config"].pop("filter") is None and stored["config"].pop("probe") == {}
    record.write_text(json.dumps(stored))
    assert carry_out(spec(), tmp_path) == done


def test_probes_stand_in_a_spec_by_name_whatever_order_they_were_asked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "their_probes", type(sys)("their_probes"))
    monkeypatch.setattr(sys.modules["their_probes"], "Clumsy", Clumsy, raising=False)
    added = "+probe.clumsy={_target_:their_probes.Clumsy}"
    one, other = spec("probe=[stable_rank]", added), spec(added, "probe=[stable_rank]")
    assert one == other and hash(one) == hash(other) and one.probe == (Clumsy(), StableRank())
    assert run_id(one, "data") == run_id(other, "data") != run_id(spec("probe=[stable_rank]"), "data")
    assert len({run_id(replace(one, probe=p), "data") for p in ((), (Clumsy(),), (StableRank(),), one.probe)}) == 4


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["probe=[stable_rank]", "probe.stable_rank.evry=2"], r"probe\.stable_rank\.evry: unknown key; there are at, every$"),
        (["probe=stable_rank", "probe.stable_rank.every=0"], r"probe\.stable_rank\.every: .* got 0$"),
        (
            ["probe=[stable_rank,stable_ranks]"],
            rf"probe=stable_ranks: unknown choice; there are {CHOICES}$",
        ),
        (["+probe.x._target_=effdl.probes.stable_rank.StableRank"], r"probe\.x: StableRank belongs under probe\.stable_rank$"),
        (
            ["+probe.x={every:1}"],
            rf"probe\.x: .* has no _target_; name a choice of the group \({CHOICES}\)$",
        ),
        (["+probe._target_=effdl.probes.stable_rank.StableRank"], r"probe: .* is no choice of probes by name, as probe="),
        (["+probe.digits._target_=effdl.datasets.digits.Digits"], r"probe\.digits\._target_: .* is no Probe"),
    ],
)
def test_what_is_wrong_with_a_probe_is_said_in_one_line_with_its_full_key(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}") as error:
        build(compose(overrides))
    assert "\n" not in str(error.value)


def test_a_misspelt_key_within_a_dumped_config_names_itself() -> None:
    config: dict[str, Any] = json.loads(json.dumps(dump(spec("probe=[stable_rank]", "filter=random_subset"))))
    for key, node in (("probe.stable_rank", config["probe"]["stable_rank"]), ("filter", config["filter"])):
        node["evry"] = 2
        with pytest.raises(ConfigError, match=rf"^{key}\.evry: unknown key; there are "):
            build(config)
        del node["evry"]
        assert build(config) == spec("probe=[stable_rank]", "filter=random_subset")


@pytest.mark.parametrize("choice", [name for name in choices("method") if "optimizer" in build_choice("method", name).takes])
def test_a_method_that_says_it_takes_probes_lets_them_look_and_others_refuse(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny.fitting(replace(build_choice("method", choice), epochs=1))
    run = Run(0, Sgd(lr=0.02), probes=(StableRank(),))
    method.fit(tiny.problem(), tiny.network_for(method), run)
    measured = {
        key.removeprefix("stable_rank/").split(".")[0] for line in run.lines for key in line if key.startswith("stable_rank/")
    }
    learning = {"linear" if isinstance(method, Ntk) else "head"} if isinstance(method, Lazy) else {"conv1", "conv2", "conv3"}
    assert measured == (learning if "probe" in method.takes else set())
    monkeypatch.setattr(type(method), "takes", method.takes - {"probe"})
    with pytest.raises(ConfigError, match=rf"^probe: {type(method).__name__} .*probe=none$"):
        build(compose([f"method={choice}", "probe=stable_rank"]))
