"""What least squares and the methods on it cost beside named peers, and what their errors are, in one run on one thread.

    python scripts/bench_closed_forms.py [ridge] [cutoffs] [ridge_memory] [platonic] [execute]
    python scripts/bench_closed_forms.py pinv_4632 cutoffs_4632

Ratios of medians as in bench.py, but of processor time: calls here take seconds to minutes, too long for turns to even out what
else a machine does. pinv_4632 and cutoffs_4632 take many minutes, so that they run only where they are named. Features are of
MNIST where it is there (EFFDL_DATA), else of normal numbers; a comment line says which.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bench import Row, in_child, in_turns, peak_resident, report
from torch import Tensor
from torch.nn.functional import one_hot

from effdl import config
from effdl.archs.mlp import Mlp
from effdl.config import build_choice
from effdl.costs.memory import LiveStorages
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.least_squares.design import Design
from effdl.least_squares.solvers import Lstsq, Pinv, Ridge, Solver
from effdl.methods.platonic import Platonic
from effdl.objectives.losses import LinearMse
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.training.loop import reseed

SAMPLES, TARGETS = 60_000, 10
SMALL, LARGE = 1568, 4632
LAYERS, UNITS, TRIES, POINTS = 300, 16, 5, 5_000
RUNS = 100


def ridge() -> Iterator[Row]:
    """Ridge from features to weights, beside torch's rules for the same."""
    for n, times in ((SMALL, 3), (LARGE, 1)):
        z, y = features(n), targets()
        ours, peer = in_turns(times, lambda z=z, y=y: solved(Ridge(), z, y), lambda z=z, y=y: gels(z, y))
        yield f"ridge on {n} features, over lstsq by gels ({times}×)", ours / peer, "≤ 0.75"
        if n == SMALL:
            (pinv_s,) = in_turns(1, lambda z=z, y=y: torch.linalg.pinv(z) @ y)
            yield f"ridge on {n} features, over pinv (1×)", ours / pinv_s, "≤ 0.17"


def pinv_4632() -> Iterator[Row]:
    """The same beside one pinv of more features."""
    z, y = features(LARGE), targets()
    ours, peer = in_turns(1, lambda: solved(Ridge(), z, y), lambda: torch.linalg.pinv(z) @ y)
    yield f"ridge on {LARGE} features, over pinv (1×)", ours / peer, "≤ 0.17"


def cutoffs(n: int = SMALL) -> Iterator[Row]:
    """Training error in float32 beyond the least there is, found by QR in float64, relative to it.

    Torch's own cut-off, eps·max(m, n) of the largest singular value, is 7e-3 here. Of 1,568 features of standardised pixels all
    directions are above it, of pixels as they are in [0, 1] about half are below: it throws real ones away.
    """
    for pixels, standardised in (("standardised pixels", True), ("pixels in [0, 1]", False)):
        z, y = features(n, standardised), targets()
        least = error(z, y, torch.linalg.lstsq(z.double(), y.double(), driver="gels").solution)
        largest = torch.linalg.eigvalsh(z.T.double() @ z.double()).clamp_min(0).sqrt()
        bound = torch.finfo(z.dtype).eps * len(z) * largest[-1]
        yield f"{pixels}: of {n} directions under the default cut-off", (largest <= bound).sum().item(), "for comparison"
        for name, solver, wanted in (
            ("ridge", Ridge(), "≤ 1e-6"),
            ("pinv, default cut-off", Pinv(), "for comparison"),
            ("gelsy, default cut-off", Lstsq(driver="gelsy"), "for comparison"),
            ("gels, which has none", Lstsq(driver="gels"), "for comparison"),
        ):
            yield f"  training MSE beyond the least: {name}", error(z, y, solved(solver, z, y)) / least - 1, wanted


def cutoffs_4632() -> Iterator[Row]:
    """The same of more features."""
    yield from cutoffs(LARGE)


def ridge_memory() -> Iterator[Row]:
    """Bytes that ridge needs beyond Z and Y, in squares of n in float64; counted, and as a process's resident set has it."""
    y = targets()[: 2 * LARGE]
    z = torch.randn(len(y), LARGE, generator=torch.Generator().manual_seed(0))
    square, live = 8 * LARGE**2, LiveStorages()
    live.book([z, y], "parameter")
    with live:
        solved(Ridge(l2=0.0), z, y)
    yield f"ridge on {LARGE} features, n² numbers beyond Z and Y", (live.peak - held(z, y)) / square, "≤ 2 and a chunk"
    yield "  a chunk of 4096 samples, for scale", 4096 * LARGE * z.itemsize / square, "for comparison"
    yield "  resident: the same", in_child(_rise) / square, "≤ 2 and a chunk"
    twice = in_child(_rise, 2) / square
    yield "  resident, each feature being there twice: an eigendecomposition", twice, "≤ 4 and two chunks"


