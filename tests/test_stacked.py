"""Many networks trained as one: each ends where it would have ended by itself, whoever is with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch

from effdl.archs.adapt import InputBlock
from effdl.archs.mlp import Mlp
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.methods.backprop import Backprop
from effdl.objectives.losses import SoftmaxCe
from effdl.objectives.objective import Objective
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.training import stacked
from effdl.training.company import Company, carried_together
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, MultiStep, Optimizer, Sgd

N, VAL, BATCH, FEATURES, CLASSES = 109, 30, 16, 7, 3  # the last of seven batches has 13
SGD = Sgd(lr=0.05, weight_decay=1e-3)
CE, SMALL = SoftmaxCe(), Mlp(hidden=(8, 5), activation="tanh")


def problem(seed: int, objective: Objective) -> Problem:
    generator = torch.Generator().manual_seed(seed_for(seed, "data"))
    x = torch.randn(N + VAL, FEATURES, dtype=torch.float64, generator=generator)
    y = (x[:, :CLASSES] + 0.3 * torch.randn(N + VAL, CLASSES, dtype=torch.float64, generator=generator)).argmax(1)
    train, val = Samples(x[:N], y[:N]), Samples(x[N:], y[N:])
    return Problem(train, val, objective, outputs=CLASSES, batch_size=BATCH, seed=seed)


@dataclass
class Trained:
    """What a run ended in."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    diverged: str | None = None


def trained(
    seed: int,
    optimizer: Optimizer,
    company: Company | None = None,
    *,
    epochs: int = 3,
    objective: Objective = CE,
    arch: Mlp = SMALL,
    patience: int | None = None,
) -> Trained:
    """One run in float64, alone or in company."""
    data, made = problem(seed, objective), Trained()
    reseed(seed_for(seed, "init"))
    model = arch.build(Facts((FEATURES,), "classes", CLASSES, N, VAL, VAL, BATCH)).double()
    assert isinstance(model.input, InputBlock)
    model.input.fit(data.train_tensors().x)
    run = Run(seed, optimizer, test=data.val_split, objective=objective, batch_size=BATCH, company=company)

    def keep(state: Callable[[], dict[str, Any]]) -> None:
        made.states.append(torch.utils._pytree.tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, state()))

    run.save = keep  # type: ignore[method-assign]
    try:
        network = Backprop(epochs=epochs, patience=patience).fit(data, model, run)
        made.weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    except Exception as error:
        made.diverged = f"{type(error).__name__}: {error}"
    made.lines = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in run.lines]
    return made


def in_company(*runs: tuple[int, Optimizer], **options: Any) -> list[Trained]:
    return carried_together([partial(_in, run, options) for run in runs])


def _in(run: tuple[int, Optimizer], options: dict[str, Any], company: Company) -> Trained:
    return trained(*run, company, **options)


def agree(one: Trained, other: Trained) -> None:
    assert one.diverged == other.diverged
    for name in ("weights", "states", "lines"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks each stack held that learned an epoch."""
    sizes, learned = [], stacked.LearnEpoch._learned.__func__  # type: ignore[attr-defined]

    def counted(cls: type, questions: Sequence[Any]) -> Any:
        sizes.append(len(questions))
        return learned(cls, questions)

    monkeypatch.setattr(stacked.LearnEpoch, "_learned", classmethod(counted))
    return sizes


@pytest.mark.parametrize("optimizer", [SGD, Sgd(momentum=0.0), Adamw(lr=0.02, schedule=MultiStep(milestones=(0.4,)))])
def test_limit_stacked_is_one_after_another(optimizer: Optimizer, stacks: list[int]) -> None:
    together = in_company(*((seed, optimizer) for seed in range(5)))
    assert stacks == [5, 5, 5]
    for seed, one in enumerate(together):
        alone = trained(seed, optimizer)
        assert len(alone.states) == 3 and alone.weights
        agree(one, alone)
    assert stacks == [5, 5, 5]


def test_company_does_not_matter(stacks: list[int]) -> None:
    """Other learning rates, a schedule elsewhere, more epochs and less patience beside it."""
    company = [(7, Sgd(lr=0.2)), (3, SGD), (5, Sgd(lr=0.2)), (4, Adamw())]
    (first, *_), among = in_company((3, SGD)), in_company(*company)
    agree(among[1], first)
    agree(first, trained(3, SGD))
    agree(among[3], trained(4, Adamw()))
    assert stacks[:3] == [1, 1, 1] and stacks[3:] == [4, 4, 4]


def test_those_that_end_early_leave_the_others(stacks: list[int]) -> None:
    tasks = [partial(lambda company, seed: trained(seed, SGD, company, epochs=2 + seed), seed=seed) for seed in range(3)]
    for seed, one in enumerate(carried_together(tasks)):
        agree(one, trained(seed, SGD, epochs=2 + seed))
    assert stacks == [3, 3, 2, 1]


@pytest.mark.parametrize("optimizer", [Sgd(lr=1e200), Sgd(lr=30.0)], ids=["in the first step", "later"])
def test_one_that_diverges_is_told_and_the_others_go_on(optimizer: Optimizer, stacks: list[int]) -> None:
    arch = Mlp(hidden=(8, 5), activation="identity")
    together = in_company((0, SGD), (1, optimizer), (2, SGD), arch=arch, epochs=4)
    for one, (seed, own) in zip(together, enumerate((SGD, optimizer, SGD)), strict=True):
        alone = trained(seed, own, arch=arch, epochs=4)
        assert one.diverged == alone.diverged
        if one.diverged is None:
            agree(one, alone)
    assert together[1].diverged is not None and together[1].diverged.startswith("Diverged: ")
    assert stacks[0] == 3 and stacks[-1] == 2


def test_runs_that_do_not_agree_are_carried_out_by_themselves(stacks: list[int]) -> None:
    kinds = (Mlp(hidden=(8, 5)), Mlp(hidden=(8, 6)), Mlp(hidden=(8, 5), batch_norm=True))
    tasks = [partial(lambda company, arch: trained(1, SGD, company, arch=arch), arch=arch) for arch in kinds]
    for arch, one in zip(kinds, carried_together(tasks), strict=True):
        agree(one, trained(1, SGD, arch=arch))
    assert stacks == [1, 1] * 3
