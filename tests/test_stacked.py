"""Many networks trained as one: each ends where it would have ended by itself, whoever is with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.archs.mlp import Mlp
from effdl.config import build_choice
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.methods.backprop import Backprop
from effdl.methods.dfa import Dfa
from effdl.methods.method import Method
from effdl.objectives.losses import LinearMse, SigmoidBce, SoftmaxCe, TanhMse
from effdl.objectives.objective import Objective
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.setting import setting
from effdl.training import stacked
from effdl.training.company import Company, carried_together
from effdl.training.form import stack_form
from effdl.training.handle import RunHandle
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, MultiStep, Optimizer, Sgd
from effdl.training.quantised import Quantised
from effdl.training.rmsprop import RmspropInRoot
from effdl.training.rule import Rule
from effdl.training.segments import SegmentPlan, Shapes, Training
from effdl.training.stacked_optimizer import BY_ELEMENT
from effdl.training.sync import Sync

N, VAL, BATCH, FEATURES, CLASSES = 109, 30, 16, 7, 3  # the last of seven batches has 13
SGD = Sgd(lr=0.05, weight_decay=1e-3)
CE, SMALL = SoftmaxCe(), Mlp(hidden=(8, 5), activation="tanh")


def problem(seed: int, objective: Objective, dtype: torch.dtype = torch.float64, batch: int = BATCH) -> Problem:
    generator = torch.Generator().manual_seed(seed_for(seed, "data"))
    x = torch.randn(N + VAL, FEATURES, dtype=torch.float64, generator=generator)
    y = (x[:, :CLASSES] + 0.3 * torch.randn(N + VAL, CLASSES, dtype=torch.float64, generator=generator)).argmax(1)
    x = x.to(dtype)
    train, val = Samples(x[:N], y[:N]), Samples(x[N:], y[N:])
    return Problem(train, val, objective, outputs=CLASSES, batch_size=batch, seed=seed)


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
    method: Method | None = None,
    shrink: float = 1.0,
    dtype: torch.dtype = torch.float64,
    batch: int = BATCH,
    sync: Sync | None = None,
) -> Trained:
    """One run, alone or in company. shrink: what all weights are multiplied by after each epoch."""
    data, made = problem(seed, objective, dtype, batch), Trained()
    reseed(seed_for(seed, "init"))
    model = arch.build(Facts((FEATURES,), "classes", CLASSES, N, VAL, VAL, batch)).to(dtype)
    assert isinstance(model.input, InputBlock)
    model.input.fit(data.train_tensors().x)
    run = Run(seed, optimizer, test=data.val_split, objective=objective, batch_size=batch, company=company, sync=sync)

    def keep(state: Callable[[], dict[str, Any]]) -> None:
        with torch.no_grad():
            torch._foreach_mul_([*model.parameters()], shrink)
        made.states.append(torch.utils._pytree.tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, state()))

    run.save = keep  # type: ignore[method-assign]
    try:
        network = (method or Backprop(epochs=epochs)).fit(data, model, run)
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


def test_weights_quantised_after_each_epoch(stacks: list[int]) -> None:
    together = in_company((0, SGD), (1, SGD), sync=Quantised(floor=3, fraction=1.0))
    assert stacks == [2, 2, 2]
    for seed, one in enumerate(together):
        assert {len(line) for line in one.lines if "train/loss" in line} == {len(one.lines[0])}
        agree(one, trained(seed, SGD, sync=Quantised(floor=3, fraction=1.0)))


def test_company_does_not_matter(stacks: list[int]) -> None:
    """Other learning rates, a schedule elsewhere, more epochs and less patience beside it."""
    company = [(7, Sgd(lr=0.2)), (3, SGD), (5, Sgd(lr=0.2)), (4, Adamw())]
    (first, *_), among = in_company((3, SGD)), in_company(*company)
    agree(among[1], first)
    agree(first, trained(3, SGD))
    agree(among[3], trained(4, Adamw()))
    assert stacks[:3] == [1, 1, 1] and stacks[3:] == [4, 4, 4]


@pytest.mark.parametrize("batch", [BATCH, 64])
def test_a_stack_of_one_rounds_as_one_of_many(batch: int, stacks: list[int]) -> None:
    """In float32; a run that is left over after a kill, or made again alone, has the same name."""
    options = {
        "dtype": torch.float32,
        "arch": Mlp(hidden=(128, 1), activation="tanh"),
        "batch": batch,
    }  # a product with a vector
    (lone,), among = in_company((3, SGD), **options), in_company(*((seed, SGD) for seed in range(5)), **options)
    assert stacks == [1, 1, 1, 5, 5, 5]
    assert lone.lines == among[3].lines
    assert all(torch.equal(lone.weights[name], among[3].weights[name]) for name in lone.weights)


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


def test_weights_that_are_changed_after_an_epoch_are_learned_from(stacks: list[int]) -> None:
    """As compression changes them: between epochs each network is whole, and its own."""
    for seed, one in enumerate(in_company((0, SGD), (1, SGD), shrink=0.5)):
        agree(one, trained(seed, SGD, shrink=0.5))
        assert not torch.allclose(one.weights["head.weight"], trained(seed, SGD).weights["head.weight"])
    assert stacks == [2, 2, 2]


@pytest.mark.parametrize("objective", [SigmoidBce(), TanhMse(), LinearMse()], ids=lambda one: type(one).__name__)
def test_any_objective(objective: Objective, stacks: list[int]) -> None:
    for seed, one in enumerate(in_company((0, SGD), (1, SGD), objective=objective, epochs=2)):
        agree(one, trained(seed, SGD, objective=objective, epochs=2))
    assert stacks == [2, 2]


class Ours(Optimizer):
    """One of torch's optimizers under settings of a test."""

    def __init__(self, kind: type[torch.optim.Optimizer], lr: float) -> None:
        for name, value in {"kind": kind, "lr": lr, "weight_decay": 0.0, "schedule": None}.items():
            object.__setattr__(self, name, value)

    @property
    def rule(self) -> Any:
        kind: Any = self.kind  # type: ignore[attr-defined]
        more = {"alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1, "foreach": False} if kind is RmspropInRoot else {}
        return lambda parameters, lr, weight_decay, foreach: kind(parameters, lr=lr, **more)


@pytest.mark.parametrize("kind", sorted(BY_ELEMENT, key=lambda kind: kind.__name__))
def test_every_optimizer_that_counts_as_one_by_element(kind: type[torch.optim.Optimizer], stacks: list[int]) -> None:
    """Of members with two learning rates, in turns."""
    runs = [(seed, Ours(kind, 0.01 * (1 + seed % 2))) for seed in range(4)]
    for run, one in zip(runs, in_company(*runs, epochs=2), strict=True):
        agree(one, trained(*run, epochs=2))
    assert stacks == [4, 4]


class Feedback(Rule):
    """Direct feedback alignment: what goes back into each block's output is the error through a fixed matrix (Nøkland 2016)."""

    def __init__(self, blocks: nn.Sequential, shapes: Shapes, head: nn.Module) -> None:
        super().__init__(blocks)
        self.head = head
        for i, (features,) in enumerate(shapes):
            self.register_buffer(f"feedback{i}", torch.randn(CLASSES, features, dtype=torch.float64))

    def descended(self, batch: Batch, epoch: int) -> tuple[torch.Tensor, Batch]:
        hidden = list(self.activations(batch.x.detach(), local=True))
        logits = self.head(hidden[-1].detach())
        loss = CE.loss(logits, batch.y)
        error = torch.func.grad(lambda z: CE.loss(z, batch.y).mean())(logits.detach())
        back = torch.stack([(h * (error @ self.get_buffer(f"feedback{i}"))).sum() for i, h in enumerate(hidden)])
        return loss.mean() + back.sum(), batch.passed_on(hidden[-1].detach(), loss.detach())

    def stack_key(self, epoch: int) -> Any:
        return stack_form(self.blocks, self.head)

    def predictor(self, chain: BlockChain) -> nn.Module:
        return chain.with_head(self.head)


@setting
class ByFeedback(Method):
    """All blocks by `Feedback`, under the network's own head."""

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        plan = SegmentPlan(0, len(model), 3, lambda blocks, shapes: Feedback(blocks, shapes, model.head))
        return Training([plan], keep_bytes=2**20)

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Any) -> nn.Module:
        return model


