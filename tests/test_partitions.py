"""Partitions (§6.8): cuts that are the best there are, by brute force; their limits, orders and plans; epochs that grow."""

import random
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import numbers, run_here
from test_overlap import BLOCKS, WIDTHS, chain
from torch import nn

from effdl import config
from effdl.archs.chain import ArchFacts
from effdl.archs.classifier import Classifier
from effdl.costs.cut import Peaks, balanced, by_cost, by_memory, multiply_adds
from effdl.costs.segments import segment_costs
from effdl.datasets.digits import Digits
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.cutting import Span, evenly
from effdl.methods.segmentwise import Segmentwise
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.reproduce.planned import cost_of_run
from effdl.rng import seed_for
from effdl.testing import check_method
from effdl.training.decision import DownConv, Pool
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, Sgd
from effdl.training.orders import together
from effdl.training.segments import Training

CUTS = ("depth", "cost", "memory", "batch")
SGD = Sgd(lr=0.05)


def all_cuts(blocks: int, parts: int) -> Iterator[list[Span]]:
    for within in combinations(range(1, blocks), parts - 1):
        yield list(pairwise((0, *within, blocks)))


def test_a_cut_is_the_least_there_is_and_of_those_the_most_even_by_brute_force() -> None:
    draw, asked, pairs = random.Random(0), 0, 0
    for _ in range(150):
        blocks = draw.randint(1, 8)
        parts = draw.randint(1, blocks)
        weights = {(a, b): draw.randint(1, 9) for a in range(blocks) for b in range(a + 1, blocks + 1)}
        bounds = {span: weight * draw.uniform(0.5, 1.0) for span, weight in weights.items()}
        calls: list[Span] = []

        def weigh(a: int, b: int, weights: dict[Span, int] = weights, calls: list[Span] = calls) -> float:
            calls.append((a, b))
            return weights[a, b]

        def key(spans: list[Span], weights: dict[Span, int] = weights) -> tuple[int, int]:
            return max(weights[span] for span in spans), sum(weights[span] ** 2 for span in spans)

        best = min(map(key, all_cuts(blocks, parts)))
        for bound in (None, lambda a, b, bounds=bounds: bounds[a, b]):
            calls.clear()
            found = balanced(blocks, parts, weigh, bound)
            assert found[0][0] == 0 and found[-1][1] == blocks and all(a[1] == b[0] for a, b in pairwise(found))
            assert len(found) == parts and key(found) == best
        assert len(calls) == len(set(calls))
        asked, pairs = asked + len(calls), pairs + len(weights)
    assert asked < 0.8 * pairs, "bounds were to spare some weighing"


def test_depth_cuts_as_evenly_as_it_goes_and_efficientnet_v2_s_into_four_times_ten() -> None:
    arch = config.build_choice("arch", "efficientnet_v2_s")
    assert evenly(arch.facts(config.build_choice("dataset", "cifar10").facts()).blocks, 4) == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 40),
    ]
    assert evenly(10, 4) == [(0, 2), (2, 5), (5, 7), (7, 10)]
    for blocks in range(1, 30):
        for parts in range(1, blocks + 1):
            sizes = [stop - start for start, stop in evenly(blocks, parts)]
            assert sum(sizes) == blocks and len(sizes) == parts and max(sizes) - min(sizes) <= 1


