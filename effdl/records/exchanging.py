"""What averaging would take of a Spec's time, by every form of packets: measured on its own weights and steps, and foretold."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from effdl import config
from effdl.costs.exchange import Coded, Exchange, loopback, mean_seconds, measured
from effdl.costs.rehearsal import clock
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Split
from effdl.errors import ConfigError
from effdl.records.carry import build_network, open_problem, open_run
from effdl.records.report import Track, untracked
from effdl.training.averaging import Averaging, averaged
from effdl.training.engine import Engine
from effdl.training.hardware import restoring
from effdl.training.learner import Learner
from effdl.training.ranks import Ranks
from effdl.training.sources import prepared
from effdl.training.sync import Syncing
from effdl.training.wire import Form, Wire, taken

STEPS_S = 20.0  # after which what is sent is of as many steps as there have been
WARM_UP = 1
FEW: tuple[tuple[Form, int | None], ...] = (
    ("tensors", None),
    ("lossless", None),
    ("float16", None),
    ("bfloat16", None),
    ("plain", 8),
)
CODED: tuple[Form, ...] = ("huffman", "zstd", "auto")
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Exchanging:
    """Averaging, planned.

    forms: by name, "tensors" first; those whose package is missing are not there. chosen: the Spec's own. auto: the coder that
    ``auto`` takes here for most weights. segment, segments: whose weights these are, from 1, the largest of so many.
    weights: how many. changed: steps from the drawn weights, whose changes forms that lose something hold; 0 where they hold
    weights. samples: of a worker's step.
    """

    exchange: Exchange
    forms: dict[str, Coded]
    chosen: str
    auto: str | None
    segment: int
    segments: int
    weights: int
    changed: int
    samples: int

    @property
    def plain(self) -> Coded:
        """Tensors as they are, beside which all others pay or not."""
        return self.forms["tensors"]

    @property
    def predicted(self) -> list[str]:
        """What of it this machine has no measure of: more than two workers, links that it cannot fill."""
        beyond = [f"{self.exchange.workers} workers"] if self.exchange.workers > 2 else []
        return beyond + (["a link faster than its own loopback"] if self.exchange.link / 8 > self.exchange.own else [])

    def of(self, form: str) -> dict[str, Any]:
        """What there is to say of a form."""
        coded, how = self.forms[form], self.exchange
        return {
            **asdict(coded),
            "transfer_s": how.transfer_s(coded.packet_bytes),
            "exchange_s": how.seconds(coded),
            "share": how.share(coded),
            "pays": how.seconds(coded) < how.seconds(self.plain),
            "exchange_times_as_fast": how.seconds(self.plain) / how.seconds(coded),
            "training_times_as_fast": how.times_as_fast(coded, self.plain),
            "break_even_bits_per_s": how.break_even(coded, self.plain),
        }

    def to_json(self) -> dict[str, Any]:
        """With null for what is infinite."""
        own = {name: value for name, value in asdict(self).items() if name not in ("exchange", "forms")}
        forms = {form: {**self.of(form), "chosen": form == self.chosen} for form in self.forms}
        told = {**asdict(self.exchange), **own, "predicted": self.predicted}
        return {**_finite(told), "forms": {form: _finite(one) for form, one in forms.items()}}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == math.inf else value for name, value in values.items()}


def exchanging(spec: config.Spec, link: float, workers: int, track: Track = untracked) -> Exchanging:
    """Plan a Spec's averaging: a few steps of one worker's part are made, and what it would send is coded.

    Args:
        link: bits a second, of each worker's own link.

    Raises:
        EffdlError: it averages nothing, no data, or a coder whose package is not installed.
    """
    if not isinstance(how := spec.sync, Averaging):
        raise ConfigError("--link: says what averaging takes, which is sync=averaging")
    with restoring():
        device = spec.hardware.open()
        train, test = spec.dataset.load()
        problem = open_problem(spec, train, test, device)
        engine = _engine(spec, problem, test.to(device), device)
        learner, segment = _largest(engine)
        drawn = {name: p.detach().clone() for name, p in averaged(learner.rule).items()}
        every = min(how.every, problem.steps)  # and at the ends of epochs
        made, step_s, samples = _stepped(engine, learner, segment, every, workers)
        ours = {name: p.detach() for name, p in averaged(learner.rule).items()}
        changes = {name: w - drawn[name] for name, w in ours.items()} if how.sends == "changes" else ours
        found, auto = dict[str, Coded](), None
        wires = _wires(how)
        for name, wire in track(wires.items(), "coding", len(wires)):
            sent = ours if wire.is_exact else changes
            try:
                found[name] = measured(wire, sent)
            except ValueError as error:
                if name == _name(how.form, how.bits):
                    raise ConfigError(f"sync.form: {error}") from None
                continue
            if wire.form == "auto":
                auto = taken(wire.write(sent))
        own = loopback()
        exchange = Exchange(workers, link, own.bytes_per_s, own.latency_s, mean_seconds(ours), every, step_s)
    count_, segments = sum(w.numel() for w in ours.values()), len(engine.training.segments)
    changed = made if how.sends == "changes" else 0
    return Exchanging(exchange, found, _name(how.form, how.bits), auto, segment + 1, segments, count_, changed, samples)


def _wires(how: Averaging) -> dict[str, Wire]:
    asked = [*FEW, *((form, how.bits) for form in CODED), (how.form, how.bits)]
    return {_name(form, bits): Wire(form, bits) for form, bits in asked}


def _name(form: Form, bits: int | None) -> str:
    return form if bits is None else f"{form}, {bits} bits"


def _engine(spec: config.Spec, problem: Problem, test: Split, device: torch.device) -> Engine:
    network = spec.method.chain(build_network(spec, problem, device))
    run = open_run(replace(spec, sync=None), test)
    if (training := spec.method.training(problem, network, run)) is None:
        raise ConfigError(f"method: {type(spec.method).__name__} takes no steps between which weights could be averaged")
    return Engine(training, problem, network, run)


def _largest(engine: Engine) -> tuple[Learner, int]:
    """The learner with most weights, each of which is averaged by itself."""
    best = max(range(len(engine.training.segments)), key=lambda i: _weights(engine.making.learner(i)))
    return engine.making.learner(best), best


def _weights(learner: Learner) -> int:
    return sum(p.numel() for p in averaged(learner.rule).values())


class _Local(Syncing):
    """Steps are a worker's own, and nothing is sent."""

    def exchange(self, *_: Any) -> None: ...

    def end_epoch(self, epoch: int) -> None: ...


