"""What data that are made anew in each epoch cost, beside the ways of their author and the training on them.

    python scripts/bench_data.py [parity]

Ratios as in bench.py, but of the least processor time of a few turns. Images are MNIST's where it is there (EFFDL_DATA), else
random ones of its form; a comment line says which.
"""

from collections.abc import Iterator

import torch
from bench import Row, report
from bench_closed_forms import in_turns
from torch import Tensor

from effdl.archs.mlp import Mlp
from effdl.config import build_choice
from effdl.datasets.parity import SideBySide, beside
from effdl.datasets.problem import Problem
from effdl.errors import DataError
from effdl.methods.backprop import Backprop
from effdl.objectives.losses import SigmoidBce
from effdl.records.run import Run
from effdl.training.loop import reseed
from effdl.training.optim import Sgd

K, SAMPLES, BATCH = 3, 60_000, 128


def parity() -> Iterator[Row]:
    """An epoch of parity, k = 3, 60,000 samples: what it takes to make it, and to read it as batches."""
    images, labels = pool()
    train = SideBySide(images, labels, K)
    data = Problem(train, train.take(torch.arange(0)), SigmoidBce(), outputs=1, batch_size=BATCH)
    reseed(0)
    network = Mlp(hidden=(512,)).build(data.facts)
    network.input.scale("channel", train)
    ours, read, loop, whole, training = in_turns(
        3,
        lambda: train.epoch(0, 1),
        lambda: [None for _ in data.train(0)],
        lambda: by_a_loop(images[:, 0], labels),
        lambda: by_three_gathers(images[:, 0], labels),
        lambda: Backprop(epochs=1).fit(data, network, Run.in_memory(Sgd(lr=0.01))),
        of=min,
    )
    yield "an epoch of parity made, over a loop with hstack per sample", ours / loop, "≤ 0.01"
    yield "the same over three gathers, a concatenation and a scale", ours / whole, "for comparison"
    yield "an epoch of parity made and read in batches, over the loop", read / loop, "for comparison"
    yield "an epoch of parity made, over training on it by 2352-512-1", ours / training, "≤ 0.05"
    yield "an epoch of parity made and read, over training on it", read / training, "≤ 0.05"


def by_a_loop(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Samples stacked one by one."""
    places = beside(len(images), K, 1)
    rows = [torch.hstack([images[place] for place in sample]) for sample in places.T.tolist()]
    return torch.stack(rows), labels[places].sum(0) % 2


def by_three_gathers(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All samples at once, scaled, as the author did last."""
    places = beside(len(images), K, 1)
    x = torch.cat([images[place] for place in places], 2)
    return (x - 33.3285) / 78.5655, labels[places].sum(0) % 2


def pool() -> tuple[Tensor, Tensor]:
    """(60,000, 1, 28, 28) bytes and their digits."""
    try:
        train, _ = build_choice("dataset", "mnist").load()
    except DataError:
        print("# MNIST is not there: random images")
        x = torch.randint(0, 256, (SAMPLES, 1, 28, 28), dtype=torch.uint8)
        return x, torch.arange(SAMPLES) % 10
    print("# images of MNIST")
    return train.x, train.y


ALL = {"parity": parity}

if __name__ == "__main__":
    report(ALL, ALL)