def test_cost_is_multiply_adds_as_counted_by_hand() -> None:
    model, problem = chain(), tiny.problem()
    by_hand = [9 * a * b * tiny.SIDE**2 for a, b in pairwise(WIDTHS)]  # a convolution's, with one zero beyond each edge
    assert multiply_adds(model, problem) == by_hand
    costs = {tuple(cut): max(sum(by_hand[a:b]) for a, b in cut) for cut in all_cuts(BLOCKS, 3)}
    assert costs[tuple(by_cost(3, problem, model))] == min(costs.values())
    linear = config.build_choice("arch", "mlp").build(problem.facts)
    sizes = [sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Linear)) for block in linear.blocks]
    assert multiply_adds(linear, problem) == sizes


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        (Segmentwise(partitions=3), SGD),
        (Segmentwise(partitions=2, checkpoint="parts", feed_parts=2), SGD),
        (Segmentwise(partitions=2, decision=DownConv(convs=2, channels=40), input_dropout=0.5), Adamw()),
    ],
    ids=["pool, sgd", "recomputed, fed in parts", "large decision, adamw"],
)
def test_memory_has_the_least_largest_step_of_all_cuts(method: Segmentwise, optimizer: Any) -> None:
    problem, model, run = tiny.problem(), chain(), Run.in_memory(optimizer)

    def costs(spans: list[Span]) -> list[int]:
        training = Training([method._plan(i, span, problem) for i, span in enumerate(spans)], 0, feed_parts=method.feed_parts)
        return [cost.memory.peak for cost in segment_costs(Engine(training, problem, model, run))]

    parts = method.partitions or 1
    largest = {tuple(cut): max(costs(cut)) for cut in all_cuts(BLOCKS, parts)}
    before, found = (
        tiny.copied(model),
        by_memory(parts, lambda a, b: method._plan(a, (a, b), problem), problem, model, run, method.feed_parts),
    )
    assert largest[tuple(found)] == min(largest.values()) < max(largest.values())
    assert tiny.same(before, tiny.copied(model))
    peaks = Peaks(lambda a, b: method._plan(a, (a, b), problem), problem, model, run, method.feed_parts)  # real
    assert [peaks.count(*span) for span in found] == costs(found)
    assert all(peaks.bound(a, b) <= peaks.count(a, b) for a in range(BLOCKS) for b in range(a + 1, BLOCKS + 1))


@pytest.mark.parametrize(("record_at", "parts"), [((3,), 3), ((2,), 4), ("all", 3)], ids=str)
def test_memory_cuts_at_what_is_recorded_and_counts_the_cropped_feednet_above(record_at: Any, parts: int) -> None:
    problem, model, run = tiny.problem(), chain(), Run.in_memory(SGD)
    method = Segmentwise(partitions=parts, cut="memory", record_at=record_at, store="disk")

    def largest(spans: tuple[Span, ...]) -> int:
        at = frozenset(i for i, (_, stop) in enumerate(spans[:-1]) if record_at == "all" or stop in record_at)
        training = Training([method._plan(i, span, problem) for i, span in enumerate(spans)], 0, record=at, store="disk")
        return max(cost.memory.peak for cost in segment_costs(Engine(training, problem, model, run)))

    ends = set() if record_at == "all" else set(record_at)
    cuts = [tuple(cut) for cut in all_cuts(BLOCKS, parts) if ends <= {stop for _, stop in cut}]
    by_hand = {cut: largest(cut) for cut in cuts}
    training = method.training(problem, model, run)
    found = tuple((plan.start, plan.stop) for plan in training.segments)
    assert by_hand[found] == min(by_hand.values()) < max(by_hand.values())
    assert len(training.record) == (parts - 1 if record_at == "all" else len(record_at))
    assert (method.version(), Segmentwise(partitions=parts, cut="memory").version()) == (3, 2)


