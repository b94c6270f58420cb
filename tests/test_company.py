"""Runs that are carried out together: what is asked of all at once, who is shown, and who may do what meanwhile."""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from test_stacked import BATCH, CE, CLASSES, FEATURES, SGD, SMALL, VAL, N, Trained, agree, in_company, lazily, problem, trained
from torch import nn

from effdl.datasets.dataset import Facts
from effdl.layerwise import train_layerwise
from effdl.methods.backprop import Backprop
from effdl.objectives.losses import SoftmaxCe
from effdl.records import run as records
from effdl.records.report import Console, Progress, Silent
from effdl.records.run import Run
from effdl.training import stacked
from effdl.training.company import Company, carried_together
from effdl.training.hardware import alone
from effdl.training.loop import reseed


def test_as_much_is_read_at_once_as_features_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as inputs would: those of a network may be wider."""
    read, learned = list[int](), stacked.LearnEpoch._learned.__func__  # type: ignore[attr-defined]

    def seen(cls: type, questions: Sequence[Any]) -> Any:
        read.append(questions[0].sample_bytes)
        return learned(cls, questions)

    monkeypatch.setattr(stacked.LearnEpoch, "_learned", classmethod(seen))
    in_company((0, SGD), (1, SGD), **lazily("gaussian_features", epochs=1))
    in_company((0, SGD), (1, SGD), **lazily("gaussian_features", epochs=1, keep_features_mib=0.0))
    assert read == [8 * 5, 4 * FEATURES]


def test_every_measurement_is_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one too, at which nobody holds on to what blocks put out, for there is no next."""
    alone, together = list[Any](), list[int]()
    by_itself, of_all = stacked.Evaluation.alone, stacked.Evaluation.together.__func__  # type: ignore[attr-defined]

    def one(self: Any) -> Any:
        alone.append(self)
        return by_itself(self)

    def several(cls: type, questions: Sequence[Any]) -> Any:
        together.append(len(questions))
        return of_all(cls, questions)

    monkeypatch.setattr(stacked.Evaluation, "alone", one)
    monkeypatch.setattr(stacked.Evaluation, "together", classmethod(several))
    in_company((0, SGD), (1, SGD), (2, SGD))
    assert together == [3] * 6 and not alone  # of three epochs each on validation and on test samples


class Shown(Silent):
    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)


def test_progress_is_told_of_every_member_and_shown_by_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    shown = Shown()
    monkeypatch.setattr(records, "SHOW_EVERY_S", 0.0)
    tasks = [partial(_shown, seed, shown) for seed in range(3)]
    carried_together(tasks)
    assert {one.name for one in shown.seen} == {"seed 0", "seed 1", "seed 2"}
    assert {one.stands_for for one in shown.seen if one.name == "seed 0"} == {3}
    assert {one.stands_for for one in shown.seen if one.name != "seed 0"} == {0}
    first, second = ([one.fraction for one in shown.seen if one.name == name] for name in ("seed 0", "seed 1"))
    assert first == second
    console = Console(runs=3)
    monkeypatch.setattr("effdl.records.report.LINE_EVERY_S", -1.0)
    for one in shown.seen[:3]:
        console.progress(one)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("seed 0: ") and "and 2 more as one, epoch 1/2" in line
    assert console._done == pytest.approx(3 * shown.seen[0].fraction)


def _shown(seed: int, reporter: Shown, company: Company) -> None:
    data = problem(seed, CE)
    run = Run(seed, SGD, reporter=reporter, name=f"seed {seed}", company=company)
    reseed(seed)
    Backprop(epochs=2).fit(data, SMALL.build(data.facts).double(), run)


def test_a_member_may_train_by_a_call_of_its_own_while_the_process_is_theirs() -> None:
    """`alone` is who carries a stack out, and its members are within; else each would wait for the other."""

    def task(company: Company, seed: int) -> Any:
        data = problem(seed, CE, torch.float32)
        module = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES))
        samples = data.train_tensors()
        network = train_layerwise(module, (samples.x, samples.y), epochs=1, progress=False, seed=seed)
        return network, trained(seed, SGD, company)

    found: list[Any] = []

    def carry_out() -> None:
        with alone():
            found.extend(carried_together([partial(task, seed=seed) for seed in range(2)]))

    worker = threading.Thread(target=carry_out, daemon=True)
    worker.start()
    worker.join(60)
    assert len(found) == 2, "each waits for the other"
    for seed, (network, one) in enumerate(found):
        assert network.summary["segment/chosen"] >= 0
        agree(one, trained(seed, SGD))


def test_an_error_in_a_run_is_raised_and_the_others_end_where_they_are() -> None:
    ended = []

    def task(company: Company, seed: int) -> Trained:
        try:
            if seed == 1:
                raise KeyError("mine")
            return trained(seed, SGD, company)
        finally:
            ended.append(seed)

    with pytest.raises(KeyError, match="mine"):
        carried_together([partial(task, seed=seed) for seed in range(3)])
    assert 0 in ended


def test_what_cannot_be_mapped_is_not_stacked() -> None:
    class Branching(SoftmaxCe):
        def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return super().loss(outputs, y) if outputs.sum() > 0 else super().loss(2 * outputs, y)

    facts = Facts((FEATURES,), "classes", CLASSES, N, VAL, VAL, BATCH)
    assert stacked.maps(CE, facts) and not stacked.maps(Branching(), facts)