def test_a_rule_of_ones_own_with_matrices_of_its_own_is_stacked_as_it_is_written(stacks: list[int]) -> None:
    for seed, one in enumerate(in_company((0, SGD), (1, SGD), (2, SGD), method=ByFeedback())):
        agree(one, trained(seed, SGD, method=ByFeedback()))
        assert not torch.allclose(one.weights["head.weight"], trained(seed, SGD).weights["head.weight"])
    assert stacks == [3, 3, 3]


@pytest.mark.parametrize("hidden", [(8,), (8, 5, 6)])
def test_direct_feedback_alignment_each_with_matrices_of_its_own(hidden: tuple[int, ...], stacks: list[int]) -> None:
    """In float32 are the matrices as they are drawn; the rule is then one of doubles, as the blocks are."""
    options: dict[str, Any] = {"method": Dfa(epochs=3), "arch": Mlp(hidden=hidden, activation="tanh", bias=False)}
    together = in_company(*((seed, SGD) for seed in range(4)), **options)
    assert stacks == [4, 4, 4]
    for seed, one in enumerate(together):
        assert one.diverged is None and one.weights
        agree(one, trained(seed, SGD, **options))


LAZY = ("shallow", "relu_features", "linear_features", "gaussian_features", "ntk", "ntk_sigmoid")


