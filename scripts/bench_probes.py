"""What all probes of layers, weights, gradients and outputs take at one look, over an epoch of training, on one thread.

    python scripts/bench_probes.py [BATCHES]

The network is one of ten layers, nine of them convolutions, with batch normalisation; images are CIFAR-10's where it is
(EFFDL_DATA), else random ones. Seconds of processor time; the epoch of 45,000 images is extrapolated from so many batches, by
default 4, of which the first does not count.
"""

import sys
import time
from dataclasses import replace

import torch
from bench import problem
from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.config import build_choice, choices
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.errors import DataError
from effdl.probes.alignment import Alignment
from effdl.probes.nearest import Nearest
from effdl.probes.tsne import Tsne
from effdl.probes.weights import Weights
from effdl.records.run import Run
from effdl.training.decision_rule import DecisionRule
from effdl.training.look import Learning, Look
from effdl.training.loop import reseed, train_epoch
from effdl.training.optim import Sgd

IMAGES, BATCH = 45_000, 128
WIDTHS = ((96, 1), (96, 1), (96, 2), (192, 1), (192, 1), (192, 2), (192, 1), (192, 1), (192, 1))
OTHERS = (Alignment, Nearest, Tsne, Weights)  # of feedback, of single images, of networks that can be drawn


def network() -> BlockChain:
    """Nine convolutions, of which two halve the map, and an affine layer in the place of average pooling."""
    reseed(0)
    blocks, comes = {}, 3
    for i, (width, stride) in enumerate(WIDTHS):
        convolution = nn.Conv2d(comes, width, 3, stride=stride, padding=1, bias=False)
        blocks[f"conv{i + 1}"] = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
        comes = width
    return BlockChain(blocks, nn.Sequential(nn.Flatten(), nn.Linear(64 * comes, 10)), InputBlock((3, 32, 32)))


def data() -> tuple[Problem, str]:
    plain = problem((3, 32, 32), IMAGES, BATCH)
    try:
        train, _ = build_choice("dataset", "cifar10").load()
    except DataError:
        return plain, "random images"
    some, rest = train.take(torch.arange(IMAGES)), train.take(torch.arange(IMAGES, len(train)))
    return Problem(some, rest, plain.objective, outputs=10, batch_size=BATCH), "CIFAR-10"


def main(batches: int) -> None:
    torch.set_num_threads(1)
    (of, which), chain = data(), network()
    chain.input.scale("channel", of.train_split)  # type: ignore[operator]
    rule = DecisionRule(chain.blocks, chain.head, of.objective)
    optimizer = Sgd(lr=0.01).build(rule.parameters())
    taken = list[float]()
    rule.train()

    def fed(batch: Batch) -> Batch:
        with torch.no_grad():
            return batch.passed_on(chain.input(batch.x))

    some = (fed(batch) for _, batch in zip(range(batches), of.train(0), strict=False))
    before = time.process_time()
    for _ in train_epoch(some, lambda batch: rule.learn(batch, 0), optimizer, lambda step: step):
        taken.append(time.process_time() - before)
        before = time.process_time()
    epoch = sum(taken[1:]) / len(taken[1:]) * IMAGES / BATCH
    probes = [build_choice("probe", name) for name in choices("probe") if name not in ("none", "fgsm")]
    run = Run(0, probes=[replace(one, every=1) for one in probes if not isinstance(one, OTHERS)])
    learning = Learning(rule, of.objective, 1, lambda: next(of.train(0)), of, (chain.input,), chain, tuple(chain.names))
    before = time.process_time()
    run.probe(Look(chain.blocks, learning), 0, 0, last=False)
    look = time.process_time() - before
    print(f"# {which}, {torch.get_num_threads()} thread; an epoch of {IMAGES:,} images: {epoch:.0f} s, the look: {look:.0f} s")
    for name, seconds in sorted(run.times.items()):
        print(f"#   {name}: {seconds:.1f} s by the clock")
    print(f"all probes of ten layers at one look, over an epoch: {look / epoch:.3f} (wanted: ≤ 0.25)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
