"""Decision blocks for a memory budget: within it by real steps, the largest that fit, or a refusal that names who misses it."""

import copy
import itertools
import random
import re
from typing import Any

import pytest
import test_memory
import tiny
import torch
from torch import nn

from effdl import config
from effdl.archs.chain import BlockChain
from effdl.costs import budget, outline
from effdl.costs.budget import LEVELS, TOLERANCE, Choice, families
from effdl.costs.memory import LiveStorages
from effdl.costs.segments import segment_costs
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem, cut
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.decision import DownConv
from effdl.training.engine import Engine
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, Optimizer, Sgd

SEED = 20261129  # of the ten cases
SMALL = ("cnn4", "shufflenet_v2_x0_5", "mobilenet_v2", "resnet18", "vgg13_bn")
LARGE = ("efficientnet_b0", "efficientnet_v2_s", "mobilevit_v2", "vgg13", "efficientnet_b1")


def drawn() -> list[tuple[str, float, int, int]]:
    """Ten of (arch, budget, batch size, training samples): of the last batches some are ragged, one has a sample more."""
    generator = random.Random(SEED)
    cases = []
    for i, name in enumerate((*SMALL, *LARGE)):
        budget, size = generator.uniform(0.3, 0.6), generator.choice([6, 8, 12, 16])
        cases.append((name, round(budget, 3), size, size + (1 if i % 5 == 0 else generator.randint(2, size - 1))))
    return cases


def problem(samples: int, size: int, side: int = 32) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, 3, side, side), dtype=torch.uint8, generator=generator)
    data = Samples(x, torch.arange(samples) % 10)
    return Problem(data, data.take(torch.arange(2)), SoftmaxCe(), outputs=10, batch_size=size)


def network(name: str, of: Problem) -> BlockChain:
    reseed(0)
    chain: BlockChain = config.build_choice("arch", name).build(of.facts)
    return chain.eval()


def engine(method: Any, of: Problem, chain: BlockChain, optimizer: Optimizer) -> Engine:
    run = Run.in_memory(optimizer)
    training = method.training(of, chain, run)
    return Engine(training, of, chain, run)


def peak(made: Engine, segment: int, batch: Batch) -> int:
    """Of real training steps, the second of two, the batch's way up included: counted from the outside, over all of it."""
    learner, plan = made.making.learner(segment), made.training.segments[segment]
    made.source.look(made._below(segment))
    frozen = (made.chain.input, *made.chain[: plan.start])

    def fed() -> Any:
        yield made.source._feed(batch)

    for _ in learner.train_epoch(fed()):
        pass
    held = [t for slots in learner.optimizer.state.values() for t in slots.values() if isinstance(t, torch.Tensor)]
    live = LiveStorages()
    live.book([batch.x, batch.y, batch.index, *held], "parameter")
    live.book([t for m in (*frozen, learner.rule) for t in (*m.parameters(), *m.buffers())], "parameter")
    with live:
        for _ in learner.train_epoch(fed()):
            pass
    return live.peak


def shares(name: str, budget: float, size: int, samples: int, optimizer: Optimizer) -> list[float]:
    """Of each segment its real peak over full backprop's, over both sizes of an epoch's batches."""
    of = problem(samples, size)
    chain = network(name, of)
    batches = sorted(of.train(0), key=len)
    ours = engine(Segmentwise(memory_budget=budget, keep_features_mib=0), of, chain, optimizer)
    whole = engine(Backprop(keep_features_mib=0), of, chain, optimizer)
    assert {len(batch) for batch in batches} == {*cut(samples, size)}
    full = max(peak(whole, 0, batch) for batch in batches)
    return [max(peak(ours, i, batch) for batch in batches) / full for i in range(len(ours.training.segments))]


