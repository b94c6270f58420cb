"""The test split through kept features: the whole network's numbers, each block called once, nothing measured twice."""

import gc
import json
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.config import build, compose
from effdl.costs.seconds import EPOCH_S, measuring_seconds, training_seconds
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import build_network, carry_out, open_problem
from effdl.records.measure import Measure, key_of
from effdl.records.run import Run
from effdl.training.features import Stack
from effdl.training.handle import Memory, SegmentCost
from effdl.training.loop import evaluate
from effdl.training.optim import Sgd

TEST, BATCH = 21, 8
FEATURES = [TEST * width * tiny.SIDE**2 * 4 for width in tiny.WIDTHS]  # bytes at the input of each segment, and above


class Whole:
    """A run that also measures the whole network of each test by hand, on raw test images."""

    def __init__(self, inner: Run, model: BlockChain, test: Any, plans: list[tuple[int, int]]) -> None:
        self.inner, self.model, self.data, self.plans = inner, model, test, plans
        self.expected: list[dict[str, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def test(self, local: BlockChain, segment: int, epoch: int, last: bool, below: Stack, keep_bytes: int) -> None:
        start, stop = self.plans[segment]
        assert [id(b) for b in local.blocks] == [id(b) for b in self.model[start:stop]]
        assert [id(m) for m in below.modules] == [id(m) for m in (self.model.input, *self.model[:start])]
        network = nn.Sequential(self.model.input, *self.model[:stop], local.head)
        before = len(self.inner.lines)
        self.inner.test(local, segment, epoch, last, below, keep_bytes)
        if len(self.inner.lines) > before:
            self.expected.append(evaluate(network, self.data.batches(BATCH), SoftmaxCe()))


def on_test(run: Any) -> list[dict[str, float]]:
    return [{k[5:]: v for k, v in line.items() if k.startswith("test/")} for line in run.lines if "test/loss" in line]


BOUNDS = [0, FEATURES[0], FEATURES[1], FEATURES[1] + FEATURES[2], FEATURES[2] + FEATURES[3], 2**30]


@pytest.mark.parametrize("test_every", ["epoch", "segment", "run"])
@pytest.mark.parametrize("keep_bytes", BOUNDS)
@pytest.mark.parametrize(
    ("method", "plans"),
    [
        (Segmentwise(epochs=2), [(0, 1), (1, 2), (2, 3)]),
        (Segmentwise(epochs=2, segment_size=2, choose="last"), [(0, 2), (2, 3)]),
        (Backprop(epochs=2), [(0, 3)]),
    ],
    ids=["layers", "pairs", "backprop"],
)
def test_numbers_are_the_whole_networks_bit_for_bit_at_every_segment(
    method: Any, plans: list[tuple[int, int]], keep_bytes: int, test_every: str
) -> None:
    model, data = tiny.chain(), tiny.images(TEST, 3)
    inner = Run(0, Sgd(lr=0.05), test=data, objective=SoftmaxCe(), batch_size=BATCH, test_every=test_every)
    run = Whole(inner, model, data, plans)
    network = replace(method, keep_features_mib=keep_bytes / 2**20).fit(tiny.problem(), model, run)
    assert len(run.expected) == {"epoch": 2, "segment": 1, "run": 0}[test_every] * len(plans)
    assert on_test(run) == run.expected
    summary = inner.summary(network, [])
    assert {k: summary[f"test/{k}"] for k in ("loss", "acc")} == evaluate(network, data.batches(BATCH), SoftmaxCe())


CALLS: Counter[int] = Counter()


class Gate(nn.Module):
    """The identity; counts its calls while the run looks at the test split. Not a hook: those make a block hard to tell."""

    looking = False

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        CALLS[self.place] += Gate.looking and len(x) > 1  # one sample only asks for its features' size
        return x


def gated() -> BlockChain:
    model = tiny.chain()
    model.input = nn.Sequential(model.input, Gate(0))
    for i, block in enumerate(model.blocks, 1):
        block.append(Gate(i))
    return model


@pytest.mark.parametrize(
    ("test_every", "choose", "keep_features_mib", "expected"),
    [
        # The input block and three blocks: with "segment" each is called once, and for the summary not again.
        ("segment", "last", 1, [1, 1, 1, 1]),
        ("segment", "validation", 1, [1, 1, 1, 1]),
        ("epoch", "last", 1, [1, 2, 2, 2]),
        ("run", "last", 1, [1, 1, 1, 1]),
        ("segment", "last", 0, [3, 3, 2, 1]),  # nothing is kept: the networks of one, two and three blocks
        ("epoch", "validation", 0, [6, 6, 4, 2]),
    ],
)
def test_how_often_the_test_split_passes_each_block(
    test_every: str, choose: Any, keep_features_mib: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(call: Callable[..., Any]) -> Callable[..., Any]:
        def looking(*args: Any, **more: Any) -> Any:
            Gate.looking = True
            try:
                return call(*args, **more)
            finally:
                Gate.looking = False

        return looking

    for name in ("above", "whole"):
        monkeypatch.setattr(Measure, name, look(getattr(Measure, name)))
    CALLS.clear()
    run = Run(0, Sgd(lr=0.05), test=tiny.images(TEST, 3), objective=SoftmaxCe(), batch_size=BATCH, test_every=test_every)
    method = Segmentwise(epochs=2, choose=choose, keep_features_mib=keep_features_mib)
    run.summary(method.fit(tiny.problem(), gated(), run), [])
    assert [CALLS[place] for place in range(4)] == [3 * times for times in expected]  # 21 samples in batches of 8


# --- what has been measured is not measured twice, and nothing else is taken for it


class Scale(nn.Module):
    """A layer whose output depends on more than tensors."""

    def __init__(self, factor: Any = 2.0, function: Any = None) -> None:
        super().__init__()
        self.factor, self.function = factor, function
        self.register_buffer("hidden", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.factor * self.hidden
        return x if self.function is None else self.function(x)


def vectors(*scale: Any) -> BlockChain:
    torch.manual_seed(0)
    return BlockChain([nn.Sequential(nn.Linear(36, 5), Scale(*scale)), nn.Linear(5, 4)], nn.Linear(4, 3), nn.Flatten()).eval()


def below(model: BlockChain, start: int) -> Stack:
    """What lies below a segment that begins with this block, each trained for an epoch."""
    return Stack((model.input, *model.blocks[:start]), (0, *[1] * start))


def measured(model: BlockChain) -> tuple[Measure, list[int]]:
    """A test split on which the network was measured in two parts, and a list that grows with each later measurement."""
    data = tiny.images(TEST, 3)
    measure = Measure(type(data)(data.x.float(), data.y), SoftmaxCe(), BATCH)
    measure.above(BlockChain([model.blocks[1]], model.head), True, below(model, 1), 2**20)
    counted: list[int] = []
    numbers = measure._numbers
    measure._numbers = lambda *args: counted.append(1) or numbers(*args)  # type: ignore[method-assign, func-returns-value]
    return measure, counted


def by_hand(model: nn.Module) -> dict[str, float]:
    data = tiny.images(TEST, 3)
    return {f"test/{k}": v for k, v in evaluate(model, type(data)(data.x.float(), data.y).batches(BATCH), SoftmaxCe()).items()}


def test_a_network_that_was_measured_in_parts_is_remembered_whole() -> None:
    model = vectors()
    measure, counted = measured(model)
    for again in (model, vectors(), nn.Sequential(model.input, *model.blocks, nn.Sequential(model.head))):
        assert measure.whole(again) == by_hand(model)
    assert counted == []


def changed_weight(model: BlockChain) -> None:
    with torch.no_grad():
        model.blocks[0][0].weight[0, 0] += 1e-3


def changed_order(model: BlockChain) -> None:
    model.blocks.append(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


CHANGES: dict[str, Callable[[BlockChain], Any]] = {
    "weight": changed_weight,
    "attribute": lambda m: setattr(m.blocks[0][1], "factor", 3.0),
    "type of an attribute": lambda m: setattr(m.blocks[0][1], "factor", torch.tensor(3.0)),
    "function": lambda m: setattr(m.blocks[0][1], "function", torch.tanh),
    "unsaved buffer": lambda m: m.blocks[0][1].hidden.fill_(0.5),
    "hook": lambda m: m.blocks[1].register_forward_hook(lambda module, args, out: out * 3),
    "hook on the chain": lambda m: m.register_forward_hook(lambda module, args, out: out * 3),
    "hook on the blocks": lambda m: m.blocks.register_forward_pre_hook(lambda module, args: (args[0] * 3,)),
    "activation": lambda m: m.blocks[0].append(nn.ReLU()),
    "shape of an attribute": lambda m: setattr(m, "input", nn.Sequential(nn.Flatten(), nn.Threshold(50.0, 0.0))),
    "more blocks": changed_order,
    "forward": lambda m: setattr(m.head, "forward", lambda x: torch.roll(x @ m.head.weight.T, 1, 1)),
    "class": lambda m: setattr(m.blocks[1], "__class__", type("Linear", (nn.Linear,), {"forward": lambda s, x: x[:, :4]})),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_network_that_differs_in_anything_is_measured(change: Callable[[BlockChain], Any]) -> None:
    measure, counted = measured(vectors())
    other = vectors()
    change(other)
    assert measure.whole(other) == by_hand(other) != by_hand(vectors())
    assert counted == [1]


def test_a_network_that_cannot_be_told_is_never_remembered() -> None:
    state = {"factor": 1.0}
    model = vectors(2.0, lambda x: x * state["factor"])
    measure, counted = measured(model)
    assert key_of(model) is None and key_of(vectors()) is not None
    state["factor"] = -1.0
    assert measure.whole(model) == by_hand(model)
    assert counted == [1]


def test_blocks_that_change_after_they_were_measured_are_called_again() -> None:
    for touch in (False, True):
        model = vectors()
        data = tiny.images(TEST, 3)
        measure = Measure(type(data)(data.x.float(), data.y), SoftmaxCe(), BATCH)
        measure.above(BlockChain([model.blocks[0]], nn.Linear(5, 3)), True, below(model, 0), 2**20)
        if touch:
            changed_weight(model)
        assert measure.above(BlockChain([model.blocks[1]], model.head), True, below(model, 1), 2**20) == by_hand(model)


def test_features_that_a_head_overwrites_are_not_kept() -> None:
    model = vectors()
    data = tiny.images(TEST, 3)
    measure = Measure(type(data)(data.x.float(), data.y), SoftmaxCe(), BATCH)
    spoiling = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3))
    measure.above(BlockChain([model.blocks[0]], spoiling), True, below(model, 0), 2**20)
    assert measure.above(BlockChain([model.blocks[1]], model.head), True, below(model, 1), 2**20) == by_hand(model)


def test_test_images_move_no_statistics_of_blocks_that_were_left_in_training_mode() -> None:
    model = tiny.chain().train()
    before = tiny.copied(model)
    measure = Measure(tiny.images(TEST, 3), SoftmaxCe(), BATCH)
    measure.above(BlockChain([model.blocks[1]], nn.Sequential(nn.Flatten(), nn.Linear(180, 3))), True, below(model, 1), 2**20)
    assert all(m.training for m in model.modules())
    assert tiny.same(before, model.state_dict())


def test_kept_features_stay_within_their_bound_and_are_gone_with_the_summary() -> None:
    model = tiny.chain().eval()
    bound = FEATURES[2] + FEATURES[3] - 1  # each fits alone, the last two not together
    measure, refs, most = Measure(tiny.images(TEST, 3), SoftmaxCe(), BATCH), [], 0
    for i, block in enumerate(model.blocks):
        head = nn.Sequential(nn.Flatten(), nn.Linear(tiny.WIDTHS[i + 1] * tiny.SIDE**2, 3))
        measure.above(BlockChain([block], head), True, below(model, i), bound)
        refs += [weakref.ref(b.x) for b in measure._through.splits[0].batches(BATCH)]
        most = max(most, measure.kept_bytes + sum(x.nbytes for x in (measure._ahead or (None, None, []))[2]))
    assert FEATURES[2] <= most <= bound
    measure.whole(model)
    gc.collect()
    assert measure.kept_bytes == 0
    assert {ref() is not None for ref in refs if ref() is None or ref().dtype != torch.uint8} == {False}


def test_a_resumed_run_tells_the_same_test_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ["arch=cnn4", "method.epochs=2", "dataset.train_limit=200", "dataset.batch_size=50", "test_every=segment"]
    spec = build(compose(quick))
    alone = carry_out(spec, tmp_path / "alone")
    tiny.interrupt_at_saves(monkeypatch, 2, 5)  # the end of the first segment, the middle of the third
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            carry_out(spec, tmp_path / "killed")
    killed = carry_out(spec, tmp_path / "killed")

    def tests(result: dict[str, Any]) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in (Path(result["path"]) / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if "test/loss" in line]

    assert len(tests(alone)) == 3
    assert tests(killed) == tests(alone)
    for key in ("test/loss", "test/acc", "network/sha256", "test/acc_best_segment"):
        assert killed["summary"][key] == alone["summary"][key]


# --- what it will cost


def cost(feed_s: float, segment: int = 0, feature_bytes: int = 1) -> SegmentCost:
    return SegmentCost(
        start=segment, stop=segment + 1, epochs=4, turns=((segment, 4),), batches=10, steps=5, fed_steps=5, val_steps=2,
        feed_s=feed_s, step_s=3.0, memory=Memory(0, {}), idle_bytes=0, filter_bytes=0, feature_bytes=feature_bytes,
        below_bytes=0, feednet_bytes=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("test_every", "fits", "expected"),
    [
        # forward through segment and decision block 1 s a batch, prefixes 0, 10 and 20 s, seven batches
        ("run", True, [0, 0, 7 * 21]),
        ("segment", True, [7, 7, 7]),
        ("epoch", True, [4 * 7, 4 * 7, 4 * 7]),
        ("segment", False, [7, 7 * 11, 7 * 21]),
        ("epoch", False, [4 * 7, 4 * 7 * 11, 4 * 7 * 21]),
    ],
)
def test_expected_seconds_of_measuring(test_every: str, fits: bool, expected: list[float]) -> None:
    costs = [cost(0.0), cost(10.0, 1), cost(20.0, 2)]
    assert measuring_seconds(costs, 50, 7, test_every, 1000 if fits else 0) == expected


def test_expected_seconds_of_samples_that_are_made_anew_are_those_of_keeping_nothing_and_of_one_measurement_more() -> None:
    costs = [cost(0.0), cost(10.0, 1), cost(20.0, 2)]
    assert measuring_seconds(costs, 50, 7, "epoch", 1000, changes=True) == [4 * 7, 4 * 7 * 11, 4 * 7 * 21 + 7 * 21]
    assert measuring_seconds(costs, 50, 7, "run", 1000, changes=True) == [0, 0, 7 * 21]


def test_expected_seconds_begin_where_features_were_last_kept() -> None:
    costs = [cost(0.0, 0, 1), cost(10.0, 1, 9), cost(20.0, 2, 2)]
    # the second is too large: fed from the first. The third's are what the last measurement before it has made on its way.
    assert measuring_seconds(costs, 50, 7, "epoch", 50 * 4) == [4 * 7, 4 * 7 * 11, 4 * 7]
    # Where that did not end where it begins, keeping them takes the 20 s above the first once.
    costs[1] = replace(costs[1], stop=3)
    assert measuring_seconds(costs, 50, 7, "epoch", 50 * 4) == [4 * 7, 4 * 7 * 11, 4 * 7 + 7 * 20]


def test_expected_seconds_of_training_count_what_a_filter_leaves_and_only_the_blocks_above_what_is_stored() -> None:
    kept = replace(cost(20.0), made_s=5.0)  # above what was stored, once
    # 4 epochs of 5 steps of 3 s and 2 validation batches of 1 s; once 10 + 2 batches through 5 s of the prefix
    assert training_seconds(kept) == 4 * (EPOCH_S + 5 * 3 + 2 * 1) + 12 * 5
    fed = replace(cost(20.0), fed_s=5.0)
    assert training_seconds(fed) == 4 * (EPOCH_S + 5 * (3 + 5) + 2 * (1 + 5))
    assert training_seconds(replace(fed, fed_steps=10)) == 4 * (EPOCH_S + 5 * 3 + 10 * 5 + 2 * (1 + 5))


@pytest.mark.parametrize("arch", ["cnn4", "vgg13_bn"])
def test_real_networks_can_be_told(arch: str) -> None:
    spec = build(compose([f"arch={arch}", "dataset.train_limit=200"]))
    model = build_network(spec, open_problem(spec, *spec.dataset.load()), torch.device("cpu"))
    assert key_of(model) == key_of(model.input, *model.blocks, model.head) is not None