def _rise(times: int = 1) -> int:
    """Bytes by which ridge raises this process's peak resident set. times: that each feature is there."""
    z = torch.randn(2 * LARGE, LARGE // times, generator=torch.Generator().manual_seed(0)).repeat(1, times)
    y = torch.randn(2 * LARGE, TARGETS)
    solved(Ridge(l2=0.0), z[:64, :32], y[:64])  # what libraries load at their first call
    before = peak_resident()
    solved(Ridge(l2=0.0), z, y)
    return peak_resident() - before


def platonic() -> Iterator[Row]:
    """Platonic projections with tries, beside each made by an inverse of its own: judged by one more, by QR, or not at all."""
    data = build_choice("dataset", "sine").draw(torch.Generator().manual_seed(0))
    x, y = data.x[:POINTS], data.y[:POINTS]
    reseed(0)
    network = Mlp(hidden=(UNITS,) * LAYERS, activation="tanh").build(build_choice("dataset", "sine").facts())

    def ours(solver: Solver) -> object:
        problem = Problem(Samples(x, y), Samples(x[:2], y[:2]), LinearMse(), outputs=1, batch_size=POINTS)
        return Platonic(solver=solver, tries=TRIES).fit(problem, network, Run.in_memory())

    by_pinv, by_ridge, *peers = in_turns(
        5,
        lambda: ours(Pinv()),
        lambda: ours(Ridge()),
        lambda: made_one_by_one(x, y, lambda z: torch.linalg.pinv(z) @ y),
        lambda: made_one_by_one(x, y, lambda z: gels(z, y)),
        lambda: made_one_by_one(x, y, None),
    )
    for name, taken, wanted in (("pinv", by_pinv, "≤ 0.55"), ("ridge", by_ridge, "for comparison")):
        yield f"{TRIES} tries of {LAYERS} layers by {name}, over two pinv a try", taken / peers[0], wanted
        yield "  over one pinv a try, which lstsq by gels judges", taken / peers[1], "for comparison"
        yield "  over one pinv a try, which nothing judges", taken / peers[2], "for comparison"


def made_one_by_one(x: Tensor, y: Tensor, judge: Callable[[Tensor], Tensor] | None) -> Tensor:
    """The last layer's features: of each layer's tries the best, by the weights from features to targets that a judge finds."""
    generator, z = torch.Generator().manual_seed(0), with_ones(x)
    for _ in range(LAYERS):
        best: tuple[float, Tensor] | None = None
        for _ in range(TRIES):
            t = torch.cat([z, 10 * y], 1) @ torch.randn(z.shape[1] + 1, UNITS, generator=generator)
            above = with_ones((z @ (torch.linalg.pinv(z) @ t)).tanh())
            distance = 0.0 if judge is None else (y - above @ judge(above)).square().mean().item()
            best = (distance, above) if best is None or distance < best[0] else best
        assert best is not None
        z = best[1]
    return z


def execute() -> Iterator[Row]:
    """What a run costs beyond its method's own fit: opening, checking, measuring, recording."""
    chosen = ["dataset=sine", "method=platonic", "method/solver=ridge", "arch=mlp", "arch.hidden=[16]", "hardware.threads=1"]
    spec, fit, inside = config.build(config.compose(chosen)), Platonic.fit, list[tuple[float, float]]()

    def timed(*args: Any) -> Any:
        before = _clocks()
        try:
            return fit(*args)
        finally:
            wall, processor = (now - then for now, then in zip(_clocks(), before, strict=True))
            inside.append((wall, processor))

    beyond: dict[str, list[float]] = {"wall": [], "processor": []}
    with tempfile.TemporaryDirectory() as results, patch.object(Platonic, "fit", timed):
        for seed in range(RUNS + 1):
            before = _clocks()
            carry_out(replace(spec, seed=seed), Path(results))
            for name, now, then, of_fit in zip(beyond, _clocks(), before, inside[-1], strict=True):
                beyond[name].append(1000 * (now - then - of_fit))
    for name, taken in beyond.items():  # without the first run, which reads the data's fingerprint and asks git
        yield f"ms of {name} time that a run takes beyond its fit, mean of {RUNS}", statistics.mean(taken[1:]), "≤ 30 ms"


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@lru_cache(maxsize=1)
def features(n: int, standardised: bool = True) -> Tensor:
    """(60,000, n) ReLU of random projections of pixels, which are standardised one by one or as they are in [0, 1]."""
    x, generator = data(standardised)[0], torch.Generator().manual_seed(n)
    return (x @ torch.randn(x.shape[1], n, generator=generator)).relu_()


def targets() -> Tensor:
    return data()[1]


@lru_cache(maxsize=2)
def data(standardised: bool = True) -> tuple[Tensor, Tensor]:
    try:
        train = build_choice("dataset", "mnist").load()[0]
        x, labels = train.x[:SAMPLES].flatten(1).float() / 255, train.y[:SAMPLES]
        print("# features of MNIST")
    except DataError:
        generator = torch.Generator().manual_seed(0)
        x, labels = torch.randn(SAMPLES, 784, generator=generator), torch.arange(SAMPLES) % TARGETS
        print("# MNIST is not there: features of normal numbers")
    if standardised:
        x.sub_(x.mean(0)).div_(x.std(0).clamp_min(1e-6))
    return x, one_hot(labels, TARGETS).float()


def solved(solver: Solver, z: Tensor, y: Tensor) -> Tensor:
    return solver.factorise(Design.of(z, y)).decision


def gels(z: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.lstsq(z, y, driver="gels").solution


def error(z: Tensor, y: Tensor, w: Tensor) -> float:
    """Mean squared error of weights, in float64."""
    parts = zip(z.split(4096), y.split(4096), strict=True)
    return sum((some.double() @ w.double() - t).square().sum().item() for some, t in parts) / y.numel()


def held(*tensors: Tensor) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def with_ones(z: Tensor) -> Tensor:
    return torch.cat([z.new_ones(len(z), 1), z], 1)


ALL = {"ridge": ridge, "cutoffs": cutoffs, "ridge_memory": ridge_memory, "platonic": platonic, "execute": execute}

if __name__ == "__main__":
    report(ALL, {**ALL, "pinv_4632": pinv_4632, "cutoffs_4632": cutoffs_4632})
