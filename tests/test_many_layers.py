"""Hundreds of layers: a turn costs what it costs below the first hundred, and no more lies in memory."""

import sys
from typing import Any

import tiny
import torch

from effdl.methods.segmentwise import Segmentwise
from effdl.records.run import Run
from effdl.training.engine import Engine
from effdl.training.optim import Sgd

WIDTH = 6


def trained(layers: int, keep_features_mib: float = 100.0) -> tuple[Engine, list[tuple[int, int, int]], int]:
    """A training of so many layers; at each epoch's end the learners and bytes of features that there are; function calls."""
    problem, model = tiny.problem(), tiny.perceptron(hidden=(WIDTH,) * layers)
    run = Run(0, Sgd(lr=0.02), test=problem.val_split, objective=problem.objective)
    method = Segmentwise(epochs=1, keep_features_mib=keep_features_mib)
    engine = Engine(method.training(problem, model, run), problem, model, run)
    alive: list[tuple[int, int, int]] = []
    record = run.record

    def recorded(*arguments: Any) -> None:
        alive.append((len(engine.learners), engine.source.through.kept_bytes, run._measure.kept_bytes))  # type: ignore[union-attr]
        record(*arguments)

    run.record = recorded  # type: ignore[method-assign]
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        engine.fit()
    finally:
        sys.setprofile(None)
    return engine, alive, calls


def test_a_turn_takes_as_many_calls_below_a_hundred_layers_as_below_thirty() -> None:
    """By calls, which no load of the machine moves, of the further sixty layers of two trainings; where each turn goes
    through all layers it is 1.7 times as many."""
    trained(2)  # what torch imports at its first step is no layer's
    some, more, most = (trained(layers)[2] for layers in (30, 90, 150))
    assert (most - more) / (more - some) < 1.3


def test_one_learner_is_alive_and_the_features_of_one_layer_are_kept() -> None:
    engine, alive, _ = trained(40)
    assert len(alive) == 40 and {learners for learners, *_ in alive} == {1}
    assert {kept for _, kept, _ in alive[1:]} == {(40 + 20) * WIDTH * 4} == {alive[-1][1]}
    assert {kept for *_, kept in alive[3:]} <= {0, 20 * WIDTH * 4}
    assert engine.most_kept == (40 + 20) * max(WIDTH * 4, tiny.SIDE**2 * 4) and not engine.learners


def test_the_network_of_many_layers_is_what_a_plain_forward_pass_through_all_says() -> None:
    """Rolling X := Forward(X) is one pass through each layer alone, and the same numbers."""
    engine, _, _ = trained(40)
    problem, model = tiny.problem(), engine.chain
    with torch.no_grad():
        x = model.blocks[:39](model.input(problem.train_tensors().x))
    torch.testing.assert_close(engine.source.through.splits[0].first(), x[:1], rtol=1e-6, atol=0)  # type: ignore[attr-defined]
    assert engine.feature_passes == 40
