"""Filters, and trainings on a tiny problem with them, for the tests of filters."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import tiny
import torch
from torch import nn

from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.filters.condensed_neighbours import CondensedNeighbours
from effdl.filters.edited_neighbours import EditedNeighbours
from effdl.filters.el2n import El2n
from effdl.filters.filter import Filter
from effdl.filters.info_batch import InfoBatch
from effdl.filters.k_filter import KFilter
from effdl.filters.loss_filter import LossFilter
from effdl.filters.selective_backprop import SelectiveBackprop
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.neighbours.watching import unwatched
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training.optim import Sgd

FILTERS: list[Any] = [
    KFilter(k=2),
    KFilter(k=2, space="features"),
    KFilter(k=2, when="during", chunk=20, start=1, drop_at_most=0.5),
    EditedNeighbours(),
    CondensedNeighbours(),
    El2n(epoch=1),
    InfoBatch(full=0.2),
    SelectiveBackprop(),
    LossFilter(by="own", chunk=16),
    LossFilter(by="below"),
]
ALONE = FILTERS[:-1]  # that go with a single segment
METHODS = {
    "backprop": Backprop(epochs=3),
    "segmentwise": Segmentwise(epochs=3),
    "recorded": Segmentwise(epochs=3, record_at="all"),
}
CASES = [(made, name) for name in METHODS for made in (ALONE if name == "backprop" else FILTERS)]


def noisy(train: int = 40) -> Problem:
    """The tiny problem, of which every seventh label is another."""
    made = tiny.problem(train=train)
    y = made.train_split.y.clone()
    y[::7] = (y[::7] + 1) % 3
    return Problem(Samples(made.train_tensors().x, y), made.val_split, SoftmaxCe(), outputs=3, batch_size=8)


def fit(made: Filter | None, method: Any, problem: Problem, model: Any = None, **more: Any) -> tuple[nn.Module, Run]:
    run = Run(0, Sgd(lr=0.05), filter=made, **more)
    run.expect = lambda costs, keep_bytes: None  # type: ignore[method-assign]
    return method.fit(problem, tiny.chain() if model is None else model, run), run


def moment(**known: Any) -> Any:
    """What a filter is told, of which a test knows some alone."""
    sown = {
        "generator": lambda: torch.Generator().manual_seed(0),
        "segment": 0,
        "timer": lambda name: nullcontext(),
        "watch": unwatched,
    }
    return SimpleNamespace(**{"memory": {}, "epoch": 1, "epochs": 10, **sown, **known})
