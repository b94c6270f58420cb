"""Many networks as one: what runs in company ask for, and how those of one form learn and are measured in one computation.

Parameters of all of them are stacked, (members, ...), and a rule's pure step (`Rule.descended`) is mapped over them by
``torch.func.vmap``. Members have nothing in common but the instructions: the sum of their losses has the gradients of each.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.errors import Diverged
from effdl.objectives.objective import Objective
from effdl.training.affine import stackable
from effdl.training.company import Question
from effdl.training.epoch import LOOK_EVERY, drain_epoch, ends_early, mean_loss
from effdl.training.form import stack_form
from effdl.training.learner import Learner
from effdl.training.loop import evaluate_each, train_epoch
from effdl.training.stacked_optimizer import StackedOptimizer, by_element, settings_of

READ_BYTES = 2**22  # of stacked samples that are read at once: what the cache holds, and many steps of small ones
Learned = list[tuple[float, int]]
Scores = dict[str, float]
M = TypeVar("M")


class Tell(Protocol):
    """Told each step, from 1; stands_for: how many runs are at it at once, of one that speaks for them, and 0 of the others.

    Whether it was shown.
    """

    def __call__(self, step: int, stands_for: int = 1) -> object: ...


class Stack:
    """Modules of one form with their tensors as one, (members, ...), of which each call is mapped over the members."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._holder = _Holder(stackable(copy.deepcopy(modules[0])))
        self.parameters = {
            name: _stacked(tensors).requires_grad_(tensors[0].requires_grad)
            for name, tensors in self._named("named_parameters")
        }
        self._buffers = {name: _stacked(tensors) for name, tensors in self._named("named_buffers")}

    def _named(self, kind: str) -> Iterator[tuple[str, list[Tensor]]]:
        of_each = [dict(getattr(module, kind)()) for module in self._modules]
        return ((name, [tensors[name] for tensors in of_each]) for name in of_each[0])

    def call(self, function: Callable[..., Any], *stacked: Tensor) -> Any:
        """function(module, *tensors) of each member, whose tensors are along the first dimension; outputs likewise."""
        tensors = {f"module.{name}": tensor for name, tensor in (self.parameters | self._buffers).items()}
        return vmap(lambda own, *of_member: functional_call(self._holder, own, (function, *of_member)))(tensors, *stacked)

    @torch.no_grad()
    def put_back(self) -> None:
        """Parameters into the modules that they are of."""
        for name, tensors in self._named("named_parameters"):
            torch._foreach_copy_(tensors, list(self.parameters[name].detach().unbind()))


class _Holder(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        return function(self.module, *tensors)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors])


def in_company(members: Sequence[M]) -> list[M]:
    """The same; a lone one stands twice, since a product of one matrix rounds otherwise than one of several."""
    return [*members, *members] if len(members) == 1 else list(members)


def side_by_side(batches: Sequence[Iterable[Batch]], sizes: Sequence[int]) -> Iterator[Batch]:
    """Batches of members as one, x (members, B, ...). sizes: of each; what is read may hold several, one after another."""
    waiting = iter(sizes)
    for read in zip(*batches, strict=True):
        x, y, index = (torch.stack([getattr(batch, name) for batch in in_company(read)]) for name in ("x", "y", "index"))
        start = 0
        while start < x.shape[1]:
            stop = start + next(waiting)
            yield Batch(x[:, start:stop], y[:, start:stop], index[:, start:stop])
            start = stop


