"""Partitions that learn at once within a memory budget: no block is recomputed that it does not need, and the bits stay."""

import re
from itertools import combinations, zip_longest
from typing import Any

import pytest
import tiny
from test_budget import told
from test_overlap import chain
from test_together import passed
from torch import nn

from effdl import config
from effdl.costs import sparing
from effdl.costs.budget import TOLERANCE
from effdl.costs.segments import segment_costs
from effdl.costs.sparing import Positions
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.cutting import evenly
from effdl.methods.method import Method
from effdl.methods.segmentwise import Segmentwise
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.reproduce.planned import cost_of_run
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.engine import Engine
from effdl.training.optim import Sgd
from effdl.training.orders import together
from effdl.training.segments import SegmentPlan, Training

SGD = Sgd(lr=0.05)


def engine(method: Method, problem: Problem, run: Run) -> Engine:
    model = chain()
    training = method.training(problem, model, run)
    assert training is not None
    return Engine(training, problem, model, run)


def peak(method: Method, problem: Problem | None = None) -> int:
    made = engine(method, problem or tiny.problem(), Run.in_memory(SGD))
    return max(cost.memory.peak for cost in segment_costs(made))


def share(method: Method, problem: Problem) -> float:
    return peak(method, problem) / peak(Backprop(), problem)


def at_once(**more: Any) -> Segmentwise:
    return Segmentwise(epochs=2, partitions=2, together=True, **more)


def test_a_budget_is_met_with_some_blocks_recomputed_and_the_weights_are_the_same_bit_for_bit() -> None:
    full, plain, least = peak(Backprop()), peak(at_once()), peak(at_once(checkpoint="block"))
    assert least < plain
    budget = (plain - 1) / full - TOLERANCE
    assert peak(at_once(memory_budget=budget)) <= (budget + TOLERANCE) * full
    ended = []
    for method in (at_once(), at_once(memory_budget=budget)):
        run = Run.in_memory(SGD)
        ended.append(method.fit(tiny.problem(), chain(), run).state_dict())
    assert 0 < sum(map(len, run.notes["segment/recomputed"])) < len(chain())
    assert tiny.same(*ended)


def subsets(span: tuple[int, int]) -> list[Positions]:
    places = range(span[1] - span[0])
    return [at for count in range(len(places) + 1) for at in combinations(places, count)]


def brute(of: Problem) -> list[dict[Positions, int]]:
    """Of each of two partitions its bytes in a real pass, for all that may be recomputed of it."""
    spans = evenly(len(chain()), 2)
    found: list[dict[Positions, int]] = [{} for _ in spans]
    for chosen in zip_longest(*map(subsets, spans), fillvalue=()):

        def plan(i: int, at: Positions) -> SegmentPlan:
            def rule(blocks: nn.Sequential, shapes: Any) -> DecisionRule:
                return DecisionRule(blocks, Pool().build(shapes[-1], of.outputs), of.objective, checkpoint=at)

            return SegmentPlan(*spans[i], 2, rule)

        made = Engine(Training([*map(plan, (0, 1), chosen)], 0, [*together(2, 2)]), of, chain(), Run.in_memory(SGD))
        for one, at, bytes in zip(found, chosen, passed(made)[0], strict=True):
            one[at] = bytes
    return found


@pytest.fixture(scope="module")
def tried() -> tuple[int, list[dict[Positions, int]]]:
    return peak(Backprop()), brute(tiny.problem())


def test_what_cannot_be_met_is_refused_with_the_partition_that_holds_it_and_the_least_that_can(tried: Any) -> None:
    full, found = tried
    least = [min(one.values()) / full for one in found]
    holder = least.index(max(least))
    wanted = rf"^method\.memory_budget=0\.01 cannot be met: partition {holder + 1} of .* takes {max(least):.1%} of "
    with pytest.raises(ConfigError, match=wanted) as refused:
        peak(at_once(memory_budget=0.01))
    assert max(least) - TOLERANCE <= told(refused.value) <= max(least) - TOLERANCE + 0.001
    assert peak(at_once(memory_budget=told(refused.value))) <= (told(refused.value) + TOLERANCE) * full
    with pytest.raises(ConfigError, match="is the least that can be met"):
        peak(at_once(memory_budget=told(refused.value) - 0.001))