@pytest.mark.parametrize("case", drawn()[:1], ids=str)
def test_real_steps_stay_within_the_budget(case: tuple[str, float, int, int]) -> None:
    within(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", drawn()[1:], ids=str)
def test_real_steps_of_larger_networks_stay_within_the_budget(case: tuple[str, float, int, int]) -> None:
    within(case)


def within(case: tuple[str, float, int, int]) -> None:
    name, budget, size, samples = case
    try:
        found = shares(name, budget, size, samples, Adamw())
    except ConfigError as refused:  # then the least that it names is met, and a little less is not
        budget = told(refused)
        found = shares(name, budget, size, samples, Adamw())
        with pytest.raises(ConfigError, match="least that can be met"):
            shares(name, budget - 0.001, size, samples, Adamw())
    assert max(found) <= budget + TOLERANCE


def told(refused: ConfigError) -> float:
    (least,) = re.findall(r"memory_budget=([\d.]+) is the least that can be met", str(refused))
    return float(least)


def test_of_the_cases_some_have_a_ragged_last_batch_and_some_a_sample_more() -> None:
    last = [cut(samples, size)[-1] - size for _, _, size, samples in drawn()]
    assert min(last) < 0 < max(last)


def decisions(outputs: int, shape: tuple[int, ...], convs: int) -> list[DownConv]:
    """Every decision block that may be chosen."""
    widths = range(8, shape[0] + 1, 8)
    combinations = itertools.product(range(1, convs + 1), widths, (False, True))
    made = [DownConv(convs=k, channels=c, bottleneck=b) for k, c, b in combinations if not b or 2 * c <= shape[0]]
    return [one for one in made if one.convolved(shape) == one.convs] + [DownConv(convs=0)]


def brute(of: Problem, chain: BlockChain, optimizer: Optimizer, convs: int) -> tuple[int, list[dict[Choice, tuple[int, int]]]]:
    """Bytes of full backprop's step, and of each segment, of one block, bytes and weights under every choice, by real steps."""
    whole = engine(Backprop(keep_features_mib=0), of, chain, optimizer)
    (batch,) = of.train(0)
    full, found = peak(whole, 0, batch), []
    for i, shape in enumerate(chain.shapes(of.input_shape)):
        found.append({})
        for decision, checkpoint in itertools.product(decisions(10, shape, convs), (None, "block", "parts", "channels")):
            method = Segmentwise(decision=decision, checkpoint=checkpoint, feed_parts=4, keep_features_mib=0)
            made = engine(method, of, chain, optimizer)
            weights = sum(p.numel() for p in made.making.learner(i).rule.decision.parameters())  # type: ignore[union-attr]
            found[-1][Choice(decision, checkpoint or False)] = (peak(made, i, batch), weights)
    return full, found


@pytest.fixture(scope="module")
def tried() -> tuple[Problem, BlockChain, int, list[dict[Choice, tuple[int, int]]]]:
    of = problem(8, 8, side=12)
    chain = network("cnn4", of)
    return of, chain, *brute(of, chain, Sgd(momentum=0.9), 1)


def searched(budget: float, of: Problem, chain: BlockChain) -> list[Choice]:
    run = Run.in_memory(Sgd(momentum=0.9))
    Segmentwise(memory_budget=budget, decision=DownConv()).training(of, chain, run)
    return [Choice.from_json(one) for one in run.notes["segment/choices"]]


def test_a_budget_that_cannot_be_met_names_the_block_that_needs_the_most_at_the_least(tried: Any) -> None:
    of, chain, full, found = tried
    least = [min(bytes for bytes, _ in one.values()) / full for one in found]
    holder = max(range(len(least)), key=least.__getitem__)
    lowest = max(least) - TOLERANCE
    with pytest.raises(ConfigError, match=rf"{chain.names[holder]} \(segment {holder + 1}\) takes {max(least):.1%}") as refused:
        searched(lowest - 0.002, of, chain)
    assert lowest <= told(refused.value) <= lowest + 0.001
    assert len(searched(told(refused.value), of, chain)) == len(chain)


@pytest.mark.parametrize("above", [0.002, 0.05, 0.2])
def test_the_largest_block_that_fits_is_chosen_with_the_least_recomputation(tried: Any, above: float) -> None:
    of, chain, full, found = tried
    budget = max(min(bytes for bytes, _ in one.values()) / full for one in found) + above
    for one, chosen in zip(found, searched(budget, of, chain), strict=True):
        fits = {choice: weights for choice, (bytes, weights) in one.items() if bytes <= (budget + TOLERANCE) * full}
        level = min(LEVELS.index(choice.checkpoint) for choice in fits)
        most = max(weights for choice, weights in fits.items() if LEVELS.index(choice.checkpoint) == level)
        assert LEVELS.index(chosen.checkpoint) == level
        assert one[chosen][1] == most


@pytest.mark.parametrize("varies", [False, True])
def test_a_run_searches_on_fake_tensors_too_and_finds_what_real_ones_would(monkeypatch: Any, varies: bool, tried: Any) -> None:
    of, chain, full, found = tried
    least = max(min(bytes for bytes, _ in one.values()) / full for one in found)
    on = copy.copy(of)
    on.augment = (lambda x, generator: x.flip(-1)) if varies else None
    seen: list[bool] = []
    choices = budget._Walk.choices
    monkeypatch.setattr(budget._Walk, "choices", lambda walk: seen.append(walk.problem.is_outline) or choices(walk))
    on_fakes = searched(least, on, chain)
    assert seen == [True]
    method = Segmentwise(memory_budget=least, decision=DownConv())
    monkeypatch.setattr(outline, "outline", lambda *_: 1 / 0)
    run = Run.in_memory(Sgd(momentum=0.9))
    method.training(on, chain, run)
    assert seen == [True, False]
    assert [Choice.from_json(one) for one in run.notes["segment/choices"]] == on_fakes
    assert run.notes["memory/backprop_peak_bytes"] <= full


@pytest.mark.parametrize("spans", ["segment_size=2 method.overlap=1", "partitions=2", "segment_size=2"])
def test_segments_of_any_kind_stay_within_the_budget(spans: str) -> None:
    overrides = ["method=dll", "arch=cnn4", "dataset=digits", "dataset.batch_size=512", *f"method.{spans}".split()]
    found = plan.cost(config.build(config.compose([*overrides, "method.memory_budget=0.98"])), rows=())
    assert found is not None and len(found.segment_bytes) > 1
    assert found.share <= 0.98 + TOLERANCE
    assert [len(found.segment_bytes)] == [len(found.trained or [])]


def test_above_a_recording_the_cropped_feednet_counts_alone() -> None:
    """Below the last layer lie two that it does not need where the second is recorded."""
    of, weights = problem(24, 8), []
    for record_at in (None, (2,)):
        chain, run = network("cnn4", of), Run.in_memory(Sgd())
        training = Segmentwise(memory_budget=0.853, record_at=record_at).training(of, chain, run)
        costs = segment_costs(Engine(training, of, chain, run))
        assert max(cost.memory.peak for cost in costs) <= (0.853 + TOLERANCE) * run.notes["memory/backprop_peak_bytes"]
        weights.append([one["weights"] for one in run.notes["segment/choices"]])
    assert weights[0][:2] == weights[1][:2] and weights[0][2] < weights[1][2]


def test_families_hold_every_decision_block_once() -> None:
    shape = (40, 8, 8)
    listed = [one for family in families(DownConv(convs=3), shape) for one in family]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(decisions(10, shape, 3))


@pytest.mark.parametrize("convs", [0, 1, 3])
@pytest.mark.parametrize("shape", [(24, 5, 7), (16, 1, 1), (12,), (9, 30)])
def test_the_weights_of_a_decision_block_are_told_without_building_it(convs: int, shape: tuple[int, ...]) -> None:
    for channels, bottleneck, side in itertools.product((0, 8, 40), (False, True), (1, 2)):
        decision = DownConv(convs=convs, channels=channels, bottleneck=bottleneck, size=side)
        assert decision.weights(shape, 7) == sum(p.numel() for p in decision.build(shape, 7).parameters())


def test_a_bottleneck_comes_before_the_convolutions() -> None:
    made = DownConv(convs=2, channels=8, bottleneck=True).build((64, 8, 8), 10)
    convs = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, *m.kernel_size) for m in convs] == [(64, 8, 1, 1), (8, 8, 3, 3), (8, 8, 3, 3)]
    assert made(torch.rand(2, 64, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    "method",
    [
        Segmentwise(epochs=1, memory_budget=0.95, segment_size=2, checkpoint="parts"),
        pytest.param(Segmentwise(epochs=2, memory_budget=1.0, rounds=2, decision=DownConv(convs=2)), marks=pytest.mark.slow),
    ],
    ids=["parts", "rounds"],
)
def test_a_method_with_a_budget_keeps_what_every_method_promises(method: Segmentwise) -> None:
    check_method(method)


def test_a_run_with_a_budget_that_is_killed_and_resumed_ends_in_the_same_numbers(tmp_path: Any, monkeypatch: Any) -> None:
    spec = config.build(config.compose([
        "arch=cnn4", "dataset=digits", "method=dll", "method.memory_budget=0.7", "method.epochs=1",
        "method.keep_features_mib=0",
        "dataset.train_limit=60", "dataset.val_size=20", "dataset.batch_size=16",
    ]))  # fmt: skip
    whole = carry_out(spec, tmp_path / "whole")
    cut_off = tiny.resumed(spec, tmp_path / "resumed", monkeypatch, 1, 2)
    assert whole["summary"]["segment/choices"] == cut_off["summary"]["segment/choices"]
    assert whole["summary"]["network/sha256"] == cut_off["summary"]["network/sha256"]
    assert whole["summary"]["test/acc"] == cut_off["summary"]["test/acc"]


@pytest.mark.parametrize("budget", ["0", "-0.1", "1.5", ".nan"])
def test_a_budget_out_of_range_is_refused(budget: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.memory_budget"):
        config.build(config.compose(["method=dll", f"method.memory_budget={budget}"]))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("method/decision=vgg", "method.memory_budget=0.5"), "method/decision=down_conv_4"),
        (("method.memory_budget=0.5", "hardware.compile=true"), "hardware.compile=false"),
        (("method.checkpoint=parts", "hardware.compile=true"), "hardware.compile=false"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        config.build(config.compose(["method=dll", "arch=cnn4", "dataset=digits", *overrides]))


def tracked(made: Engine, segment: int, batch: Batch) -> int:
    """The peak of the second of two plain steps, by torch's own tracker, of modules called as they are."""
    learner, plan, parts = made.making.learner(segment), made.training.segments[segment], made.training.feed_parts
    below = nn.Sequential(made.chain.input, *made.chain[: plan.start]).eval()

    class InParts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.empty(0)
            for start in range(0, len(x), size := -(-len(x) // parts)):
                part = below(x[start : start + size])
                if not len(out):
                    out = part.new_empty(len(x), *part.shape[1:])
                out[start : start + size] = part
                del part
            return out

    feednet = InParts()
    feednet.below = below
    return test_memory.oracle(learner, feednet, batch)


@pytest.mark.parametrize("case", [drawn()[0], pytest.param(drawn()[4], marks=pytest.mark.slow)], ids=str)
def test_torchs_memory_tracker_says_the_same(case: tuple[str, float, int, int]) -> None:
    name, budget, size, samples = case
    of = problem(samples, size)
    chain = network(name, of)
    (batch,) = [batch for batch in of.train(0) if len(batch) == max(cut(samples, size))]
    try:
        ours = engine(Segmentwise(memory_budget=budget, keep_features_mib=0), of, chain, Sgd())
    except ConfigError as refused:
        budget = told(refused)
        ours = engine(Segmentwise(memory_budget=budget, keep_features_mib=0), of, chain, Sgd())
    full = test_memory.oracle(engine(Backprop(), of, chain, Sgd()).making.learner(0), chain.input, batch)
    for i in range(len(chain)):
        assert tracked(ours, i, batch) <= (budget + TOLERANCE) * full
