"""A filter at work: what it is told of an epoch, what it remembers of samples, and what becomes of both."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective, at_least_float32
from effdl.training.handle import RunHandle
from effdl.training.learner import Learner
from effdl.training.loop import switch_mode
from effdl.training.segments import Training
from effdl.training.sources import Sieve, Source, share_left

Memory = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Moment:
    """What a filter is told of the epoch that it sieves for a segment; all of it from training samples.

    segment: its number. epoch: how many it has learned from before, of epochs in all. memory: of this segment, below: of the
    one below it (None of the lowest), run: of all: tensors by name, which a filter may write and which a checkpoint holds.
    targets (N,) or (N, K): of the training set, by whose positions all memory goes.
    inputs: () -> (N, *input) as they are stored. batches: () -> all of this epoch's batches as the segment gets them,
    unfiltered. outputs: batch -> (B, K) of the segment's network with the weights that it has at that moment, in evaluation
    mode. say: as in `RunHandle`, each text once. timer, watch: as there.
    """

    segment: int
    epoch: int
    epochs: int
    seed: int
    targets: Tensor
    memory: Memory
    run: Memory
    below: Memory | None
    objective: Objective
    inputs: Callable[[], Tensor]
    batches: Callable[[], Iterator[Batch]]
    outputs: Callable[[Batch], Tensor]
    say: Callable[[str], None]
    timer: Callable[[str], AbstractContextManager[None]] = field(default=lambda name: nullcontext())
    watch: Callable[..., Any] = field(default=lambda parts, total, doing: parts)

    def losses(self, batch: Batch) -> Tensor:
        """Of each sample, (B,), by `outputs`."""
        return self.objective.loss(self.outputs(batch), batch.y)

    def generator(self) -> torch.Generator:
        """A stream of the epoch's own, on the CPU; the one that `Filter.keep` gets is another."""
        return torch.Generator().manual_seed(self.seed + 1)


class Sifting:
    """A training's filter, if it has one, and its memory. Raises a ConfigError where they do not go together."""

    def __init__(self, training: Training, problem: Problem, run: RunHandle) -> None:
        self.training, self.problem, self.run, self.filter = training, problem, run, run.filter
        self._of_segment: list[Memory] = [{} for _ in training.segments]
        self._of_run: Memory = {}
        self._moments: list[Moment] = []
        self._said: set[str] = set()
        if self.filter is not None:
            self.filter.check_training([plan.epochs for plan in training.segments], any(t.above for t in training.order))

    @cached_property
    def _targets(self) -> Tensor:
        return self.problem.train_split.y

    def sieve(self, learners: dict[int, tuple[Learner, nn.Module]], number: int, source: Source) -> Sieve | None:
        """Of an epoch, the number-th pass through the data, in which these segments learn, from the bottom up, each with its
        network."""
        if self.filter is None:
            return None
        self._moments = [self._moment(s, *member, number, source) for s, member in learners.items()]
        (learner, _), *_ = learners.values()
        if learner.rule.prepares and self.filter.needs_moments:
            raise ConfigError(
                f"filter: {type(self.filter).__name__} goes by what a segment makes of single samples, and the rule "
                f"{type(learner.rule).__name__} makes batches of its own: filter=random_subset, or none"
            )
        if self.filter.rescales and not learner.rule.scales:
            raise ConfigError(
                f"filter: {type(self.filter).__name__} scales losses, of which the rule {type(learner.rule).__name__} takes no "
                "note: another filter, or none"
            )
        for moment in self._moments:
            with self.run.timer("filter"):
                self.filter.begin(moment)
        first = self._moments[0]
        return Sieve(self.filter, first.seed, first)

    def _moment(self, segment: int, learner: Learner, local: nn.Module, number: int, source: Source) -> Moment:
        def outputs(batch: Batch) -> Tensor:
            restore = switch_mode(local, False)
            try:
                with torch.no_grad(), self.run.hardware.autocast():
                    return at_least_float32(local(batch.x))
            finally:
                restore()

        return Moment(
            segment,
            learner.epoch,
            self.training.segments[segment].epochs,
            self.run.seed("filter", segment, learner.epoch),
            self._targets,
            self._of_segment[segment],
            self._of_run,
            self._of_segment[segment - 1] if segment else None,
            self.problem.objective,
            lambda: self.problem.train_tensors().x,
            partial(source.train, number),
            outputs,
            self._say,
            self.run.timer,
            lambda parts, total, doing: self.run.watch(parts, total, f"filter: {doing}"),
        )

    def _say(self, text: str) -> None:
        """What chunk after chunk has to tell, once."""
        if text not in self._said:
            self._said.add(text)
            self.run.say(text)

    def learned(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """What the lone or highest learner puts out, on its way, its losses seen by a filter that goes by them."""
        if self.filter is None or not self.filter.watches:
            return batches
        return self._watched(batches, self._moments[-1].memory)

    def _watched(self, batches: Iterable[Batch], memory: Memory) -> Iterator[Batch]:
        source = iter(batches)
        while (batch := next(source, None)) is not None:
            loss = batch.loss
            assert loss is not None
            if "loss" not in memory:
                memory["loss"] = torch.full((len(self._targets),), torch.nan, dtype=loss.dtype, device=loss.device)
            memory["loss"][batch.index.to(loss.device)] = loss
            waiting = [batch]
            del batch, loss
            yield waiting.pop()

    def between(self, place: int, batches: Iterator[Batch]) -> Iterable[Batch]:
        """Of what the place-th of those who learn at once puts out, what the one above it gets."""
        if self.filter is None:
            return batches
        return self.filter.between(batches, self.problem.batch_size, self._moments[place + 1])

    def share(self, segment: int) -> float:
        """Of an epoch's samples that a segment is expected to learn from."""
        left = share_left(self.filter, len(self.training.bases(segment)))
        return left if self.filter is None or not self.filter.compounds else left**segment

    def notes(self) -> dict[str, object]:
        """For the summary."""
        return {} if self.filter is None else {"filter/scope": self.filter.scope, "filter/of_samples": self.problem.num_train}

    def lists(self) -> dict[str, Tensor]:
        """Index lists that were fixed for the run, or for segments, by name."""
        of_all = {"kept": self._of_run} | {f"kept/{i}": memory for i, memory in enumerate(self._of_segment)}
        found = {name: memory["kept"] for name, memory in of_all.items() if "kept" in memory}
        return {name: mask.nonzero()[:, 0].cpu() for name, mask in found.items()}

    def state_dict(self) -> dict[str, object]:
        return {"run": self._of_run, "segments": self._of_segment} if self.filter is not None else {}

    def load_state_dict(self, saved: dict[str, object] | None) -> None:
        """saved: None in checkpoints of older versions. Raises ValueError for what is none of it."""
        if saved and self.filter is not None:
            segments, of_run = saved["segments"], saved["run"]
            if not isinstance(segments, list) or len(segments) != len(self._of_segment) or not isinstance(of_run, dict):
                raise ValueError("not the filter's memory")
            self._of_segment, self._of_run = segments, of_run
