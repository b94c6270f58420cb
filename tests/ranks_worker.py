"""What tests/test_ddp.py lets torchrun start: every case trained by two processes, what each of them ends in written down.

torchrun --nproc_per_node=2 tests/ranks_worker.py FOLDER
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.archs.classifier import Classifier
from effdl.augment.standard import Standard
from effdl.datasets.parity import SideBySide
from effdl.datasets.problem import Problem
from effdl.filters.random_subset import RandomSubset
from effdl.methods.backprop import Backprop
from effdl.methods.dfa import Dfa
from effdl.methods.fa import Fa
from effdl.methods.ntk import Ntk
from effdl.methods.segmentwise import Segmentwise
from effdl.methods.usf import Usf
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training.fused_sgd import FusedSgd
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, Sgd
from effdl.training.ranks import Ranks, joined

Ended = dict[str, Any]  # weights by name, and recorded lines


def chain(norm: bool = False, dropout: float = 0.0) -> BlockChain:
    """Three blocks of convolution and ReLU in float64; with batch normalisation only where asked for."""
    reseed(0)
    blocks = OrderedDict(
        (
            f"conv{i + 1}",
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b) if norm else nn.ReLU(), nn.Dropout(dropout)),
        )
        for i, (a, b) in enumerate(pairwise(tiny.WIDTHS))
    )
    block = InputBlock((1, tiny.SIDE, tiny.SIDE))
    block.fit(tiny.images(40, 1).x)
    return BlockChain(blocks, Classifier((tiny.WIDTHS[-1], tiny.SIDE, tiny.SIDE), tiny.CLASSES, size=2), block).double()


def problem(train: int, augmented: bool = False, batch_size: int = 8) -> Problem:
    split = tiny.images(train, 1), tiny.images(20, 2)
    change = Standard(crop=1).prepare(split[0]) if augmented else None
    return Problem(*split, SoftmaxCe(), outputs=tiny.CLASSES, batch_size=batch_size, augment=change)


def anew(train: int) -> Problem:
    """Halves of the images side by side, others in each epoch."""
    split = (SideBySide(half.x[..., : tiny.SIDE // 2], half.y, 2) for half in (tiny.images(train, 1), tiny.images(20, 2)))
    return Problem(*split, SoftmaxCe(), outputs=tiny.CLASSES, batch_size=8)


def fit(ranks: Ranks, method: Any, data: Problem, model: BlockChain, **of_run: Any) -> Ended:
    run = Run(optimizer=of_run.pop("optimizer", Sgd(lr=0.05)), ranks=ranks, **of_run)
    network = method.fit(data, model, run)
    return {"weights": tiny.copied(network), "lines": run.lines, "chosen": run.notes["segment/chosen"]}


def weighted(data: Problem) -> Problem:
    """The same problem with samples of unequal weight, some of none."""
    inner = data.ordered

    def ordered(*args: Any) -> Any:
        return (replace(batch, sample_weight=(batch.index % 4).double()) for batch in inner(*args))

    data.ordered = ordered  # type: ignore[method-assign]
    return data


CASES: dict[str, Callable[[Ranks], Ended]] = {
    "backprop": lambda ranks: fit(ranks, Backprop(epochs=2), problem(40), chain()),
    "backprop, adamw, uneven last batch, augmented": lambda ranks: fit(
        ranks, Backprop(epochs=2, checkpoint="block"), problem(45, augmented=True), chain(), optimizer=Adamw()
    ),
    "dll, kept features, uneven batches": lambda ranks: fit(
        ranks, Segmentwise(epochs=3, patience=1), problem(45, batch_size=9), chain()
    ),
    "dll, feednet, augmented": lambda ranks: fit(ranks, Segmentwise(epochs=2), problem(43, augmented=True), chain()),
    "dll, two blocks a segment, filtered": lambda ranks: fit(  # 19 of 40: the last batch is 3 samples, all of them rank 0's
        ranks, Segmentwise(epochs=2, segment_size=2, choose="last"), problem(40), chain(), filter=RandomSubset(share=0.475)
    ),
    "dll, samples made anew, filtered": lambda ranks: fit(
        ranks, Segmentwise(epochs=2), anew(40), chain(), filter=RandomSubset(share=0.475)
    ),
    "dfa, uneven last batch": lambda ranks: fit(ranks, Dfa(epochs=2), problem(45), chain()),
    "dfa, a perceptron, fused": lambda ranks: fit(
        ranks, Dfa(epochs=2, measure_train=True), problem(40), tiny.perceptron().double(), optimizer=FusedSgd(lr=0.05)
    ),
    "fa, weighted samples": lambda ranks: fit(ranks, Fa(epochs=2), weighted(problem(45)), chain()),
    "usf, samples made anew": lambda ranks: fit(ranks, Usf(epochs=2, measure_train=True), anew(45), chain()),
    "ntk": lambda ranks: fit(ranks, Ntk(epochs=2), problem(45), tiny.perceptron().double()),
    "dll, weighted samples": lambda ranks: fit(
        ranks, Segmentwise(epochs=2, keep_features_mib=0), weighted(problem(45)), chain()
    ),
}


def with_torchs_own(ranks: Ranks) -> Ended:
    """A network with batch normalisation trained by torch's DistributedDataParallel on the same parts."""
    from torch.nn.parallel import DistributedDataParallel

    data, model = problem(40), chain(norm=True)
    parallel = DistributedDataParallel(model.train())
    model.input.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(2):
        for batch in map(ranks.share, data.train(epoch)):
            nn.functional.cross_entropy(parallel(batch.x), batch.y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {"weights": tiny.copied(model)}


def step_seeds(ranks: Ranks) -> Tensor:
    """A random number of the first step's, as its dropout would draw it."""
    drawn: list[Tensor] = []

    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                drawn.append(torch.rand(()))
            return x

    model = chain()
    model.blocks.conv1.append(Draws())
    fit(ranks, Backprop(epochs=1), problem(8), model)
    return drawn[-1]


def main() -> None:
    torch.set_num_threads(1)
    with joined(int(os.environ["WORLD_SIZE"]), "cpu") as ranks:
        ended: dict[str, Any] = {name: case(ranks) for name, case in CASES.items()}
        ended["norm, ours"] = fit(ranks, Backprop(epochs=2), problem(40), chain(norm=True))
        ended["norm, torch's"] = with_torchs_own(ranks)
        ended["drawn"] = step_seeds(ranks)
        ended["agreed"] = ranks.agree(lambda: os.getpid()) == ranks.processes[0][1]
    torch.save(ended, Path(sys.argv[1]) / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main()
