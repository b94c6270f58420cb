"""What training by parts costs beside full backprop: all layers in turn, partitions at once, a replay; one run, one thread.

    python scripts/bench_parts.py [layers] [together] [replay]

Ratios, as in `bench.py`; 32 pixels, batch 128, SGD with momentum, the plain decision block.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from bench import Row, facts, in_turns, medians, problem, report
from torch import Tensor

from effdl.archs.chain import BlockChain
from effdl.config import build, build_choice, compose
from effdl.costs.cut import multiply_adds
from effdl.datasets.problem import Problem
from effdl.methods.backprop import Backprop
from effdl.methods.method import Method
from effdl.methods.segmentwise import Segmentwise
from effdl.records.plan import cost
from effdl.records.run import Run
from effdl.training.engine import Engine
from effdl.training.epoch import drain_epoch
from effdl.training.features import Stack
from effdl.training.loop import reseed
from effdl.training.optim import Sgd
from effdl.training.recording import Recording
from effdl.training.sources import Fed, Replay

BUDGET = 0.395  # of full backprop's step, and half a percent more
STEPS = 3
MORE = 9  # steps, for telling what a further one takes from what a training takes once, such as folding what is fed


def flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Stands for an augmentation: each epoch has images of its own."""
    return x.flip(-1)


def network(name: str, batch_size: int) -> BlockChain:
    reseed(0)
    chain: BlockChain = build_choice("arch", name).build(facts((3, 32, 32), batch_size))
    return chain


def data(varies: bool = False, batch_size: int = 128, steps: int = STEPS) -> Problem:
    found = problem((3, 32, 32), steps * batch_size, batch_size)
    found.augment, found.varies = (flipped, True) if varies else (None, False)
    return found


def engine(name: str, method: Method, on: Problem) -> Engine:
    chain, run = network(name, on.batch_size), Run.in_memory(Sgd(lr=0.01))
    training = method.training(on, chain, run)
    assert training is not None
    return Engine(training, on, chain, run)


def trained(name: str, method: Method, on: Problem) -> Callable[[], object]:
    """A whole training of one epoch, from a network that is drawn before."""
    waiting = [engine(name, method, on)]

    def fit() -> None:
        made = waiting.pop()
        waiting.append(engine(name, method, on))
        made.fit()

    return fit


def layers() -> Iterator[Row]:
    """Every layer for an epoch, over one epoch of full backprop; beside it the same of further steps, of which an epoch has
    hundreds, and what a training takes once."""
    for name in ("vgg13_bn", "efficientnet_b0"):
        for varies, how in ((False, "outputs kept"), (True, "augmented, so that all is fed anew")):
            found = []
            for on in (data(varies, steps=STEPS), data(varies, steps=MORE)):
                ours = trained(name, Segmentwise(epochs=1, choose="last"), on)
                found.append(medians(ours, trained(name, Backprop(epochs=1), on), 30.0))
            (short, peer_short), (long, peer_long) = found
            wanted = {("vgg13_bn", True): "≤ 3.0", ("efficientnet_b0", True): "≤ 1.9"}.get((name, varies), "≤ 1.5")
            step = (peer_long - peer_short) / (MORE - STEPS)
            yield f"all layers of {name}, {how}, over backprop", short / peer_short, wanted
            yield "  of further steps", (long - short) / (peer_long - peer_short), "for comparison"
            once = short - STEPS * (long - short) / (MORE - STEPS)
            yield "  what they take once for all, in steps of backprop", once / step, "for comparison"


def together() -> Iterator[Row]:
    """Four partitions of EfficientNetV2-S that learn at once, over one epoch of full backprop."""
    name = "efficientnet_v2_s"
    for batch_size in (128, 512):
        choices = ["method=dpl", "method.cut=batch", "method.together=true", f"arch={name}", "dataset=cifar10"]
        choices.append(f"dataset.batch_size={batch_size}")
        within = f"method.memory_budget={BUDGET}"
        for more, how in ((), ""), ((within,), f", budget {BUDGET}"), (("method.checkpoint=block",), ", recomputed by block"):
            planned = cost(build(compose([*choices, *more])), rows=("backprop",))
            assert planned is not None
            yield f"step of 4 partitions of {name}{how}, batch {batch_size}", planned.share, "≤ 0.40"
        still = sum(planned.by_kind[kind] for kind in ("parameter", "optimizer")) / planned.backprop_bytes
        yield "  of it weights and optimizers of all, which lie there all the while", still, "for comparison"
    on, at_once = data(), Segmentwise(epochs=1, partitions=4, cut="batch", together=True, choose="last")
    made = [engine(name, method, on) for method in (Backprop(epochs=1), at_once, replace(at_once, memory_budget=BUDGET))]
    calls = [steps(of) for of in made]
    in_turns(1, *calls)  # the first passes make what the optimizers keep
    peer, plain, spared = in_turns(5, *calls, of=min)
    yield f"4 partitions of {name} at once, an epoch's steps over backprop's", plain / peer, "≤ 1.10"
    yield f"  within a budget of {BUDGET}", spared / peer, "≤ 1.10"
    counts = multiply_adds(made[-1].chain, on)
    again = sum(counts[block - 1] for blocks in made[-1].run.notes["segment/recomputed"] for block in blocks)
    more = again / (3 * sum(counts))  # a backward pass has twice those of a forward pass
    yield "    multiply-adds of what is recomputed, over those of a step", more, "for comparison"


def steps(made: Engine) -> Callable[[], object]:
    """The steps of an epoch of segments that learn at once, without what is measured and saved after them."""
    learners = {str(i): made.making.learner(i) for i in range(len(made.training.segments))}
    source = Fed(made.problem, 0)
    source.through.look(Stack((made.chain.input,), (0,)))
    return lambda: drain_epoch(learners, source.train(0), lambda step: False)


def replay() -> Iterator[Row]:
    """An epoch's input of layer 20 of EfficientNetV2-S: recorded at layer 19, on disk, over fed through the 19 below."""
    on, chain = data(True), network("efficientnet_v2_s", 128).eval()
    below = Stack((chain.input, *chain.blocks[:19]), (0,) * 20)
    fed, val = Fed(on, 0), Fed(on, 0, only_val=True)
    fed.look(below)
    with tempfile.TemporaryDirectory() as folder:
        for where in ("device", "disk"):
            recording = Recording("bench", where, torch.device("cpu"), lambda: Path(folder))  # type: ignore[arg-type]
            for _ in recording.passing(fed.train(0)):
                pass
            replayed = Replay(recording, val)

            def drained(source: Fed | Replay) -> Callable[[], object]:
                return lambda: [None for _ in source.train(0)]

            ours, peer = medians(drained(replayed), drained(fed), 10.0)
            yield f"replayed from {where} over fed, layer 20 of efficientnet_v2_s", ours / peer, "≤ 0.1"


ALL = {"layers": layers, "together": together, "replay": replay}

if __name__ == "__main__":
    report(ALL, ALL)