@pytest.mark.parametrize(
    ("record_at", "words"),
    [((1, 2), "of 2 partitions 1 end below another one, and 2 layers are named"), ((5,), "layer 5 has none above it")],
)
def test_layers_at_whose_ends_nothing_can_be_cut_are_refused(record_at: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^method\.record_at: {words}"):
        Segmentwise(partitions=2, cut="memory", record_at=record_at).check(tiny.problem().facts, ArchFacts(5, 1), Hardware())


def test_batch_has_the_least_largest_step_of_partitions_that_learn_at_once_of_all_cuts() -> None:
    problem, model, run, method = tiny.problem(), chain(), Run.in_memory(SGD), Segmentwise(partitions=3, together=True)

    def most(spans: list[Span]) -> int:
        plans = [method._plan(i, span, problem) for i, span in enumerate(spans)]
        training = Training(plans, 0, tuple(together(plans[0].epochs, len(plans))))
        return max(cost.memory.peak for cost in segment_costs(Engine(training, problem, model, run)))

    largest = {tuple(cut): most(cut) for cut in all_cuts(BLOCKS, 3)}
    found = by_memory(3, lambda a, b: method._plan(a, (a, b), problem), problem, model, run, of_batch=True)
    assert largest[tuple(found)] == min(largest.values()) < max(largest.values())


@pytest.mark.parametrize("cut", CUTS)
def test_limit_one_partition_under_the_same_decision_is_backprop_bit_for_bit(cut: Any) -> None:
    networks = []
    for method in (Segmentwise(epochs=2, partitions=1, cut=cut, decision=Pool(size=2)), Backprop(epochs=2)):
        model = chain()
        reseed(seed_for(0, "init", 0))
        head = Classifier((WIDTHS[-1], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=2)
        networks.append(method.fit(tiny.problem(), model.with_head(head), Run.in_memory(SGD)).state_dict())
    assert tiny.same(*networks)


@pytest.mark.parametrize("cut", ["depth", "memory"])
def test_limit_as_many_partitions_as_blocks_are_deep_layer_wise_learning(cut: Any) -> None:
    ended = []
    for method in (Segmentwise(epochs=2, partitions=BLOCKS, cut=cut), Segmentwise(epochs=2)):
        run = Run.in_memory(SGD)
        ended.append((method.fit(tiny.problem(), chain(), run).state_dict(), run.lines, run.notes))
    assert ended[0][2].pop("segment/stops") == [*range(1, BLOCKS + 1)]
    for notes in (ended[0][2], ended[1][2]):
        for key in [key for key in notes if key.startswith("time/")]:
            del notes[key]
    for lines in (ended[0][1], ended[1][1]):
        for line in lines:
            line.pop("time/train_s")
    assert tiny.same(list(ended[0]), list(ended[1]))


@pytest.mark.parametrize(
    ("cut", "more"), [("cost", {"rounds": 2, "permute": True}), pytest.param("memory", {}, marks=pytest.mark.slow)]
)
def test_it_keeps_the_contract_of_all_methods(cut: Any, more: dict[str, Any]) -> None:
    check_method(Segmentwise(epochs=1, partitions=2, cut=cut, **more), network=chain)


SMALL = ("dataset=digits", "dataset.train_limit=120", "dataset.val_size=80", "dataset.batch_size=40", "hardware.threads=1")
NET = ("arch.widths=[4,5,6,5,4]", "arch.size=32")


@pytest.mark.parametrize("cut", [pytest.param("cost", marks=pytest.mark.slow), "memory"])
def test_a_plan_and_a_run_cut_alike_and_a_run_that_goes_on_too(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config.build(
        config.compose(["method=dpl", "method.partitions=3", f"method.cut={cut}", "method.epochs=1", *SMALL, *NET])
    )
    planned, alone = plan.cost(asked, rows=()), carry_out(asked, tmp_path / "alone")
    assert planned is not None
    assert planned.segment_bytes == alone["summary"]["memory/segment_peak_bytes"]
    assert [one.stop for one in planned.segments] == alone["summary"]["segment/stops"]
    spans = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ((s.start + 1, s.stop) for s in planned.segments))
    assert f"\n3 segments: blocks {spans}\n" in cost_of_run("", planned)
    again = tiny.resumed(asked, tmp_path / "again", monkeypatch, 1, 2)
    assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))


def refusal(method: Callable[[], Segmentwise]) -> str:
    with pytest.raises((ConfigError, ValueError)) as error:
        method().check(tiny.problem().facts, ArchFacts(4, 1), Hardware())
    return str(error.value)


def test_partitions_that_cannot_be_are_refused() -> None:
    assert "method.partitions=5: this network has 4 blocks" in refusal(lambda: Segmentwise(partitions=5))
    assert "method.segment_size" in refusal(lambda: Segmentwise(partitions=2, segment_size=2))
    assert "method.overlap is of a window" in refusal(lambda: Segmentwise(partitions=2, segment_size=2, overlap=1))
    assert "method.cut=cost is of partitions" in refusal(lambda: Segmentwise(cut="cost"))
    assert "4 segments, this network has 2" in refusal(lambda: Segmentwise(partitions=2, epochs=(1, 2, 3, 4)))
    assert "method.epochs_factor" in refusal(lambda: Segmentwise(epochs=(1, 2), epochs_factor=1.1))
    assert "no number any longer" in refusal(lambda: Segmentwise(epochs_factor=1e200))
    assert "no number any longer" in refusal(lambda: Segmentwise(lr_factor=1e200))