@dataclass(frozen=True, eq=False)
class LearnEpoch(Question[Learned]):
    """One epoch of a segment, or of several at once, see `drain_epoch`.

    read: (how many batches may come as one) -> the epoch's batches. sizes: of each, where every epoch has the same; () where
    they cannot be told beforehand. sample_bytes: of what a sample is read as.
    """

    weight: ClassVar[int] = 1

    learners: Mapping[str, Learner]
    read: Callable[[int], Iterable[Batch]]
    progress: Tell
    expected: int = 0
    passing: Callable[[Iterator[Batch]], Iterable[Batch]] = iter
    sizes: Sequence[int] = ()
    sample_bytes: int = 4
    between: Callable[[int, Iterator[Batch]], Iterable[Batch]] = lambda place, batches: batches

    def key(self) -> Hashable | None:
        if len(self.learners) != 1 or not self.sizes:
            return None
        learner = self._learner
        rule = learner.rule.stack_key(learner.epoch)
        sent = learner.syncing is not None and not learner.syncing.stacks
        if rule is None or sent or not learner.ranks.alone or not by_element(learner.optimizer):
            return None
        return type(learner.rule), rule, tuple(self.sizes)

    @property
    def _learner(self) -> Learner:
        return next(iter(self.learners.values()))

    def alone(self) -> Learned:
        return drain_epoch(self.learners, self.read(1), self.progress, self.expected, self.passing, self.between)

    @classmethod
    def together(cls, questions: Sequence["LearnEpoch"]) -> list[Learned | Exception]:
        restores = [question._learner.begin_epoch() for question in questions]
        try:
            order = sorted(range(len(questions)), key=lambda i: settings_of(questions[i]._learner.optimizer))
            outcomes = cls._learned([questions[i] for i in order])
        finally:
            for restore in restores:
                restore()
        return [outcomes[order.index(i)] for i in range(len(questions))]

    @classmethod
    def _learned(cls, questions: Sequence["LearnEpoch"]) -> list[Learned | Exception]:
        """Those whose optimizers agree stand side by side."""
        sums, first = list[Tensor](), questions[0]
        learners = [question._learner for question in questions]
        stack = Stack(in_company([learner.rule for learner in learners]))
        every = list(stack.parameters.values())
        learning = [p for p in every if p.requires_grad] or every  # as `Optimizer.build` has it
        optimizer = StackedOptimizer(in_company([learner.optimizer for learner in learners]), learning)
        joined = max(1, READ_BYTES // (len(questions) * first.sizes[0] * first.sample_bytes))
        batches = side_by_side([question.read(joined) for question in questions], first.sizes)
        epoch, seed = learners[0].epoch, learners[0].seed

        def step(batch: Batch) -> Batch:
            descended, loss = stack.call(lambda rule, *of: _descended(rule, epoch, *of), batch.x, batch.y, batch.index)
            descended.sum().backward()
            return batch.passed_on(batch.x, loss)

        for batch in train_epoch(batches, step, optimizer, lambda step: seed(epoch, step)):
            assert batch.loss is not None
            sums.append(batch.loss.sum(1))
            if first.progress(len(sums), len(questions)):
                for question in questions[1:]:
                    question.progress(len(sums), 0)
            if len(sums) % LOOK_EVERY == 0 and not bool(sums[-1].isfinite().any()):
                break
        stack.put_back()
        optimizer.put_back()
        of_each = torch.stack(sums).double().unbind(1)[: len(questions)]
        return [question._outcome(total) for question, total in zip(questions, of_each, strict=True)]

    def _outcome(self, total: Tensor) -> Learned | Exception:
        """total: of each step's losses, (steps,)."""
        ((where, learner),), samples = self.learners.items(), sum(self.sizes)
        if len(total) < self.expected and total[-1].isfinite():
            return ends_early(len(total), self.expected, where)
        try:
            mean = mean_loss(total, samples, learner.rule, where)
        except Diverged as error:
            return error
        learner.end_epoch()
        return [(mean, samples)]


def maps(objective: Objective, facts: Facts) -> bool:
    """Whether its loss and its sums can be mapped over members: they take no way that hangs on a value."""
    outputs = torch.zeros(2, 3, facts.outputs)
    y = torch.zeros(2, 3, dtype=torch.long) if facts.targets == "classes" else torch.zeros(2, 3, facts.outputs)
    try:
        vmap(objective.loss)(outputs, y), vmap(objective.tally)(outputs, y)
    except Exception:  # of torch.func, or whatever a user's objective raises of what it is not made for
        return False
    return True


def _descended(rule: Any, epoch: int, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    descended, learned = rule.descended(Batch(x, y, index), epoch)
    return descended, learned.loss


@dataclass(frozen=True, eq=False)
class Evaluation(Question[list[Scores]]):
    """Scores of networks one above another, see `evaluate_each`. size: samples and batch size, () where they are not known."""

    levels: Sequence[tuple[nn.Module, nn.Module]]
    batches: Iterable[Batch]
    objective: Objective
    size: tuple[int, ...] = field(default=())

    def key(self) -> Hashable | None:
        if len(self.levels) != 1 or not self.size or self.size[0] == 0:
            return None
        form = stack_form(*self.levels[0])
        return None if form is None else (form, self.objective, self.size)

    def alone(self) -> list[Scores]:
        return [scores or {} for scores in evaluate_each(self.levels, self.batches, self.objective)]

    @classmethod
    def together(cls, questions: Sequence["Evaluation"]) -> list[list[Scores] | Exception]:
        objective = questions[0].objective
        stack = Stack(in_company([nn.Sequential(*question.levels[0]) for question in questions]))
        samples, size = questions[0].size
        sizes = [min(size, samples - start) for start in range(0, samples, size)]
        batches = side_by_side([question.batches for question in questions], sizes)
        (scores,) = evaluate_each([(nn.Identity(), _Mapped(stack))], batches, _OfEach(objective, len(in_company(questions))))
        return [[of_member] for of_member in (scores or ())[: len(questions)]]


class _Mapped(nn.Module):
    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self._stack = stack

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self._stack.call(lambda module, x: module(x), x)
        return outputs


@dataclass(frozen=True)
class _OfEach:
    """An objective of stacked outputs (members, B, K), with sums and scores of each member."""

    objective: Objective
    members: int

    def tally(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = vmap(self.objective.tally)(outputs, y)
        return sums

    def scores(self, tally: Mapping[str, Tensor]) -> list[Scores]:
        return [self.objective.scores({name: sums[i] for name, sums in tally.items()}) for i in range(self.members)]
