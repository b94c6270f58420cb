"""Run: what a method holds while it learns: seeds, optimizer, records, checkpoints; the test split stays inside."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from effdl.costs.seconds import measuring_seconds, training_seconds
from effdl.datasets.batch import Batch
from effdl.datasets.split import Split
from effdl.datasets.waiting import watched
from effdl.errors import Stopped, disk_errors
from effdl.filters.filter import Filter
from effdl.objectives.objective import SCORES, Objective
from effdl.probes.probe import Probe, in_lines, measured, not_finite, untraced
from effdl.probes.sample import share
from effdl.records import expected
from effdl.records.logger import Log
from effdl.records.measure import Measure, finite
from effdl.records.report import Progress, Reporter, Settings, Silent
from effdl.records.store import Store
from effdl.records.summed import kept_shares, of_sync
from effdl.records.temporary import Temporary
from effdl.rng import seed_for
from effdl.training.company import CLOCKS, Company
from effdl.training.features import Stack
from effdl.training.handle import SegmentCost
from effdl.training.hardware import Hardware
from effdl.training.look import Look
from effdl.training.loop import evaluate
from effdl.training.optim import Optimizer, Schedule
from effdl.training.ranks import Ranks
from effdl.training.sync import Sync

T = TypeVar("T")
GoesOn = Callable[[int, float], bool]

VALIDATED = tuple(f"val/{name}" for name in SCORES)
SHOW_EVERY_S = 0.2
CHECKPOINT_SHARE = 0.05  # of the run's time at most


class Run:
    """One Spec carried out, or, by `in_memory`, a method used from Python without any files.

    Args:
        seed: of all random streams but the data's order and split, which come from the problem's own seed.
        optimizer: the setting from which each segment's optimizer is built.
        test: the test split, or None. Methods cannot read it; `test` writes its numbers to the record only.
        objective: for measuring on the test split.
        filter: drops training samples.
        hardware: what it computes on; by default the device where the problem and the network are, in the precision that they
            have.
        sync: how these agree, and what weights go through on the way.
        ranks: the processes that carry it out together; only the first is given a store, a test split and the like.
        probes: measure at the ends of epochs.
        store: where records go; None keeps them in ``lines`` and ``notes`` alone.
        log: sees each line too.
        reporter: where progress is shown.
        test_every: "epoch", "segment" or "run": when `test` really measures.
        goes_on: asked after each epoch but the last, with its number over all segments, from 0, and the score on validation
            samples; where it says no the run stops at a checkpoint.
        shorter: settings that would make it shorter, asked for where it takes long.
        company: of runs that are trained with it; by default it is alone.
    """

    def __init__(
        self,
        seed: int = 0,
        optimizer: Optimizer | None = None,
        *,
        test: Split | None = None,
        objective: Objective | None = None,
        filter: Filter | None = None,
        hardware: Hardware | None = None,
        ranks: Ranks | None = None,
        sync: Sync | None = None,
        probes: Sequence[Probe] = (),
        store: Store | None = None,
        log: Log | None = None,
        reporter: Reporter | None = None,
        test_every: str = "epoch",
        batch_size: int = 256,
        name: str = "run",
        goes_on: GoesOn | None = None,
        shorter: Settings = list,
        company: Company | None = None,
    ) -> None:
        self._goes_on, self._shorter = goes_on, shorter
        self._temporary: Temporary | None = None
        self._seed, self._optimizer = seed, optimizer
        self._objective, self._filter, self._probes = objective, filter, probes
        self.hardware, self.ranks = hardware or Hardware(), ranks or Ranks()
        self.company, self._sync = company or Company(), sync
        self._measure = None
        if test is not None and objective is not None:
            self._measure = Measure(test, objective, batch_size, self.company)
        self._store, self._log, self._reporter, self._test_every = store, log, reporter or Silent(), test_every
        self.name = name
        self.lines: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}
        self.lists: dict[str, Tensor] = {}
        self.times: dict[str, float] = {}
        self._timed: list[tuple[str, list[float]]] = []  # timers that are open, and what others took within each
        self.resumed = False  # whether it goes on from a checkpoint
        self._started, self._saved_at = time.perf_counter(), self.company.now("wall")
        self._counted_at = {name: self.company.now(name) for name in CLOCKS}
        self._save_cost = 0.0
        self.plan: dict[str, list[float]] = {"epochs": [], "epoch_s": []}  # of each segment, as expected
        self._first_fraction: float | None = None
        self._show_at = 0.0
        self._nulls = set[str]()  # probes of which it was said that numbers are not finite

    @classmethod
    def in_memory(
        cls,
        optimizer: Optimizer | None = None,
        *,
        seed: int = 0,
        hardware: Hardware | None = None,
        reporter: Reporter | None = None,
    ) -> "Run":
        """A run without files, for use from Python."""
        return cls(seed, optimizer, hardware=hardware, reporter=reporter)

    @property
    def schedule(self) -> Schedule | None:
        return self._optimizer.schedule if self._optimizer else None

    @property
    def filter(self) -> Filter | None:
        return self._filter

    @property
    def sync(self) -> Sync | None:
        return self._sync

    def seed(self, stream: str, *counters: int) -> int:
        return seed_for(self._seed, stream, *counters)

    def optimizer(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise ValueError("this run has no optimizer: Run.in_memory(Sgd(lr=0.05))")
        return self._optimizer.build(parameters, lr_scale, weight_decay_scale)

    def folder(self, name: str) -> Path:
        if self._store is not None:
            return self._store.folder(name)
        self._temporary = self._temporary or Temporary()
        folder = self._temporary.path / name
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        return folder

    def decide(self, name: str, choose: Callable[[], Any]) -> Any:
        found = self.ranks.agree(lambda: choose() if self._store is None else self._store.decided(name, choose))
        self.note({name: found})
        return found

    def say(self, text: str) -> None:
        self._reporter.say(f"{self.name}: {text}")

    def watch(self, parts: Iterable[T], total: int, doing: str) -> Iterable[T]:
        return watched(parts, total, f"{self.name}: {doing}", self._reporter.say)

    def expect(self, costs: list[SegmentCost], keep_bytes: int) -> None:
        tests = [0.0] * len(costs)
        if (measure := self._measure) is not None:
            sizes = measure.samples, measure.batches
            tests = measuring_seconds(costs, *sizes, self._test_every, keep_bytes, measure.changes)
        seconds = [training_seconds(cost) + test for cost, test in zip(costs, tests, strict=True)]
        self.plan = expected.plan(costs, tests)
        self.note(
            {
                **expected.peaks(self.plan, len(costs)),
                **(
                    {"memory/waiting_state_bytes": [c.state_bytes for c in costs]}
                    if any(len(c.turns) > 1 for c in costs)
                    else {}
                ),
                "time/estimate_s": sum(seconds),
                "time/segment_estimate_s": seconds,
            }
        )
        self._reporter.cost(self.name, sum(seconds), costs, self._shorter)
        self._started = time.perf_counter()

    def reached(self, segments: int) -> None:
        if "peak" in self.plan:  # not in the checkpoint of a run that an older version began
            self.note(expected.peaks(self.plan, segments))

    def progress(self, segment: int, past: Sequence[float], epochs: int, stands_for: int = 1) -> bool:
        now = time.perf_counter()
        if now < self._show_at:
            return False
        self._show_at = now + SHOW_EVERY_S
        fraction = expected.fraction(self.plan, past, self._test_every)
        if self._first_fraction is None:
            self._first_fraction = fraction
        done = fraction - self._first_fraction
        elapsed = now - self._started
        left = elapsed * (1 - fraction) / done if done > 0.02 else self.notes.get("time/estimate_s", 0.0) * (1 - fraction)
        at_most = not all(self.plan.get("certain", [])[segment + 1 :])  # unknown of a run that an older version began
        scores: dict[str, Any] = next((line for line in reversed(self.lines) if any(name in line for name in VALIDATED)), {})
        shown = {k: v for k, v in scores.items() if k in VALIDATED}
        epoch = max(0, math.ceil(past[segment]) - 1)
        at = Progress(self.name, segment, len(past), epoch, epochs, fraction, left, shown, at_most, stands_for)
        self._reporter.progress(at)
        return True

    def record(self, segment: int, epoch: int, metrics: Mapping[str, float]) -> None:
        time_s = {"time/train_s": self.times.get("train", 0.0)}
        self._append({"segment": segment, "epoch": epoch, **metrics, **time_s})

    def test(
        self, model: nn.Module, segment: int, epoch: int, last: bool, below: Stack | None = None, keep_bytes: int = 0
    ) -> None:
        if self._measure is None or not self._tests_after(last):
            return
        with self.timer("test"), self.hardware.autocast():
            self._measure.renew(epoch, self.seed("test", segment, epoch))
            self._append({"segment": segment, "epoch": epoch, **self._measure.above(model, last, below, keep_bytes)})

    def probe(self, look: Look, segment: int, epoch: int, last: bool) -> None:
        due = [probe for probe in self._probes if probe.is_due(epoch, last)]
        if views := [view for probe in due for view in probe.asks(look)]:
            with self.timer("probe"), self.timer("probe/passes"), untraced(look):
                share(look, views)
        for probe in due:
            name = probe.snake_name()
            with self.timer("probe"), self.timer(f"probe/{name}"):
                found = measured(probe, look, self.seed(f"probe/{name}", segment, epoch))
            if name not in self._nulls and (which := not_finite(found)):
                self._nulls.add(name)
                self.say(f"probe={name}: {which}, so that null is recorded, in epoch {epoch + 1} of segment {segment + 1}")
            for line in in_lines(found):
                told = {f"{name}/{k}": finite(v) for k, v in line.items()}
                self._append({"segment": segment, "epoch": epoch, **told})
            if epoch >= 0 and self._measure is not None and self._tests_after(last):
                self._test_of(probe, look, self._measure, segment, epoch)

    def _test_of(self, probe: Probe, look: Look, measure: Measure, segment: int, epoch: int) -> None:
        """Measure the networks that a probe makes; nothing of it reaches the probe."""
        name = probe.snake_name()
        with self.timer("test"), self.hardware.autocast(), untraced(look, self.seed(f"probe/{name}", segment, epoch)):
            for names, network in probe.networks(look):
                found = measure.whole(network)
                numbers = {f"{name}/{own}/{key}": value for own in names for key, value in found.items()}
                self._append({"segment": segment, "epoch": epoch, **numbers})

    def _tests_after(self, last: bool) -> bool:
        """Whether the test split is looked at after an epoch of a segment, its last or not."""
        return self._test_every == "epoch" or (self._test_every == "segment" and last)

    def note(self, facts: Mapping[str, Any]) -> None:
        self.notes.update(facts)

    def keep(self, lists: Mapping[str, Tensor]) -> None:
        self.lists.update(lists)

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        start, within = self.company.now("wall"), list[float]()
        self._timed.append((name, within))
        try:
            yield
        finally:
            self._timed.pop()
            took = self.company.now("wall") - start
            self.times[name] = self.times.get(name, 0.0) + took - sum(within)
            if self._timed:
                around, of_others = self._timed[-1]
                of_others += within if name.startswith(f"{around}/") else [took]

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Checkpoint, unless the last one is so recent that checkpoints would take over 5% of the time.

        Raises:
            Stopped: ``goes_on`` says that the run is not worth going on with; a checkpoint is made all the same.
        """
        start = self.company.now("wall")
        stop = self._is_to_stop()
        due = self._store is not None and (stop or start - self._saved_at >= self._save_cost / CHECKPOINT_SHARE)
        if self._sync is not None and self._sync.has_parts and self.ranks.agree(lambda: due) and self._store is None:
            state()  # this process's part
        if due:
            self._checkpoint(state, start)
        if stop:
            raise Stopped(f"after epoch {len(scores(self.lines))}; by itself the run goes on from there")

    def _is_to_stop(self) -> bool:
        if self._goes_on is None or not (found := scores(self.lines)):
            return False
        if len(found) == sum(self.plan["epochs"]):  # nothing is left to spare
            return False
        return not self._goes_on(len(found) - 1, found[-1])

    def _checkpoint(self, state: Callable[[], dict[str, Any]], start: float) -> None:
        assert self._store is not None
        self._count_wall()
        self._store.save({"method": state(), "notes": self.notes, "times": self.times, "plan": self.plan})
        self._saved_at = self.company.now("wall")
        self._save_cost = self._saved_at - start

    def load(self) -> dict[str, Any] | None:
        return self.ranks.agree(self._load)

    def _load(self) -> dict[str, Any] | None:
        if self._store is None:
            return None
        state, self.lines = self._store.load()
        if state is None:
            return None
        self.resumed = True
        self.notes, self.times, self.plan = state["notes"], state["times"], state["plan"]
        if self._log is not None:
            self._log.show(self.lines)
        method: dict[str, Any] = state["method"]
        return method

    def summary(self, network: nn.Module, val: Iterable[Batch]) -> dict[str, Any]:
        """The numbers of summary.json: of the network on both splits, of its training, and what the method noted."""
        best: dict[str, float] = {}
        for name, choose in (("test/miou", max), ("test/acc", max), ("test/mse", min)):
            if values := [line[name] for line in self.lines if line.get(name) is not None]:
                best[f"{name}_best_{self._test_every}"] = choose(values)
        with self.hardware.autocast():
            validated = evaluate(network, val, self._objective) if self._objective is not None else {}
        chosen = self.notes.get("segment/chosen")
        passes = [line for line in self.lines if "train/loss" in line]
        last = self.notes.get("epoch/chosen", math.inf)
        of_network = [line for line in passes if chosen in (None, line["segment"]) and line["epoch"] <= last]
        samples = [line.get("data/samples") for line in passes]  # not counted in lines of a run begun by an older version
        with self.timer("test"), self.hardware.autocast():
            tested = self._tested(network)
        self._count_wall()
        return {
            **tested,
            **(kept_shares(self.notes, self.times, passes) if self._filter is not None and None not in samples else {}),
            **of_sync(self.lines),
            **{f"val/{name}": value for name, value in validated.items()},
            **({"train/loss": of_network[-1]["train/loss"]} if of_network else {}),
            **best,
            **self.notes,
            "data/train_passes": len(passes),
            **({"data/train_samples": sum(samples)} if None not in samples else {}),
            "network/sha256": digest(network),
            **{f"time/{name}_s": value for name, value in self.times.items()},
        }

    def _tested(self, network: nn.Module) -> Mapping[str, float | None]:
        """Of the finished network, on samples of its own where they are made anew."""
        if self._measure is None:
            return {}
        self._measure.renew(0, self.seed("test"))
        return self._measure.whole(network)

    def _append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if self._store is not None:
            self._store.append(line)
        if self._log is not None:
            self._log.show(self.lines)

    def _count_wall(self) -> None:
        """Add the time since the last count to ``time/wall_s`` and ``time/cpu_s``, which a resumed run goes on with.

        cpu: of this process on all its threads; on a machine with other work the better measure of what a run takes.
        """
        for name in CLOCKS:
            now = self.company.now(name)
            self.times[name] = self.times.get(name, 0.0) + now - self._counted_at[name]
            self._counted_at[name] = now


def scores(lines: Iterable[Mapping[str, Any]]) -> list[float]:
    """Of each epoch of all segments the score on validation samples, the first of `SCORES` that there is."""
    measured = (next((line[name] for name in VALIDATED if name in line), None) for line in lines if "train/loss" in line)
    return [float(score) for score in measured if score is not None]


def digest(network: nn.Module) -> str:
    """SHA-256 over names and bytes of all weights and buffers."""
    sha = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
