"""Segments that learn at once (§6.8.3): the numbers of recording and replaying, and the bytes of a real pass."""

from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from effdl.archs.chain import ArchFacts
from effdl.costs.memory import LiveStorages
from effdl.costs.segments import segment_costs
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError, Diverged
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.copies import held
from effdl.training.decision_rule import DecisionRule
from effdl.training.engine import Engine
from effdl.training.epoch import drain_epoch
from effdl.training.hardware import Hardware
from effdl.training.loop import evaluate
from effdl.training.optim import MultiStep, Sgd
from effdl.training.orders import Turn, together
from effdl.training.segments import SegmentPlan, Training

EPOCHS = 4
SGD = Sgd(lr=0.05, weight_decay=1e-3, momentum=0.9, schedule=MultiStep(milestones=(0.5,)))
TOGETHER = Segmentwise(epochs=EPOCHS, together=True, choose="last", input_dropout=0.2, lr_factor=0.5, weight_decay_factor=0.5)


def engine(model: Any, run: Run, method: Segmentwise = TOGETHER, problem: Any = None) -> Engine:
    problem = problem or tiny.problem()
    return Engine(method.training(problem, model, run), problem, model, run)


def recorded_and_replayed() -> tuple[nn.Module, list[nn.Module], list[list[float]]]:
    """Each epoch, the lowest learns first and what it puts out is written down; the next learns from that; and so on."""
    model, run = tiny.chain().double(), Run.in_memory(SGD)
    made = engine(model, run)
    learners, problem, scores = [made.making.learner(i) for i in range(3)], tiny.problem(), []
    for learner in learners:
        learner.rule.yields = True
    for epoch in range(EPOCHS):
        written = [batch.passed_on(model.input(batch.x)) for batch in problem.train(epoch)]
        for learner in learners:
            written = [Batch(b.x.clone(), b.y, b.index) for b in learner.train_epoch(written)]
        chain = [learner.rule.predictor(model.cropped(i + 1)) for i, learner in enumerate(learners)]
        scores.append([evaluate(network.eval(), problem.val(), problem.objective)["acc"] for network in chain])
    return model, [learner.rule for learner in learners], scores


def test_it_is_recording_and_replaying_bit_for_bit_with_normalisation_and_dropouts() -> None:
    chain, rules, scores = recorded_and_replayed()
    model, run = tiny.chain().double(), Run.in_memory(SGD)
    network = TOGETHER.fit(tiny.problem(), model, run)
    assert tiny.same(tiny.copied(model.blocks), tiny.copied(chain.blocks))  # type: ignore[arg-type]
    assert tiny.same(tiny.copied(network.head), tiny.copied(rules[2].decision))  # type: ignore[arg-type]
    found = [[line["val/acc"] for line in run.lines if line["epoch"] == epoch] for epoch in range(EPOCHS)]
    assert found == scores
    assert [(line["segment"], line["epoch"]) for line in run.lines] == [(i, e) for e in range(EPOCHS) for i in range(3)]


def test_limit_one_segment_together_is_backprop() -> None:
    models, runs = [tiny.chain(), tiny.chain()], [Run.in_memory(SGD), Run.in_memory(SGD)]
    for model, run, at_once in zip(models, runs, (0, 1), strict=True):

        def rule(blocks: nn.Sequential, shapes: Any, model: Any = model) -> DecisionRule:
            return DecisionRule(blocks, model.head, SoftmaxCe())

        order = list(together(EPOCHS, 1)) if at_once else []
        made = Training([SegmentPlan(0, 3, EPOCHS, rule)], 0, order)
        Engine(made, tiny.problem(), model, run).fit()
    plain = tiny.chain()
    Backprop(epochs=EPOCHS).fit(tiny.problem(), plain, Run.in_memory(SGD))
    assert tiny.same(tiny.copied(models[1]), tiny.copied(models[0]))
    assert tiny.same(tiny.copied(models[1]), tiny.copied(plain))


def test_it_keeps_the_contract_of_all_methods_and_is_taken_up_at_any_epoch() -> None:
    check_method(TOGETHER, optimizer=SGD)


def test_the_network_that_did_best_is_chosen_from_all_segments_after_the_last_epoch() -> None:
    run = Run.in_memory(Sgd(lr=0.3))
    network = Segmentwise(epochs=8, together=True).fit(tiny.problem(), tiny.chain(), run)
    last = [line["val/acc"] for line in run.lines if line["epoch"] == 7]
    assert run.notes["segment/chosen"] == last.index(max(last))
    assert evaluate(network, tiny.problem().val(), SoftmaxCe())["acc"] == max(last)


