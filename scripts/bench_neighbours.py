"""What the exact k-filter and the least-squares distance cost beside named peers, in one run on one thread.

    python scripts/bench_neighbours.py [full] [chunk] [distance]

Ratios of least seconds of processor time, calls being made in turns. The peer of the filter is faiss's IndexFlatL2, searched
for k + 1 neighbours: `pip install faiss-cpu`, which nothing else here needs. MNIST, and CIFAR-10 for the chunk, are taken where
they are (EFFDL_DATA), else normal numbers with classes apart; a comment line says which.
"""

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
from effdl.errors import DataError
from effdl.training.loop import reseed

SAMPLES, CHUNK, PARTITION = 60_000, 6148, 10
TURNS = 2


def full() -> Iterator[Row]:
    """The k-filter of all of MNIST, k = 25."""
    x, y = images("mnist")
    yield from against_faiss("k-filter of 60,000 × 784, k = 25", x[:SAMPLES], y[:SAMPLES], 25, 1, "≤ 0.4")


def chunk() -> Iterator[Row]:
    """A chunk as DPL filters it: what the first of four partitions of EfficientNetV2-S puts out, untrained, k = 10 (§6.8.2)."""
    x, y = images("cifar10")
    reseed(0)
    network = build_choice("arch", "efficientnet_v2_s").build(facts((3, 32, 32), 128)).eval()
    with torch.no_grad():
        z = torch.cat(
            [network[:PARTITION](network.input(part)).flatten(1) for part in x[:CHUNK].view(-1, 3, 32, 32).split(128)]
        )
    yield from against_faiss(f"k-filter of {CHUNK:,} × {z.shape[1]:,}, k = 10", z, y[:CHUNK], 10, 5, "≤ 0.8")


def distance() -> Iterator[Row]:
    """The least-squares distance of MNIST's pixels to its classes."""
    x, y = images("mnist")
    z, targets = x[:SAMPLES].float() / 255, torch.nn.functional.one_hot(y[:SAMPLES]).float()
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = effdl.least_squares_distance(z, targets)

    def peer() -> None:
        w = torch.linalg.lstsq(z, targets).solution
        found["peer"] = float((targets - z @ w).square().sum()) / len(z)

    mine, theirs = in_turns(TURNS, ours, peer, of=min)
    yield "least-squares distance of 60,000 × 784, over torch.linalg.lstsq", mine / theirs, "≤ 0.2"
    yield "  its distance over lstsq's", found["ours"] / found["peer"], "≤ 1"


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
    report(ALL, ALL)