def test_more_partitions_than_blocks_are_said_in_one_line_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Digits, "load", forbidden)
    monkeypatch.chdir(tmp_path)
    assert run_here("method=dpl", "method.partitions=7", "hardware.threads=1") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "method.partitions=7: this network has 3 blocks" in line and not (tmp_path / "results").exists()


# --- epochs and rates that grow (table 6.5)


@pytest.mark.parametrize(
    ("base", "factor", "expected"),
    [
        (5, 1.08, [5, 5, 6, 6, 7, 7, 8, 9, 9, 10]),  # 5.4, 5.832, 6.299, 6.802, 7.347, 7.934, 8.569, 9.255, 9.995
        (2, 1.08, [2, 2, 2, 3, 3, 3, 3, 3, 4, 4]),  # 2.16, 2.333, 2.519, 2.721, 2.939, 3.174, 3.428, 3.702, 3.998
        (15, 1.2, [15, 18, 22, 26, 31, 37, 45, 54, 64, 77]),  # 21.6, 25.92, 31.104, 37.325, 44.79, 53.748, 64.497, 77.397
        (18, 1.2, [18, 22, 26, 31, 37, 45, 54, 64, 77, 93]),
        (1, 1.5, [1, 2, 2, 3, 5, 8]),  # 1.5 goes up; 2.25, 3.375, 5.0625, 7.594
        (3, 0.5, [3, 2, 1, 1, 1]),  # never none
    ],
)
def test_epochs_grow_by_layer_as_worked_out_by_hand(base: int, factor: float, expected: list[int]) -> None:
    assert [Segmentwise(epochs=base, epochs_factor=factor)._epochs(i) for i in range(len(expected))] == expected


def test_a_run_learns_for_the_epochs_and_at_the_rates_of_each_layer() -> None:
    watched, rounds = tiny.WatchedOptimizer(Adamw(lr=1e-3, weight_decay=5e-4)), 2
    method = Segmentwise(epochs=2, epochs_factor=1.3, lr_factor=1.08, weight_decay_factor=0.99, rounds=rounds)
    run = Run.in_memory(watched)
    method.fit(tiny.problem(), chain(), run)
    learned = [sum(line["segment"] == i for line in run.lines) for i in range(BLOCKS)]
    assert learned == [rounds * n for n in (2, 3, 3, 4, 6)]  # 2.6, 3.38, 4.394, 5.7122
    for i, (rates, optimizer) in enumerate(zip(watched.rates_of_trained, watched.trained, strict=True)):
        assert set(rates) == {1e-3 * 1.08**i} and optimizer.param_groups[0]["weight_decay"] == 5e-4 * 0.99**i


def test_presets_say_what_the_thesis_prints() -> None:
    dpl, transfer = (config.build_choice("method", name) for name in ("dpl", "dll_transfer"))
    assert (dpl.partitions, dpl.lr_factor, dpl.weight_decay_factor, dpl.rounds) == (4, 0.5, 0.5, 1)
    assert (dpl.input_dropout, dpl.gradient_dropout) == (0, 0)
    grown = transfer.epochs, transfer.epochs_factor, transfer.lr_factor, transfer.weight_decay_factor
    assert grown == (5, 1.08, 1.08, 0.99) and (transfer.input_dropout, transfer.gradient_dropout) == (0, 0)
    made = config.build(config.compose(["method=dll_transfer", "optimizer.lr=3e-5", "optimizer.weight_decay=5e-4"]))
    assert made.optimizer == Adamw(lr=3e-5, weight_decay=5e-4)  # and no schedule


@pytest.mark.parametrize("method", ["round_robin", "random_robin"])
def test_partitions_learn_in_rounds_too(method: str, tmp_path: Path) -> None:
    asked = config.build(config.compose([f"method={method}", "method.rounds=2", "method.partitions=2", *SMALL, *NET]))
    lines, summary = numbers(Path(carry_out(asked, tmp_path)["path"]))
    learned = [line["segment"] for line in lines if "train/loss" in line]
    assert sorted(learned) == [0, 0, 1, 1] and summary["segment/stops"] == [2, 5]
    assert method == "random_robin" or learned == [0, 1, 0, 1]
