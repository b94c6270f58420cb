"""Robins (Algorithm 4): a plain loop's numbers, the best network kept whole, and any turn survives a kill."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from command import answer, numbers, run
from torch import nn

from effdl import config
from effdl.archs.chain import ArchFacts
from effdl.archs.classifier import Classifier
from effdl.costs.fake import fakes
from effdl.costs.segments import segment_costs
from effdl.errors import ConfigError
from effdl.methods.segmentwise import Segmentwise
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.loop import evaluate
from effdl.training.optim import MultiStep, Sgd
from effdl.training.orders import Turn, bottom_up, permuted, robin
from effdl.training.segments import SegmentPlan, Training

ROUNDS, EPOCHS = 4, 2
SGD = Sgd(lr=0.05, weight_decay=1e-3, momentum=0.9, schedule=MultiStep(milestones=(0.5,)))


def seeded(*counters: Any) -> None:
    torch.manual_seed(seed_for(0, *counters))


def reference(order: list[list[int]]) -> tuple[nn.Module, list[nn.Module], list[float]]:
    """Algorithm 4 as everybody would write it: blocks, decision layers, and validation accuracy after each turn."""
    problem, chain = tiny.problem(), tiny.chain().double()
    data, heads, optimizers = problem.train_tensors(), [], []
    for i, block in enumerate(chain.blocks):
        seeded("init", i)
        heads.append(Classifier((tiny.WIDTHS[i + 1], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=1).double())
        parameters = [*block.parameters(), *heads[i].parameters()]
        optimizers.append(torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3))
    epochs, past, scores = [0] * 3, 0, []
    for i in (i for turns in order for i in turns):
        for _ in range(EPOCHS):
            optimizers[i].param_groups[0]["lr"] = 0.05 * (0.1 if epochs[i] >= ROUNDS * EPOCHS / 2 else 1)
            chain.eval()
            chain.blocks[i].train()
            index = torch.randperm(40, generator=torch.Generator().manual_seed(seed_for(0, "order", past)))
            for step, batch in enumerate(index.split(8)):
                with torch.no_grad():
                    x = chain.blocks[:i](chain.input(data.x[batch]))
                seeded("step", i, epochs[i], step)
                F.cross_entropy(heads[i](chain.blocks[i](x)), data.y[batch]).backward()
                optimizers[i].step()
                optimizers[i].zero_grad()
            epochs[i], past = epochs[i] + 1, past + 1
        chain.eval()
        val = problem.val_tensors()
        scores.append((heads[i](chain.blocks[: i + 1](chain.input(val.x))).argmax(1) == val.y).double().mean().item())
    return chain, heads, scores


def orders(permute: bool) -> list[list[int]]:
    return [permuted(0, 3, number) if permute else [0, 1, 2] for number in range(ROUNDS)]


@pytest.mark.parametrize("keep_features_mib", [0.0, 100.0])
@pytest.mark.parametrize("permute", [False, True])
def test_states_after_all_rounds_are_a_plain_loops(permute: bool, keep_features_mib: float) -> None:
    chain, heads, scores = reference(orders(permute))
    model, run = tiny.chain().double(), Run.in_memory(SGD)
    method = Segmentwise(epochs=EPOCHS, rounds=ROUNDS, permute=permute, choose="last", keep_features_mib=keep_features_mib)
    network = method.fit(tiny.problem(), model, run)
    last_turn = [line["val/acc"] for line in run.lines][EPOCHS - 1 :: EPOCHS]
    assert last_turn == pytest.approx(scores)
    assert [(line["segment"], line["epoch"]) for line in run.lines] == [
        (i, number * EPOCHS + epoch) for number, turns in enumerate(orders(permute)) for i in turns for epoch in range(EPOCHS)
    ]
    if orders(permute)[-1][-1] == 2:  # else other layers have learned since, and the network is what it was before
        torch.testing.assert_close(model.blocks.state_dict(), chain.blocks.state_dict(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network.head.state_dict(), heads[2].state_dict(), rtol=1e-10, atol=1e-12)


def test_a_plan_draws_the_runs_random_order_among_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [permuted(3, 7, number) for number in range(4)]
    with fakes():
        assert [permuted(3, 7, number) for number in range(4)] == drawn
    spec = config.build(config.compose(["method=random_robin", "method.rounds=2", "arch=cnn4", "dataset=digits"]))
    monkeypatch.setattr(plan, "_rehearse", lambda *_: pytest.fail("data were read and real steps made"))
    told = plan.cost(spec)
    assert told is not None and [len(cost.turns) for cost in told.segments] == [2, 2, 2]


def test_orders_are_those_of_algorithms_3_and_4() -> None:
    assert list(bottom_up([5, 7])) == [Turn(0, 5), Turn(1, 7)]
    assert list(robin([5, 7], 1)) == list(bottom_up([5, 7]))
    assert [turn.segment for turn in robin([1, 1, 1], 2, [[2, 0, 1], [1, 2, 0]].__getitem__)] == [2, 0, 1, 1, 2, 0]
    drawn = [permuted(0, 6, number) for number in range(8)]
    assert all(sorted(order) == [*range(6)] for order in drawn) and len({*map(tuple, drawn)}) > 4
    assert permuted(0, 6, 0) == drawn[0] != permuted(1, 6, 0)


class Remembering:
    """A run that keeps a copy of each network that it is to test whole, as it is then, with its validation score."""

    def __init__(self, inner: Run, model: Any) -> None:
        self.inner, self.model = inner, model
        self.states: list[tuple[float, dict[str, Any], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def test(self, local: Any, segment: int, epoch: int, last: bool, *more: Any) -> None:
        score = self.inner.lines[-1]["val/acc"]
        self.states.append((score, tiny.copied(self.model.cropped(segment + 1).blocks), tiny.copied(local.head)))


@pytest.mark.parametrize("permute", [False, True])
def test_the_best_network_is_kept_as_it_was_while_later_turns_change_its_blocks(permute: bool) -> None:
    model = tiny.chain()
    run = Remembering(Run.in_memory(Sgd(lr=0.1)), model)
    network = Segmentwise(epochs=1, rounds=16, permute=permute).fit(tiny.problem(), model, run)
    scores = [score for score, *_ in run.states]
    best = scores.index(max(scores))
    assert best < len(scores) - 1, "nothing came after the best"
    _, blocks, head = run.states[best]
    assert tiny.same(blocks, tiny.copied(network.blocks)) and tiny.same(head, tiny.copied(network.head))
    assert evaluate(network, tiny.problem().val(), tiny.problem().objective)["acc"] == scores[best]
    assert any(not tiny.same(blocks, state) for _, state, _ in run.states[best + 1 :] if state.keys() == blocks.keys())


ROBIN = ("method=random_robin", "method.rounds=3", "method.epochs=2", "method.input_dropout=0.4", "optimizer=adamw")
SMALL = ("dataset=digits", "dataset.train_limit=200", "arch.widths=[4,5,6]", "dataset.batch_size=50", "hardware.threads=1")


@pytest.mark.parametrize("choose", ["validation", "last"])
@pytest.mark.parametrize("keep_features_mib", [0, 0.3, 100])
def test_stopped_at_any_turn_and_resumed_it_ends_in_the_same_numbers(
    keep_features_mib: float, choose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*ROBIN, *SMALL, f"method.keep_features_mib={keep_features_mib}", f"method.choose={choose}"]
    spec = config.build(config.compose(overrides))
    alone = carry_out(spec, tmp_path / "alone")
    again = tiny.resumed(spec, tmp_path / "again", monkeypatch, 1, 3, 8, 13, 17)
    assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))
    kept = again["summary"]["memory/kept_features_bytes"]
    assert kept == 0 if keep_features_mib == 0 else 0 < kept <= keep_features_mib * 2**20


def test_resident_memory_has_the_learners_that_wait_and_the_best_networks_copy() -> None:
    problem, costs = tiny.problem(), []
    for rounds in (1, 3):
        model, run = tiny.chain(), Run.in_memory(SGD)
        engine = Engine(Segmentwise(rounds=rounds).training(problem, model, run), problem, model, run)
        costs.append(segment_costs(engine))
    weights, heads = [], []
    for a, b in pairwise(tiny.WIDTHS):
        weights.append(4 * (9 * a * b + 2 * b))  # convolution, and scale and shift of the normalisation
        heads.append(4 * (b + 1) * tiny.CLASSES)
    statistics = [4 * 2 * width + 8 for width in tiny.WIDTHS[1:]]
    waiting = [w + 2 * h for w, h in zip(weights, heads, strict=True)]  # momentum of both, and the decision layer itself
    copy = sum(weights) + sum(statistics) + max(heads)
    for i, (once, thrice) in enumerate(zip(*costs, strict=True)):
        assert thrice.memory == once.memory
        assert thrice.idle_bytes - once.idle_bytes == sum(waiting) - waiting[i] + copy


def test_patience_and_rounds_exclude_one_another_and_an_order_fits_its_segments(tmp_path: Path) -> None:
    done = run("method=round_robin", "method.patience=2", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("effdl: method.patience ends a segment for good")
    plan: Any = SegmentPlan(0, 1, 2, lambda blocks, shapes: blocks)
    for order, word in (
        ([Turn(1, 2)], "names segment 1"),
        ([Turn(0, 1)], "turns come to 1"),
        ([Turn(-1, 2)], "names segment -1"),
    ):
        with pytest.raises(ValueError, match=word):
            Training([plan], 0, order)
    with pytest.raises(ValueError, match="patience"):
        Training([plan], 0, [Turn(0, 1), Turn(0, 1)], patience=1)
    with pytest.raises(ConfigError, match="comes back to it"):
        Segmentwise(rounds=2, patience=1).check(tiny.problem().facts, ArchFacts(3, 1), Hardware())


@pytest.mark.slow
def test_issue_round_robin_learns_the_digits(tmp_path: Path) -> None:
    summary = answer(run("method=round_robin", cwd=tmp_path))["summary"]
    assert summary["test/acc"] > 0.9
