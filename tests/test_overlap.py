"""Segments that overlap (§6.5, figure 6.2): a plain loop's numbers, what lies below stays, plans and kills agree with runs."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from command import numbers, run_here
from torch import nn

from effdl import config
from effdl.archs.chain import BlockChain
from effdl.archs.classifier import Classifier
from effdl.costs import rehearsal
from effdl.costs.segments import segment_costs
from effdl.errors import ConfigError
from effdl.methods.cutting import windows
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.testing import check_method
from effdl.training.decision_rule import DecisionRule
from effdl.training.engine import Engine
from effdl.training.loop import evaluate, reseed
from effdl.training.optim import MultiStep, Sgd
from effdl.training.segments import SegmentPlan, Training

WIDTHS = (1, 4, 5, 6, 4, 5)
BLOCKS = len(WIDTHS) - 1
EPOCHS = 3
SGD = Sgd(lr=0.05, weight_decay=1e-3, momentum=0.9, schedule=MultiStep(milestones=(0.5,)))


def chain(seed: int = 0) -> BlockChain:
    """Five blocks of convolution, batch normalisation, ReLU and dropout."""
    reseed(seed)
    layers = OrderedDict(
        (
            f"conv{i + 1}",
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(0.2)),
        )
        for i, (a, b) in enumerate(pairwise(WIDTHS))
    )
    return BlockChain(layers, Classifier((WIDTHS[-1], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=2), tiny.chain().input)


def seeded(*counters: Any) -> None:
    torch.manual_seed(seed_for(0, *counters))


def reference(spans: list[tuple[int, int]]) -> tuple[nn.Module, list[nn.Module], list[float]]:
    """The sliding window as everybody would write it: blocks, decision layers, and validation accuracy after each segment."""
    problem, model = tiny.problem(), chain().double()
    data, val, heads, scores, past = problem.train_tensors(), problem.val_tensors(), list[nn.Module](), list[float](), 0
    for i, (start, stop) in enumerate(spans):
        seeded("init", i)
        heads.append(Classifier((WIDTHS[stop], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=1).double())
        learned = [*model.blocks[start:stop].parameters(), *heads[i].parameters()]
        optimizer = torch.optim.SGD(learned, lr=0.05, momentum=0.9, weight_decay=1e-3)
        for epoch in range(EPOCHS):
            optimizer.param_groups[0]["lr"] = 0.05 * (0.1 if epoch >= EPOCHS / 2 else 1)
            model.eval()
            model.blocks[start:stop].train()
            index = torch.randperm(40, generator=torch.Generator().manual_seed(seed_for(0, "order", past)))
            for step, batch in enumerate(index.split(8)):
                with torch.no_grad():
                    x = model.blocks[:start](model.input(data.x[batch]))
                seeded("step", i, epoch, step)
                F.cross_entropy(heads[i](model.blocks[start:stop](x)), data.y[batch]).backward()
                optimizer.step()
                optimizer.zero_grad()
            past += 1
        model.eval()
        scores.append((heads[i](model.blocks[:stop](model.input(val.x))).argmax(1) == val.y).double().mean().item())
    return model, heads, scores


SLIDING = [(3, 2), (2, 1), pytest.param(3, 1, marks=pytest.mark.slow), pytest.param(4, 1, marks=pytest.mark.slow)]
ALL_SLIDING = [(3, 2), (3, 1), (2, 1), (4, 3), (4, 1)]


@pytest.mark.parametrize("keep_features_mib", [0.0, pytest.param(100.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("size", "overlap"), SLIDING)
def test_states_are_a_plain_loops(size: int, overlap: int, keep_features_mib: float) -> None:
    spans = windows(BLOCKS, size, overlap)
    model, heads, scores = reference(spans)
    ours, run = chain().double(), Run.in_memory(SGD)
    method = Segmentwise(epochs=EPOCHS, segment_size=size, overlap=overlap, choose="last", keep_features_mib=keep_features_mib)
    network = method.fit(tiny.problem(), ours, run)
    assert [line["val/acc"] for line in run.lines][EPOCHS - 1 :: EPOCHS] == pytest.approx(scores)
    torch.testing.assert_close(ours.blocks.state_dict(), model.blocks.state_dict(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network.head.state_dict(), heads[-1].state_dict(), rtol=1e-10, atol=1e-12)


def test_windows_end_with_the_last_block_and_none_lies_within_another() -> None:
    assert windows(5, 3, 2) == [(0, 3), (1, 4), (2, 5)]
    assert windows(5, 2, 1) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert windows(6, 4, 1) == [(0, 4), (3, 6)]  # the last is shorter, as it is without overlap
    assert windows(7, 3, 0) == [(0, 3), (3, 6), (6, 7)]
    for blocks in range(1, 12):
        for size in range(1, 14):
            for overlap in range(size):
                found = windows(blocks, size, overlap)
                assert found[0][0] == 0 and found[-1][1] == blocks
                assert all(b[0] - a[0] == size - overlap and b[1] > a[1] > b[0] - (overlap == 0) for a, b in pairwise(found))
                assert all(stop - start == size for start, stop in found[:-1]) and found[-1][1] - found[-1][0] <= size


def test_limit_size_one_without_overlap_is_deep_layer_wise_learning() -> None:
    networks = [
        method.fit(tiny.problem(), chain(), Run.in_memory(SGD)).state_dict()
        for method in (
            config.build_choice("method", "dll"),
            Segmentwise(epochs=5, segment_size=1, overlap=0),
        )
    ]
    assert tiny.same(*networks)


@pytest.mark.parametrize(("size", "overlap"), SLIDING)
def test_what_lies_below_a_segment_stays_still_weights_and_buffers(size: int, overlap: int) -> None:
    model = chain()
    run = tiny.WatchedRun(Run.in_memory(Sgd(lr=0.1)), model, tiny.problem().val_tensors().x)
    Segmentwise(epochs=2, segment_size=size, overlap=overlap, choose="last").fit(tiny.problem(), model, run)
    states, spans = [tiny.copied(chain()), *(state for _, state in run.epochs)], windows(BLOCKS, size, overlap)
    assert [segment for segment, _ in run.epochs] == [i for i in range(len(spans)) for _ in range(2)]
    for (before, after), (segment, _) in zip(pairwise(states), run.epochs, strict=True):
        moved = {int(key.split(".")[1][-1]) - 1 for key in after if not torch.equal(before[key], after[key])}
        assert moved == set(range(*spans[segment]))


def test_it_keeps_the_contract_of_all_methods() -> None:
    check_method(Segmentwise(epochs=1, segment_size=4, overlap=2, input_dropout=0.3), network=chain)


SPOILT = 6  # epochs of a turn, whose rates grow so fast that upper segments spoil what lower ones have learned


class Remembering:
    """A run that keeps a copy of each network that it is to test whole, as it is then, with its validation score."""

    def __init__(self, inner: Run, model: Any, spans: list[tuple[int, int]]) -> None:
        self.inner, self.model, self.spans = inner, model, spans
        self.states: list[tuple[float, dict[str, Any], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def test(self, local: Any, segment: int, epoch: int, last: bool, *more: Any) -> None:
        if (epoch + 1) % SPOILT == 0:  # a turn's last
            blocks = tiny.copied(self.model.cropped(self.spans[segment][1]).blocks)
            self.states.append((self.inner.lines[-1]["val/acc"], blocks, tiny.copied(local.head)))


@pytest.mark.parametrize(
    ("size", "overlap", "rounds"), [(3, 2, 1), (2, 1, 1), (3, 2, 2), pytest.param(2, 1, 3, marks=pytest.mark.slow)]
)
def test_the_best_network_is_kept_as_it_was_while_later_ones_change_its_blocks(size: int, overlap: int, rounds: int) -> None:
    model, spans = chain(), windows(BLOCKS, size, overlap)
    run = Remembering(Run.in_memory(Sgd(lr=0.05, momentum=0)), model, spans)
    method = Segmentwise(epochs=SPOILT, segment_size=size, overlap=overlap, rounds=rounds, lr_factor=6.0)
    network = method.fit(tiny.problem(), model, run)
    scores = [score for score, *_ in run.states]
    best = scores.index(max(scores))
    assert best < len(scores) - 1 and run.notes["segment/chosen"] < len(spans) - 1, "nothing came after the best"
    _, blocks, head = run.states[best]
    assert any(not tiny.same(blocks[k], state[k]) for _, state, _ in run.states[best + 1 :] for k in blocks if k in state)
    assert tiny.same(blocks, tiny.copied(network.blocks)) and tiny.same(head, tiny.copied(network.head))
    assert evaluate(network, tiny.problem().val(), tiny.problem().objective)["acc"] == scores[best]


DIGITS = (
    "dataset=digits",
    "dataset.train_limit=200",
    "arch.widths=[4,5,6,5]",
    "arch.size=16",
    "dataset.batch_size=50",
    "hardware.threads=1",
)
OVER = ("method=dll", "method.segment_size=3", "method.overlap=2", "method.epochs=2")
HARD = ("method.input_dropout=0.4", "optimizer=adamw")


@pytest.mark.parametrize(
    ("choose", "keep_features_mib"),
    [
        ("validation", 0.4),
        ("last", 0),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("validation", 0), ("last", 100))),
    ],
)
def test_stopped_at_any_turn_and_resumed_it_ends_in_the_same_numbers(
    keep_features_mib: float, choose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [f"method.keep_features_mib={keep_features_mib}", f"method.choose={choose}", "method.lr_factor=20"]
    spec = config.build(config.compose([*OVER, *HARD, *DIGITS, *given]))
    alone = carry_out(spec, tmp_path / "alone")
    again = tiny.resumed(spec, tmp_path / "again", monkeypatch, 1, 2, 3, 4)
    assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))
    if choose == "validation":
        assert again["summary"]["segment/chosen"] == 0, "the later segment was to spoil the first one's blocks"


# --- what it takes


def costs_of(method: Segmentwise, optimizer: Sgd = SGD) -> list[Any]:
    problem, model, run = tiny.problem(), chain(), Run.in_memory(optimizer)
    return segment_costs(Engine(method.training(problem, model, run), problem, model, run))


CONV = [4 * (9 * a * b + 2 * b) for a, b in pairwise(WIDTHS)]  # convolution, and scale and shift of the normalisation
NORM = [4 * 2 * b + 8 for b in WIDTHS[1:]]  # running statistics
HEAD = [4 * (b + 1) * tiny.CLASSES for b in WIDTHS[1:]]


@pytest.mark.parametrize(("size", "overlap"), ALL_SLIDING)
def test_memory_beside_a_step_is_what_is_not_needed_yet_and_a_copy_of_the_best_as_far_as_it_changes(
    size: int, overlap: int
) -> None:
    weights = [c + n for c, n in zip(CONV, NORM, strict=True)]
    of_chain = sum(t.nbytes for t in chain().head.state_dict().values())  # which nobody trains
    spans, copies = windows(BLOCKS, size, overlap), [0]
    for (_, stop), (start, _) in pairwise(spans):
        copies.append(max(copies[-1], sum(weights[start:stop]) + HEAD[stop - 1]))
    for cost, (start, stop), copy in zip(costs_of(Segmentwise(segment_size=size, overlap=overlap)), spans, copies, strict=True):
        assert (cost.start, cost.stop) == (start, stop)
        assert cost.idle_bytes == of_chain + sum(weights[stop:]) + copy
        assert cost.memory.by_kind["parameter"] == sum(weights[start:stop]) + HEAD[stop - 1]
        assert cost.memory.by_kind["optimizer"] == sum(CONV[start:stop]) + HEAD[stop - 1]
        assert cost.below_bytes == sum(weights[:start]) + sum(t.nbytes for t in chain().input.state_dict().values())
        assert cost.feature_bytes == 4 * tiny.SIDE**2 * WIDTHS[start]


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("method.keep_features_mib=0",),
        pytest.param(("method.keep_features_mib=0.4",), marks=pytest.mark.slow),
        pytest.param(("method.rounds=3",), marks=pytest.mark.slow),
    ],
)
def test_planned_bytes_are_those_of_real_steps_and_of_the_record(more: tuple[str, ...], tmp_path: Path) -> None:
    asked = config.build(config.compose([*OVER, *DIGITS, *more]))
    planned = plan.cost(asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "form_of", lambda *modules: None)  # each segment's own, those of one form too
        real = plan._rehearse(asked, 1)
    summary = carry_out(asked, tmp_path)["summary"]
    assert planned is not None and len(planned.segment_bytes) == 2
    recorded = {key: value for key, value in planned.to_json().items() if key in summary}
    assert recorded == {key: summary[key] for key in recorded} and len(recorded) >= 8
    assert planned.segment_bytes == real["memory/segment_peak_bytes"]
    assert planned.resident_bytes == real["memory/resident_peak_bytes"]


def test_a_weight_of_two_blocks_is_refused_where_they_do_not_always_learn_together() -> None:
    def tied() -> BlockChain:
        layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)]
        layers[2][0].weight = layers[1][0].weight
        return BlockChain(layers, nn.Linear(4, 2))

    def rule(blocks: nn.Sequential, shape: tuple[int, ...]) -> DecisionRule:
        return DecisionRule(blocks, nn.Linear(4, 2), SoftmaxCe())

    def engine(*spans: tuple[int, int]) -> Engine:
        plans = [SegmentPlan(*span, 1, rule) for span in spans]
        return Engine(Training(plans, 0), tiny.problem(), tied(), Run.in_memory(SGD))

    for spans, pair in (
        (((0, 2), (1, 3), (2, 4)), "1 and 2"),
        (((0, 3), (2, 4)), "1 and 2"),
        (((0, 1), (1, 2), (2, 4)), "2 and 3"),
    ):
        with pytest.raises(ConfigError, match=rf"^arch: segments {pair} share the weight 2\.0\.weight"):
            engine(*spans)
    for together in (((0, 3), (1, 4)), ((0, 3), (1, 3), (1, 4)), ((0, 1), (1, 3), (3, 4))):
        with pytest.raises(ConfigError, match="does not take what samples"):  # past the refusal: they are no rows of four
            engine(*together)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("method.overlap=1",), "method.overlap=1: segments of method.segment_size=1 would never climb"),
        (("method.segment_size=2", "method.overlap=3"), "method.overlap=3: segments of method.segment_size=2"),
        (("method.segment_size=2", "method.overlap=-1"), "method.overlap: "),
    ],
)
def test_overlaps_that_cannot_be_are_said_in_one_line(
    given: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here("method=dll", *given) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "results").exists()
