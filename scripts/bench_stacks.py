"""What many small networks gain where they are trained as one: runs one after another over the same in a stack, one thread.

    python scripts/bench_stacks.py [runs] [epochs]

Ratios, as in `bench.py`, but above 1. Whole runs are from the first weights to the network that was chosen, each measured on
its validation and test samples after each epoch; epochs are their steps alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from bench import Row, medians, report

from effdl.archs.adapt import InputBlock
from effdl.archs.mlp import Mlp
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.methods.backprop import Backprop
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training.company import Company, Question, carried_together
from effdl.training.loop import reseed
from effdl.training.optim import Sgd
from effdl.training.stacked import LearnEpoch

BATCH = 64
A = TypeVar("A")


class Nets(NamedTuple):
    """So many networks of a form; samples: of training, a fifth as many for validation and test. wanted: of whole runs."""

    name: str
    count: int
    widths: tuple[int, ...]
    samples: int
    wanted: str


SMALL = Nets("50 nets 16-64-64-2", 50, (16, 64, 64, 2), 4096, "≥ 4, aim 6")
WIDER = Nets("20 nets 784-64-10", 20, (784, 64, 10), 2048, "≥ 1.6")


def trained(nets: Nets, epochs: int, seed: int, company: Company) -> None:
    """A run of backprop in memory."""
    generator = torch.Generator().manual_seed(seed)
    features, *hidden, classes = nets.widths
    x, y = torch.randn(nets.samples, features, generator=generator), torch.arange(nets.samples) % classes
    data, few = Samples(x, y), torch.arange(nets.samples // 5)
    problem = Problem(data, data.take(few), SoftmaxCe(), outputs=classes, batch_size=BATCH, seed=seed)
    reseed(seed)
    chain = Mlp(hidden=tuple(hidden)).build(problem.facts)
    assert isinstance(chain.input, InputBlock)
    chain.input.fit(x)
    run = Run(seed, Sgd(lr=0.01), test=data.take(few), objective=SoftmaxCe(), batch_size=BATCH, company=company)
    Backprop(epochs=epochs).fit(problem, chain, run)


def runs() -> Iterator[Row]:
    """Whole runs of three epochs."""
    for nets in (SMALL, WIDER):
        tasks = [partial(trained, nets, 3, seed) for seed in range(nets.count)]
        alone, together = medians(partial(one_after_another, tasks), partial(carried_together, tasks))
        yield f"{nets.name}, batch {BATCH}: runs one after another over a stack", alone / together, nets.wanted


def one_after_another(tasks: Sequence[Callable[[Company], None]]) -> None:
    for task in tasks:
        task(Company())


class Asked(Company):
    """Keeps the epochs that a run asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[LearnEpoch] = []

    def ask(self, question: Question[A]) -> A:
        if isinstance(question, LearnEpoch):
            self.epochs.append(question)
        return question.alone()


def epochs() -> Iterator[Row]:
    """An epoch's steps, and beside them what products of the same shapes take."""
    for nets in (SMALL, WIDER):
        companies = [Asked() for _ in range(nets.count)]
        for seed, company in enumerate(companies):
            trained(nets, 1, seed, company)
        asked = [company.epochs[0] for company in companies]
        alone, together = medians(partial(by_themselves, asked), partial(LearnEpoch.together, asked))
        yield f"  steps alone, {nets.name}", alone / together, "for comparison"
        steps = math.ceil(nets.samples / BATCH)
        _, limit = medians(lambda: None, partial(products, nets, steps))
        yield "  batched products of these shapes over the stack's steps", limit / together, "the limit is 1"


def by_themselves(asked: Sequence[LearnEpoch]) -> None:
    for question in asked:
        question.alone()


def products(nets: Nets, steps: int) -> None:
    """Forward, to the weights and, above the first layer, to the inputs, for all networks at once."""
    layers = list(zip(nets.widths, nets.widths[1:], strict=False))
    shapes = [(nets.count, BATCH, fan_in, fan_out) for fan_in, fan_out in layers]
    x = [torch.ones(count, batch, fan_in) for count, batch, fan_in, _ in shapes]
    w = [torch.ones(count, fan_in, fan_out) for count, _, fan_in, fan_out in shapes]
    g = [torch.ones(count, batch, fan_out) for count, batch, _, fan_out in shapes]
    for _ in range(steps):
        for place, (inputs, weights, gradients) in enumerate(zip(x, w, g, strict=True)):
            torch.bmm(inputs, weights)
            torch.bmm(gradients.transpose(1, 2), inputs)
            if place > 0:
                torch.bmm(gradients, weights.transpose(1, 2))


if __name__ == "__main__":
    report({"runs": runs, "epochs": epochs}, {"runs": runs, "epochs": epochs})