def lazily(choice: str, **fields: Any) -> dict[str, Any]:
    return {"method": replace(build_choice("method", choice), **fields), "arch": Mlp(hidden=(8, 5))}


@pytest.mark.parametrize("choice", LAZY)
def test_lazy_methods_whoever_is_with_them(choice: str, stacks: list[int]) -> None:
    """Each above features of its own, which stay; one of them diverges in the first of two companies."""
    options = lazily(choice, epochs=3)
    alone = [trained(seed, SGD, **options) for seed in range(4)]
    first = in_company(*((seed, SGD) for seed in range(3)), (9, Sgd(lr=1e308)), **options)
    other = in_company((3, SGD), (7, Adamw()), (2, SGD), **options)
    assert first[3].diverged is not None and first[3].diverged.startswith("Diverged: ")
    assert stacks == [4, 3, 3, 3, 3, 3]
    for one, expected in ((first[0], alone[0]), (first[1], alone[1]), (first[2], alone[2]), (other[0], alone[3])):
        assert one.diverged is None and one.weights and len(one.states) == 3
        agree(one, expected)
    agree(other[2], first[2])


@pytest.mark.parametrize("keep", [64.0, 0.0], ids=["kept", "worked out for every batch"])
def test_features_of_one_round_as_those_of_many(keep: float, stacks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where a product of several batches' rows rounds otherwise than one of each."""
    monkeypatch.setattr(stacked, "READ_BYTES", 14 * 4 * FEATURES)  # 14 samples of one, two of each of five
    options = lazily("gaussian_features", epochs=2, keep_features_mib=keep) | {"dtype": torch.float32, "batch": 1}
    options["arch"] = Mlp(hidden=(128, 16))
    (lone,), among = in_company((3, SGD), **options), in_company(*((seed, SGD) for seed in range(5)), **options)
    assert stacks == [1, 1, 5, 5]
    assert lone.lines == among[3].lines
    assert all(torch.equal(lone.weights[name], among[3].weights[name]) for name in lone.weights)