def _stepped(engine: Engine, learner: Learner, segment: int, every: int, workers: int) -> tuple[int, float, int]:
    """Let a worker make the steps up to an average: how many it made, seconds of one, and samples of the first.

    What feeds the segment is not in them. Fewer steps where they would take long.
    """
    learner.ranks = Ranks(0, workers)
    learner.syncing = _Local(learner.rule, learner.ranks)
    below, device = engine.chain[: engine.training.segments[segment].start], next(engine.chain.parameters()).device
    stepping, made, sizes, resumed = 0.0, 0, list[int](), 0.0

    def batches() -> Iterator[Batch]:
        nonlocal stepping, made, resumed
        for batch in _fed(engine, learner, below, workers):
            if made > WARM_UP:
                stepping += clock(device) - resumed
            if made == max(every, WARM_UP + 1) or stepping > STEPS_S:
                return
            sizes.append(len(batch))
            resumed = clock(device)
            made += 1
            yield batch

    for _ in learner.train_epoch(batches()):
        pass
    return made, stepping / (made - WARM_UP), sizes[0]


def _fed(engine: Engine, learner: Learner, below: nn.Module, workers: int) -> Iterator[Batch]:
    """The first worker's parts of batches, epoch after epoch, as the segment gets them."""
    problem, chain, autocast = engine.problem, engine.chain, engine.run.hardware.autocast
    for epoch in count():
        parts: Iterator[Batch] = map(Ranks(0, workers).share, problem.train(epoch))
        if learner.rule.prepares:
            parts = prepared(parts, learner.rule.prepare, problem.seed, epoch)
        for part in parts:
            with torch.no_grad(), autocast():
                x = below(chain.input(part.x))
            yield replace(part, x=x)
