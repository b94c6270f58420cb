"""What the exact k-filter and the least-squares distance cost beside named peers, in one run on one thread.

    python scripts/bench_neighbours.py [full] [chunk] [distance]
    python scripts/bench_neighbours.py small

Ratios of least seconds of processor time, calls being made in turns. The peer of the filter is faiss's IndexFlatL2, searched
for k + 1 neighbours: `pip install faiss-cpu`, which nothing else here needs. MNIST, and CIFAR-10 for the chunk, are taken where
they are (EFFDL_DATA), else normal numbers with classes apart; a comment line says which. The chunk is what a partition puts out
as it learns, and the filter's time stands over that of these steps, too. Probes have a script of their own, bench_probes.py.
small: every path in half a minute, whose ratios say nothing.
"""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from bench import Row, facts, in_turns, report
from torch import Tensor

import effdl
from effdl.config import build_choice
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.objectives.losses import SoftmaxCe
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.loop import reseed, train_epoch
from effdl.training.optim import Sgd

SAMPLES, CHUNK, PARTITION, BATCH = 60_000, 6148, 10, 128
TURNS = 2
NOTHING = "nothing of so few"


def full() -> Iterator[Row]:
    """The k-filter of all of MNIST, k = 25."""
    x, y = images("mnist")
    yield from against_faiss("k-filter of 60,000 × 784, k = 25", x[:SAMPLES], y[:SAMPLES], 25, 1, "≤ 0.4")


def chunk() -> Iterator[Row]:
    """A chunk as DPL filters it, k = 10 (§6.8.2)."""
    yield from of_partition(CHUNK, 5, "≤ 0.8", "≤ 0.15")


def of_partition(samples: int, turns: int, over_faiss: str, over_training: str) -> Iterator[Row]:
    """What the first of four partitions of EfficientNetV2-S puts out of so many samples while it learns from them."""
    x, y = images("cifar10")
    z, seconds = put_out(x[:samples].view(-1, 3, 32, 32), y[:samples])
    yield from against_faiss(f"k-filter of {samples:,} × {z.shape[1]:,}, k = 10", z, y[:samples], 10, turns, over_faiss)
    (mine,) = in_turns(turns, lambda: effdl.k_filter(z, y[:samples], 10, least=0), of=min)
    print(f"# the partition learned from them in {seconds:.0f} s")
    yield "  its time over that of the partition's steps", mine / seconds, over_training


def put_out(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Features (m, F) that came out of the partition batch by batch, and the seconds of its steps, input block included."""
    reseed(0)
    chain = build_choice("arch", "efficientnet_v2_s").build(facts((3, 32, 32), BATCH))
    data = Samples(x, y)
    problem = Problem(data, data.take(torch.arange(1)), SoftmaxCe(), outputs=10, batch_size=BATCH)
    chain.input.scale("channel", problem.train_split)
    partition = chain[:PARTITION]
    rule = DecisionRule(partition, Pool().build(chain.shapes((3, 32, 32))[PARTITION - 1], 10), problem.objective)
    optimizer = Sgd(lr=0.05).build(rule.parameters())
    rule.train()
    before = time.process_time()
    batches = (
        Batch(chain.input(x[at]).detach(), y[at], at)
        for at in torch.arange(len(x)).split(BATCH)
        if len(at) > 1  # normalisation cannot take one
    )
    found = [batch.x.flatten(1).float() for batch in train_epoch(batches, lambda batch: rule.learn(batch, 0), optimizer, same)]
    return torch.cat(found), time.process_time() - before


def same(step: Any) -> Any:
    return step


def distance(samples: int = SAMPLES, wanted: str = "≤ 0.2") -> Iterator[Row]:
    """The least-squares distance of MNIST's pixels to its classes."""
    x, y = images("mnist")
    z, targets = x[:samples].float() / 255, torch.nn.functional.one_hot(y[:samples]).float()
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = effdl.least_squares_distance(z, targets)

    def peer() -> None:
        w = torch.linalg.lstsq(z, targets).solution
        found["peer"] = float((targets - z @ w).square().sum()) / len(z)

    mine, theirs = in_turns(TURNS, ours, peer, of=min)
    yield f"least-squares distance of {samples:,} × 784, over torch.linalg.lstsq", mine / theirs, wanted
    yield "  its distance over lstsq's", found["ours"] / found["peer"], "≤ 1"


def small() -> Iterator[Row]:
    """Every path."""
    x, y = images("mnist")
    yield from against_faiss("k-filter of 2,000 × 784, k = 25", x[:2000], y[:2000], 25, 1, NOTHING)
    yield from of_partition(256, 1, NOTHING, NOTHING)
    yield from distance(2000, NOTHING)


def against_faiss(what: str, x: Tensor, y: Tensor, k: int, turns: int, wanted: str) -> Iterator[Row]:
    if (faiss := peer()) is None:
        return
    kept: dict[str, Any] = {}

    def ours() -> None:
        kept["ours"] = effdl.k_filter(x, y, k, least=0).numpy()

    def theirs() -> None:
        kept["faiss"] = by_faiss(faiss, x.float().numpy(), y.numpy(), k)

    mine, peers = in_turns(turns, ours, theirs, of=min)
    yield f"{what}, over faiss", mine / peers, wanted
    yield "  share kept", len(kept["ours"]) / len(x), "for comparison"
    yield (
        "  samples that are in one kept set alone",
        len(np.setxor1d(kept["ours"], kept["faiss"])),
        "0, but for equal distances",
    )


def by_faiss(faiss: ModuleType, x: Any, y: Any, k: int) -> Any:
    """Indices kept, by the k + 1 neighbours of each sample without itself."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    neighbours = index.search(x, k + 1)[1]
    others = neighbours != np.arange(len(x))[:, None]
    others[others.all(1), -1] = False  # itself behind its duplicates
    foreign = (y[neighbours] != y[:, None]) & others
    return foreign.any(1).nonzero()[0]


@lru_cache(maxsize=2)
def images(name: str) -> tuple[Tensor, Tensor]:
    try:
        train = build_choice("dataset", name).load()[0]
        print(f"# {name}")
        return train.x.flatten(1), train.y
    except DataError:
        print(f"# {name} is not there: normal numbers")
        features = 784 if name == "mnist" else 3072
        y = torch.arange(SAMPLES) % 10
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(10, features, generator=generator)
        return torch.randn(SAMPLES, features, generator=generator) + 0.3 * means[y], y


def peer() -> ModuleType | None:
    try:
        import faiss
    except ImportError:
        print("# faiss is not there: pip install faiss-cpu")
        return None
    faiss.omp_set_num_threads(1)
    module: ModuleType = faiss
    return module


ALL: dict[str, Callable[[], Iterator[Row]]] = {"full": full, "chunk": chunk, "distance": distance}

if __name__ == "__main__":
    report(ALL, {**ALL, "small": small})