def passed(made: Engine) -> tuple[list[int], list[Any]]:
    """Of each segment the most bytes in a real pass after the first, counted as a batch passes: from when its input is there
    until it puts out what the next one takes. And the learners."""
    model, problem = made.chain, made.problem
    learners = {str(i): made.making.learner(i) for i in range(len(made.training.segments))}
    batches = [batch.passed_on(model.input(batch.x)) for batch in problem.train(0)]
    drain_epoch(learners, batches, lambda step: None)  # optimizers have their state now
    first = next(problem.train(1))
    first = Batch(first.x, first.y, first.index.clone())  # else it keeps the order of the whole epoch
    fed = first.passed_on(model.input(first.x))
    peaks = []
    live = LiveStorages()
    for learner in learners.values():
        live.book([*learner.rule.parameters(), *learner.rule.buffers()], "parameter")
        live.book(held(learner.optimizer), "optimizer")
    live.book([first.x, first.y, first.index, fed.x, *model.input.buffers()], "activation")

    def watched(batches: Any) -> Any:
        for batch in batches:
            waiting = [batch]
            del batch
            peaks.append(live.peak)
            live.peak = live.live
            yield waiting.pop()

    waiting = [fed]
    del fed
    flow: Any = (waiting.pop() for _ in range(1))
    with live:
        for learner in learners.values():
            flow = watched(learner.train_epoch(flow))
        for batch in flow:
            del batch
    return peaks, [*learners.values()]


def test_planned_peaks_are_those_of_a_real_pass_to_the_byte() -> None:
    made = engine(tiny.chain(), Run.in_memory(SGD))
    planned, (peaks, learners) = segment_costs(made), passed(made)
    assert peaks == [cost.memory.peak for cost in planned]
    weights = [sum(t.nbytes for t in learner.rule.state_dict().values()) for learner in learners]
    states = [sum(t.nbytes for t in held(learner.optimizer)) for learner in learners]
    assert min(weights) > 0 and min(states) > 0
    for cost in planned:
        assert cost.memory.by_kind["parameter"] == sum(weights) and cost.memory.by_kind["optimizer"] == sum(states)


def test_its_parts_take_less_than_the_whole_and_more_than_one_after_another() -> None:
    problem, model = tiny.problem(batch_size=20), tiny.chain()
    at_once, in_turn = (
        segment_costs(engine(model, Run.in_memory(SGD), method, problem)) for method in (TOGETHER, Segmentwise(epochs=EPOCHS))
    )
    run = Run.in_memory(SGD)
    [whole] = segment_costs(Engine(Backprop().training(problem, model, run), problem, model, run))
    assert max(c.memory.peak for c in in_turn) < max(c.memory.peak for c in at_once) < whole.memory.peak


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 2}, "method.rounds is of segments that take turns"),
        ({"permute": True}, "method.permute is of segments that take turns"),
        ({"patience": 1}, "method.patience is of segments that take turns"),
        ({"epochs": (1, 2)}, "method.epochs: segments that learn together"),
    ],
)
def test_what_speaks_of_turns_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        Segmentwise(**{"epochs": 1, "together": True, **changes}).check(tiny.problem().facts, ArchFacts(3, 1), Hardware())


def test_an_order_of_segments_that_cannot_pass_on_is_refused() -> None:
    def rule(blocks: nn.Sequential, shapes: Any) -> Any:
        raise AssertionError

    plans = [SegmentPlan(i, i + 2, 1, rule) for i in range(2)]
    for order, words in (([Turn(0, 1, 1)], "the one is to begin where the other ends"), ([Turn(0, 1, 2)], "names segment 2")):
        with pytest.raises(ValueError, match=words):
            Training(plans, 0, order)
    with pytest.raises(ValueError, match="share one"):
        Training([SegmentPlan(i, i + 1, 1, rule) for i in range(2)], 0, [Turn(0, 1, 1)], patience=1)


class Uneven(DecisionRule):
    """Whose network is nothing that another could stand on."""

    def predictor(self, chain: Any) -> Any:
        return nn.Sequential(chain, self.decision)


def test_a_rule_whose_network_has_no_blocks_to_stand_on_is_refused_before_a_step() -> None:
    def rule(blocks: nn.Sequential, shapes: Any) -> DecisionRule:
        flat = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(shapes[-1]).prod()), tiny.CLASSES))
        return Uneven(blocks, flat, SoftmaxCe())

    plans = [SegmentPlan(a, b, 1, rule) for a, b in pairwise(range(4))]
    run = Run.in_memory(SGD)
    with pytest.raises(ConfigError, match=r"^method: segments with the rule Uneven cannot learn at once"):
        Engine(Training(plans, 0, list(together(1, 3))), tiny.problem(), tiny.chain(), run).fit()
    assert run.lines == []


def test_where_the_highest_diverges_it_is_said_so_though_the_epoch_ends_early() -> None:
    problem = tiny.problem(train=800, batch_size=8)
    rules = [lambda blocks, shapes: DecisionRule(blocks, tiny_head(shapes), SoftmaxCe())] * 2
    plans = [SegmentPlan(i, i + 1, 1, rule, lr_scale=1e30 if i else 1.0) for i, rule in enumerate(rules)]
    with pytest.raises(Diverged, match=r"segment 2 of 2, epoch 1, step \d+: try a smaller optimizer\.lr$"):
        Engine(Training(plans, 0, list(together(1, 2))), problem, tiny.perceptron(), Run.in_memory(Sgd(lr=0.1))).fit()


def tiny_head(shapes: Any) -> nn.Module:
    return nn.Linear(shapes[-1][0], tiny.CLASSES)
