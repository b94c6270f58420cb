"""What a run expects to take, how far it is by that, and what it advises where that is long."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from test_growth import EPOCHS, LAYERS, opened
from test_growth import spec as grown

from effdl import config
from effdl.costs import seconds as costs_in_seconds
from effdl.costs.segments import segment_costs
from effdl.methods.segmentwise import Segmentwise
from effdl.records import expected
from effdl.records.carry import carry_out
from effdl.records.report import Console
from effdl.records.run import Run
from effdl.records.shorter import shorter
from effdl.training.engine import Engine
from effdl.training.handle import KINDS, Memory, SegmentCost


def cost(place: int, step_s: float, epochs: int = 2, peak: int = 10) -> SegmentCost:
    """Ten steps an epoch, and no validation."""
    memory = Memory(peak, {**dict.fromkeys(KINDS, 0), "activation": peak - 1, "parameter": 1})
    return SegmentCost(place, place + 1, epochs, ((place, epochs),), 10, 10, 10, 0, 0.0, step_s, memory, 100 - peak, 0, 1, 0, 0)


COSTS = [cost(0, 0.1), cost(1, 0.3)]  # 1 and 3 seconds an epoch


@pytest.mark.parametrize(
    ("every", "tests_s", "past", "done_s"),
    [
        ("epoch", [4.0, 8.0], [0.5, 0.0], 0.5),
        ("epoch", [4.0, 8.0], [1.0, 0.0], 1 + 2),
        ("epoch", [4.0, 8.0], [2.0, 1.9], 2 + 4 + 5.7 + 4),
        ("segment", [4.0, 8.0], [1.9, 0.0], 1.9),
        ("segment", [4.0, 8.0], [2.0, 1.0], 2 + 4 + 3),
        ("run", [0.0, 12.0], [2.0, 1.0], 5),
        ("run", [0.0, 12.0], [2.0, 2.0], 8),
    ],
)
def test_time_on_the_test_split_counts_when_it_has_been_spent(
    every: str, tests_s: list[float], past: list[float], done_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 seconds of training and 12 of tests."""
    monkeypatch.setattr(costs_in_seconds, "EPOCH_S", 0.0)
    planned = expected.plan(COSTS, tests_s)
    assert expected.fraction(planned, past, every) == pytest.approx(done_s / 20)
    del planned["tests_s"]  # as an older version's checkpoint has it, whose epochs have all of it
    assert expected.fraction(planned, [2.0, 2.0], every) == 1


def test_an_epochs_time_is_that_of_training_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.cost("run", 20.0, COSTS)
    assert "about 20 s on this machine (4 epochs of about 2 s)" in capsys.readouterr().err


def test_peaks_are_of_the_largest_step_and_of_those_asked_for() -> None:
    planned = expected.plan([cost(0, 0.1, peak=10), cost(1, 0.1, peak=30), cost(2, 0.1, peak=70)], [0.0] * 3)
    for count, most in ((3, 70), (2, 30), (1, 10)):
        found = expected.peaks(planned, count)
        assert found["memory/accounted_peak_bytes"] == most and found["memory/peak_activation_bytes"] == most - 1
        assert found["memory/segment_peak_bytes"] == [10, 30, 70][:count] and found["memory/resident_peak_bytes"] == 100


@pytest.mark.parametrize("stops", [(), (1, 3)])
def test_a_network_that_grew_tells_the_memory_of_what_was_trained(
    stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = grown("method.grow_until=0.9", "arch.hidden=[12,12,12,12,12,12,12,12,4000]", "arch.repeat=1")
    summary = (tiny.resumed(of, tmp_path, monkeypatch, *stops) if stops else carry_out(of, tmp_path))["summary"]
    trained = summary["segment/trained"]
    assert trained < LAYERS
    _, problem, chain = opened("arch.hidden=[12,12,12,12,12,12,12,12,4000]", "arch.repeat=1")
    run = Run.in_memory(of.optimizer)
    method = Segmentwise(epochs=EPOCHS)
    costs = segment_costs(Engine(method.training(problem, chain.float(), run), problem, chain, run))
    largest = max(costs[:trained], key=lambda one: one.memory.peak)
    assert summary["memory/segment_peak_bytes"] == [one.memory.peak for one in costs[:trained]]
    assert summary["memory/accounted_peak_bytes"] == largest.memory.peak < costs[-1].memory.peak
    assert [summary[f"memory/peak_{kind}_bytes"] for kind in KINDS] == [largest.memory.by_kind[kind] for kind in KINDS]
    assert summary["memory/resident_peak_bytes"] == max(one.resident for one in costs[:trained])


# --- what is advised where that is long

CIFAR = ["method=dll", "arch=cnn4", "dataset=cifar10"]
ADVISED: dict[str, tuple[list[str], list[str]]] = {
    "all there is": (
        CIFAR,
        ["dataset.train_limit=3000", "dataset.val_size=500", "method.epochs=1", "test_every=run"],
    ),
    "a hundred classes": (
        ["method=backprop", "arch=cnn4", "dataset=cifar100"],
        ["dataset.train_limit=3000", "dataset.val_size=1500", "method.epochs=1", "test_every=run"],
    ),
    "what is short already": (
        [*CIFAR, "dataset.train_limit=2000", "method.epochs=1", "test_every=run"],
        ["dataset.val_size=500"],
    ),
    "nothing left": ([*CIFAR, "dataset.train_limit=2000", "dataset.val_size=400", "method.epochs=1", "test_every=run"], []),
    "a batch that needs more": (
        [*CIFAR, "dataset.batch_size=4000", "method.epochs=[1,3]", "test_every=run"],
        ["method.epochs=1"],
    ),
    "rounds": (
        [*CIFAR, "method=round_robin", "method.epochs=1", "dataset.train_limit=2000", "dataset.val_size=400"],
        ["method.rounds=1", "test_every=run"],
    ),
    "a few samples, of which fewer to validate leave more to train on": (
        ["arch=mlp", "dataset=digits", "dataset.val_size=700", "method.epochs=1"],
        ["test_every=run"],
    ),
}


@pytest.mark.parametrize("case", ADVISED)
def test_what_is_advised_makes_this_run_shorter_and_can_run(case: str) -> None:
    overrides, advised = ADVISED[case]
    spec = config.build(config.compose(overrides))
    assert shorter(spec) == advised
    less = config.build(config.compose([*overrides, *advised]))
    assert less.dataset.facts().train <= spec.dataset.facts().train and not shorter(less)


def test_a_long_lone_run_says_it_and_no_other_asks(capsys: pytest.CaptureFixture[str]) -> None:
    def settings() -> list[str]:
        return ["method.epochs=1", "test_every=run"]

    def forbidden() -> Any:
        raise AssertionError

    with Console() as console:
        console.cost("run", 61.0, COSTS, settings)
        console.cost("run", 59.0, COSTS, forbidden)
        console.cost("run", 61.0, COSTS, list)
    with Console(2) as console:
        console.cost("run", 61.0, COSTS, forbidden)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "shorter" in line] == ["  shorter: method.epochs=1 test_every=run"]