@pytest.mark.parametrize("above", [0.0, 0.02, 0.05])
def test_no_block_is_recomputed_that_the_budget_does_not_need(tried: Any, above: float) -> None:
    full, found = tried
    budget = max(min(one.values()) / full for one in found) - TOLERANCE + 0.001 + above
    run = Run.in_memory(SGD)
    made = engine(at_once(memory_budget=budget), tiny.problem(), run)
    real = passed(made)[0]
    assert max(real) <= (budget + TOLERANCE) * full
    assert real == [cost.memory.peak for cost in segment_costs(made)]
    for one, segment, recomputed in zip(found, made.training.segments, run.notes["segment/recomputed"], strict=True):
        at = tuple(block - 1 - segment.start for block in recomputed)
        assert all(one[less] > (budget + TOLERANCE) * full for less in combinations(at, len(at) - 1) if at)


def test_a_last_batch_with_a_sample_more_counts(monkeypatch: Any) -> None:
    counted = set[int]()

    def costs(made: Engine) -> Any:
        counted.add(len(next(made.problem.train(0))))
        return segment_costs(made)

    monkeypatch.setattr(sparing, "segment_costs", costs)
    ragged, sizes = (
        tiny.problem(train=41, batch_size=8),
        {len(batch) for batch in tiny.problem(train=41, batch_size=8).train(0)},
    )
    of_size = [tiny.problem(train=40, batch_size=size) for size in sorted(sizes)]
    budget = min(share(at_once(), of) for of in of_size) - TOLERANCE - 0.001
    made = engine(at_once(memory_budget=budget), ragged, Run.in_memory(SGD))
    assert counted == sizes == {8, 9}
    for of in of_size:
        real = passed(Engine(made.training, of, made.chain, made.run))[0]
        assert max(real) <= (budget + TOLERANCE) * peak(Backprop(), of)


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_recomputes_the_same_and_ends_in_the_same_numbers(
    tmp_path: Any, monkeypatch: Any
) -> None:
    spec = config.build(config.compose([
        "arch=resnet32_cifar", "dataset=digits", "method=dpl", "method.partitions=2", "method.together=true", "method.epochs=2",
        "method.memory_budget=0.5", "dataset.train_limit=60", "dataset.val_size=20", "dataset.batch_size=32",
    ]))  # fmt: skip
    whole = carry_out(spec, tmp_path / "whole")
    cut_off = tiny.resumed(spec, tmp_path / "resumed", monkeypatch, 1, 2)
    for key in ("segment/recomputed", "network/sha256", "test/acc", "memory/accounted_peak_bytes"):
        assert whole["summary"][key] == cut_off["summary"][key]
    assert any(whole["summary"]["segment/recomputed"])


def test_a_printed_plan_says_of_each_partition_which_blocks_are_recomputed() -> None:
    planned = plan.cost(config.build(config.compose([
        "arch=resnet32_cifar", "dataset=digits", "method=dpl", "method.partitions=2", "method.together=true",
        "method.memory_budget=0.5",
    ])), rows=("backprop",))  # fmt: skip
    assert planned is not None and planned.recomputed is not None and any(planned.recomputed)
    head, *rows = cost_of_run("a run", planned).splitlines()[4:7]
    assert head.split()[-2:] == ["recomputed", "blocks"]
    for row, blocks in zip(rows, planned.recomputed, strict=True):
        found = list[int]()
        for part in re.split(r", *", row.split("%", 1)[1].strip().replace("none", "")):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1) if first else ()
        assert found == blocks


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("method.checkpoint=block",), "method.checkpoint too: set one"),
        (("hardware.compile=true",), "hardware.compile=false"),
        (("method.rounds=2",), "method.rounds is of segments that take turns"),
        (("method.memory_budget=0",), "method.memory_budget"),
        (("method.memory_budget=1.1",), "method.memory_budget"),
    ],
)
def test_what_does_not_go_with_a_budget_is_refused_in_one_line(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        config.build(config.compose([
            "method=dpl", "arch=cnn4", "dataset=digits", "method.partitions=2", "method.together=true",
            "method.memory_budget=0.9", *overrides,
        ]))  # fmt: skip
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_four_partitions_of_efficientnet_v2_s_at_once_take_two_fifths_of_backprops_step() -> None:
    choices = ["method=dpl", "method.cut=batch", "method.together=true", "method.memory_budget=0.395"]
    choices += ["arch=efficientnet_v2_s", "dataset=cifar10", "dataset.batch_size=128"]
    planned = plan.cost(config.build(config.compose(choices)), rows=("backprop",))
    assert planned is not None and planned.share <= 0.40
