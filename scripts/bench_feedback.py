"""A step of feedback rules beside plain autograd, BioTorch and the matrix products alone; one run, one thread.

    python scripts/bench_feedback.py [step] [depth]

Ratios of fastest times, measured in turns: of 2352-512-1 under a sigmoid, batch 128, stochastic gradient descent. BioTorch is
compared with where it is installed (pip install biotorch; nothing else needs it).
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from bench import Row, report
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.mlp import Mlp
from effdl.config import build_choice
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.objectives.losses import SigmoidBce
from effdl.records.run import Run
from effdl.training.engine import Engine
from effdl.training.fused_sgd import FusedSgd
from effdl.training.loop import reseed
from effdl.training.optim import Optimizer, Sgd
from effdl.training.rule import Rule

INPUTS, HIDDEN, BATCH, BATCHES, LR = 2352, 512, 128, 8, 0.01
DEEP = 784
OPTIMIZERS: dict[str, type[Sgd | FusedSgd]] = {"sgd": Sgd, "fused_sgd": FusedSgd}
Step = Callable[[nn.Module, Tensor, Tensor], object]


def fastest(calls: Mapping[str, Callable[[], object]], seconds: float = 30.0) -> dict[str, float]:
    """Least processor seconds of each, called in turns: what other work of the machine leaves alone now and then."""
    best = dict.fromkeys(calls, float("inf"))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, call in calls.items():
            before = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - before)
    return best


def data(shape: tuple[int, ...] = (INPUTS,)) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH * BATCHES, *shape, generator=generator)
    samples = Samples(x, torch.randint(0, 2, (len(x),), generator=generator))
    return Problem(samples, samples.take(torch.arange(10)), SigmoidBce(), outputs=1, batch_size=BATCH)


def network(on: Problem, hidden: tuple[int, ...] = (HIDDEN,)) -> BlockChain:
    reseed(0)
    return Mlp(hidden=hidden, bias=False).build(on.facts)


def by_engine(method: str, on: Problem, optimizer: Optimizer) -> Callable[[], object]:
    """A step as a run takes it."""
    made, run = build_choice("method", method), Run.in_memory(optimizer)
    chain = network(on)
    engine = Engine(made.training(on, chain, run), on, chain, run)
    learner = engine._begin(0, resumed=False)[0].learner

    def steps() -> Iterator[object]:
        while True:
            yield from learner.train_epoch(engine.source.train(0))

    return steps().__next__


def by_hand(on: Problem, step: Step, net: nn.Module, momentum: float) -> Callable[[], object]:
    samples = on.train_tensors()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=momentum, foreach=False)

    def steps() -> Iterator[None]:
        while True:
            for index in torch.randperm(len(samples)).split(BATCH):
                step(net, samples.x[index], samples.y[index][:, None].float())
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                yield

    return steps().__next__


def plain(net: nn.Module, x: Tensor, y: Tensor) -> None:
    F.binary_cross_entropy_with_logits(net(x), y).backward()


def layerwise(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """As BioTorch is used: the module is told the targets and the loss."""
    F.binary_cross_entropy_with_logits(net(x, y, F.binary_cross_entropy_with_logits), y).backward()


def products(on: Problem) -> Callable[[], object]:
    """What no step can do without: the two products with the large matrix, into memory that is there."""
    x, w = on.train_tensors().x, network(on).blocks[0][1][0].weight.detach()
    out, gradient, error = torch.empty(BATCH, HIDDEN), torch.empty_like(w), torch.randn(BATCH, HIDDEN)

    parts = x.split(BATCH)

    def steps() -> Iterator[None]:
        while True:
            for part in parts:
                torch.mm(part, w.T, out=out)
                torch.mm(error.T, part, out=gradient)
                yield

    return steps().__next__


def sequence() -> nn.Sequential:
    reseed(0)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, 1, bias=False))


def step() -> Iterator[Row]:
    """A step of DFA and of backprop by the engine."""
    on = data()
    for momentum in (0.0, 0.9):
        calls = {"products": products(on), "autograd": by_hand(on, plain, sequence(), momentum)}
        if find_spec("biotorch") is not None:
            from biotorch.module.biomodule import BioModule

            peer = BioModule(sequence(), mode="dfa", output_dim=1)
            calls["BioTorch"] = by_hand(on, layerwise, peer.train(), momentum)
        else:
            print("bench step: BioTorch is not installed, no row of it", file=sys.stderr)
        ours = {f"{method}, {name}": (method, kind) for method in ("dfa", "backprop") for name, kind in OPTIMIZERS.items()}
        calls |= {name: by_engine(method, on, kind(lr=LR, momentum=momentum)) for name, (method, kind) in ours.items()}
        times = fastest(calls)
        for name in ours:
            how = f"{name}, momentum {momentum:g}"
            wanted = ("≥ 0.85", "≥ 1.2") if "fused" in name else ("for comparison",) * 2
            yield f"products alone over a step of {how}", times["products"] / times[name], wanted[0]
            for other in ("autograd", "BioTorch"):
                if other in times:
                    yield f"step of {other} over {how}", times[other] / times[name], wanted[1]


def depth() -> Iterator[Row]:
    """Eight hidden layers of 512: forward and backward by each rule, and by DFA with all blocks going back at once."""
    on = data((DEEP,))
    batch = next(on.train(0))
    rules = {name: _rule(name, on) for name in ("dfa", "backprop", "fa")}
    calls: dict[str, Callable[[], object]] = {name: partial(_learned, rule, batch) for name, rule in rules.items()}
    calls |= {f"block {i}": call for i, call in enumerate(_blocks(rules["dfa"], batch))}
    times = fastest(calls)
    blocks = [seconds for name, seconds in times.items() if name.startswith("block")]
    for name in ("backprop", "fa"):
        yield f"forward and backward of dfa over {name}'s, 8 × 512", times["dfa"] / times[name], "for comparison"
    at_once = times["dfa"] - sum(blocks) + max(blocks)
    yield "the same, had each block a processor of its own to go back", at_once / times["backprop"], "a bound, nothing measured"


def _rule(method: str, on: Problem) -> Rule:
    chain = network(on, (HIDDEN,) * 8)
    training = build_choice("method", method).training(on, chain, Run.in_memory(Sgd()))
    rule: Rule = training.segments[0].rule(chain.blocks, chain.shapes(on.input_shape))
    rule.yields = False
    return rule.train()


def _learned(rule: Rule, batch: Batch) -> None:
    rule.learn(batch, 0)
    rule.zero_grad()


def _blocks(rule: Rule, batch: Batch) -> Iterator[Callable[[], object]]:
    """Of each block its backward pass alone, from a gradient that is there."""
    for block, h in zip(rule.blocks, rule.activations(batch.x, local=True), strict=True):
        gradient, weights = torch.randn_like(h), list(block.parameters())
        yield lambda h=h, gradient=gradient, weights=weights: torch.autograd.grad(h, weights, gradient, retain_graph=True)


ALL = {"step": step, "depth": depth}

if __name__ == "__main__":
    report(ALL, ALL)
