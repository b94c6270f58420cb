"""The alignment probe against angles that are known: of the weights themselves, of independent draws, of updates by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl import Batch, Run, Sgd, SoftmaxCe
from effdl.config import build, compose
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.dfa import Dfa
from effdl.methods.fa import Fa
from effdl.methods.segmentwise import Segmentwise
from effdl.methods.usf import Usf
from effdl.probes.alignment import Alignment, angle, cosine
from effdl.probes.probe import measured
from effdl.records.carry import carry_out
from effdl.training.direct_feedback import DirectFeedback
from effdl.training.engine import Engine
from effdl.training.feedback import drawn
from effdl.training.hardware import Hardware
from effdl.training.look import Learning, Look
from effdl.training.loop import reseed
from effdl.training.rule import Rule


def look(rule: Any, batch: Batch) -> dict[str, float]:
    return measured(Alignment(), Look(rule.blocks, Learning(rule, rule.objective, 0, lambda: batch)), seed=0)


def lines(method: Any, model: Any = None, **how: Any) -> list[dict[str, Any]]:
    run = Run(0, Sgd(lr=0.05), probes=(Alignment(**how),))
    method.fit(tiny.problem(), model or tiny.perceptron(), run)
    return [line for line in run.lines if "train/loss" not in line]


def recorded(done: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(done["path"]) / "metrics.jsonl").read_text().splitlines()]


# --- angles that say themselves


def test_cosine_and_angle_of_vectors_that_are_known() -> None:
    a = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert cosine(a, 7 * a) == pytest.approx(1, abs=1e-15) and cosine(a, -a) == pytest.approx(-1, abs=1e-15)
    assert cosine(a, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 0
    assert cosine(a, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.6)
    assert angle(a, 7 * a) == 0 and angle(a, -a) == pytest.approx(180)
    assert angle(a, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(math.degrees(math.acos(0.6)))
    assert math.isnan(cosine(a, 0 * a)) and math.isnan(angle(a, 0 * a))


def test_independent_gaussians_of_n_entries_have_a_mean_square_cosine_of_one_nth() -> None:
    n = 200
    found = torch.tensor(
        [cosine(drawn("zero_mean_gaussian", 1, n, i), drawn("standard_gaussian", 1, n, 10_000 + i)) for i in range(2000)]
    )
    assert found.square().mean().item() == pytest.approx(1 / n, rel=0.15)
    assert abs(found.mean().item()) < 4 / math.sqrt(2000 * n)


# --- of feedback


@pytest.mark.parametrize("method", [Fa(epochs=1, feedback="transpose"), Dfa(epochs=1, feedback="transpose")])
def test_alignment_of_the_transpose_is_one_and_its_updates_are_the_gradient(method: Any) -> None:
    found = lines(method, tiny.perceptron(hidden=(30,)).double())
    assert [line["epoch"] for line in found] == [-1, 0]
    name = "head" if isinstance(method, Fa) else "linear1"
    for line in found:
        assert line[f"alignment/weights/{name}"] == pytest.approx(1, abs=1e-12)
        assert line["alignment/angle/linear1"] < 1e-5 and line["alignment/angle/all"] < 1e-5
        assert line["alignment/norm/linear1"] == pytest.approx(line["alignment/true_norm/linear1"], rel=1e-10)


def test_direct_feedback_is_held_beside_the_product_of_the_weights_above() -> None:
    reseed(0)
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(*sizes), nn.ReLU()) for sizes in ((5, 7), (7, 6))))
    head, x, y = nn.Linear(6, 3), torch.randn(9, 5), torch.arange(9) % 3
    product: Tensor = head.weight.detach() @ blocks[1][0].weight.detach()  # type: ignore[index]
    rule = DirectFeedback(blocks, head, SoftmaxCe(), [2 * product, -head.weight.detach()])
    found = look(rule, Batch(x, y, torch.arange(9)))
    assert found["weights/0"] == pytest.approx(1, abs=1e-6) and found["weights/1"] == pytest.approx(-1, abs=1e-6)
    assert found["angle/1"] == pytest.approx(180, abs=1e-3)  # the last hidden layer is driven uphill


def test_layers_of_other_forms_have_no_product_and_convolutional_feedback_is_held_beside_its_own() -> None:
    assert not any("weights" in key for line in lines(Dfa(epochs=1), tiny.chain()) for key in line)
    (_, last) = lines(Fa(epochs=1), tiny.chain())
    assert [key for key in last if "weights" in key] == [f"alignment/weights/{name}" for name in ("conv2", "conv3", "head")]
    (_, last) = lines(Usf(epochs=1), tiny.chain())
    assert all(0.5 < last[f"alignment/weights/{name}"] < 1 for name in ("conv2", "conv3", "head"))


# --- of updates


def test_backpropagation_is_at_no_angle_to_the_gradient_and_nor_is_a_layer_to_that_of_its_own_loss() -> None:
    for method in (Backprop(epochs=2), Segmentwise(epochs=2)):
        for line in lines(method, tiny.chain(dropout=0.0)):
            assert line["alignment/angle/all"] < 1e-3
            assert not any("weights" in key for key in line)


def test_the_angle_of_a_rule_is_that_of_gradients_worked_out_apart() -> None:
    reseed(1)
    blocks, head = nn.Sequential(nn.Sequential(nn.Linear(5, 7), nn.Tanh())).double(), nn.Linear(7, 3).double()
    matrix = torch.randn(3, 7, dtype=torch.float64)
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 3
    rule = DirectFeedback(blocks, head, SoftmaxCe(), [matrix])
    found = look(rule, Batch(x, y, torch.arange(9)))
    h = blocks(x)
    e = ((head(h).softmax(1) - nn.functional.one_hot(y, 3)) / 9).detach()
    slope = (1 - h.square()).detach()
    ours, true = (((e @ b) * slope) for b in (matrix, head.weight.detach()))
    flat = [torch.cat([(d.T @ x).flatten(), d.sum(0)]) for d in (ours, true)]
    expected = math.degrees(math.acos(float(flat[0] @ flat[1] / flat[0].norm() / flat[1].norm())))
    assert found["angle/0"] == pytest.approx(expected, rel=1e-9)
    assert [found["norm/0"], found["true_norm/0"]] == pytest.approx([float(f.norm()) for f in flat], rel=1e-9)


def test_direct_feedback_comes_to_point_the_gradients_way(tmp_path: Path) -> None:
    """On real digits, as figure 3.2 has it: low at first, then higher."""
    network = ("arch=mlp", "arch.hidden=[64]", "arch.bias=false", "method=dfa", "method.epochs=8", "optimizer.lr=0.02")
    done = carry_out(build(compose([*network, "dataset=digits", "test_every=run", "probe=alignment"])), tmp_path)
    found = [line for line in recorded(done) if "alignment/angle/all" in line]
    first, last = found[0], found[-1]
    assert abs(first["alignment/weights/linear1"]) < 0.15 and last["alignment/weights/linear1"] > 0.3
    assert first["alignment/angle/linear1"] > 80 and last["alignment/angle/linear1"] < 75


def test_the_batch_is_the_same_at_each_look() -> None:
    seen = []

    class Watching(Alignment):
        def measure(self, look: Look) -> dict[str, float]:
            assert look.learning is not None
            seen.append((look.learning.epoch, look.learning.sample()))
            return {}

    run = Run(0, Sgd(lr=0.05), probes=(Watching(),))
    Segmentwise(epochs=2).fit(tiny.problem(), tiny.chain(), run)
    assert [epoch for epoch, _ in seen] == [0, 1, 2] * 3
    assert all(torch.equal(batch.index, seen[0][1].index) for _, batch in seen)
    assert [batch.x.shape[1] for _, batch in seen] == [w for w in tiny.WIDTHS[:3] for _ in range(3)]
    assert torch.equal(seen[3][1].x, seen[5][1].x)  # through blocks below that stay


@pytest.mark.parametrize("parts", [1, 3])
def test_the_batch_is_laid_out_and_cut_as_what_a_segment_learns_from(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(0, Sgd(lr=0.05), hardware=Hardware(layout="channels_last"))
    problem, model = tiny.problem(), tiny.chain()
    training = replace(Segmentwise(epochs=1).training(problem, model, run), feed_parts=parts)
    engine = Engine(training, problem, model, run)
    seen, blocks = list[int](), engine.chain.blocks[0].register_forward_hook(lambda m, args, out: seen.append(len(out)))
    batch = engine._sample(1, False)
    blocks.remove()
    assert batch.x.is_contiguous(memory_format=torch.channels_last) and not batch.x.is_contiguous()
    assert seen == ([problem.batch_size] if parts == 1 else [3, 3, 2]) and sum(seen) == problem.batch_size == 8


def test_every_counts_epochs_and_the_beginning_is_always_there() -> None:
    assert [line["epoch"] for line in lines(Dfa(epochs=5), every=2)] == [-1, 1, 3, 4]


def test_a_killed_run_has_the_same_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("arch=mlp", "arch.hidden=[8,8]", "method=dfa", "method.epochs=3", "dataset.train_limit=300", "test_every=run")
    spec = build(compose([*quick, "probe=alignment"]))
    whole = carry_out(spec, tmp_path / "whole")
    cut = tiny.resumed(spec, tmp_path / "cut", monkeypatch, 1, 2)
    found = [[{k: v for k, v in line.items() if "time" not in k} for line in recorded(done)] for done in (whole, cut)]
    assert found[0] == found[1] and sum("alignment/angle/all" in line for line in found[0]) == 4
    assert whole["summary"]["network/sha256"] == cut["summary"]["network/sha256"]
    plain = carry_out(build(compose(quick)), tmp_path / "plain")
    assert plain["summary"]["network/sha256"] == whole["summary"]["network/sha256"]


def test_a_rule_that_makes_its_own_batches_is_refused_in_a_line() -> None:
    class Preparing(DirectFeedback):
        def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
            return batch

    rule: Rule = Preparing(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2), SoftmaxCe(), [torch.ones(2, 2)])
    with pytest.raises(
        ConfigError, match=r"^probe=alignment: the rule Preparing makes batches of its own.*leave the probe out$"
    ):
        look(rule, Batch(torch.ones(1, 2), torch.zeros(1, dtype=torch.long), torch.arange(1)))
