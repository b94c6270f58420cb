"""The segmentwise engine: train segments from the bottom up, each to its end (thesis Algorithm 3)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Batch, Problem, cut
from effdl.errors import Diverged, FitFailed
from effdl.training.costs import segment_costs
from effdl.training.feeding import Feeder
from effdl.training.handle import RunHandle, taking_up
from effdl.training.loop import evaluate, reseed
from effdl.training.memory import clone
from effdl.training.segment import LocalLoss, SegmentState

LOOK_EVERY = 64  # steps: each look at a loss waits for the device


@dataclass(frozen=True)
class SegmentPlan:
    """How one segment is trained: blocks [start, stop) and everything that depends on its place.

    local_loss: output shape of the segment's last block -> a freshly drawn local loss.
    """

    start: int
    stop: int
    epochs: int
    local_loss: Callable[[tuple[int, ...]], LocalLoss]
    lr_scale: float = 1.0
    weight_decay_scale: float = 1.0
    input_dropout: Callable[[int], float] = lambda epoch: 0.0
    checkpoint: bool = False


@dataclass
class BottomUp:
    """One bottom-up training of a chain; `fit` runs it, resumes it, and returns the chosen network in eval mode.

    choose: "validation" takes the segment whose network did best on the validation set after its last epoch, ties going to
        the earlier one; "last", or an empty validation set, takes the last (Algorithm 3).
    patience: stop a segment after so many epochs without a better validation score, with its last epoch's weights (ours).
    """

    plans: list[SegmentPlan]
    problem: Problem
    chain: BlockChain
    run: RunHandle
    keep_bytes: int
    choose: Literal["validation", "last"] = "validation"
    patience: int | None = None

    def __post_init__(self) -> None:
        ends = [(a.stop, b.start) for a, b in pairwise(self.plans)]
        assert all(stop == start for stop, start in ends), "segments that overlap need the weights of the best kept too"

    def fit(self) -> nn.Module:
        saved = self.run.load()
        self.chain.eval()
        # A whole batch of fake tensors takes no longer than two samples, and is what the count calls the blocks with too.
        samples, like = self.problem.batch_size if self.problem.is_outline else 2, self.problem.train_split.first()
        shapes = self.chain.shapes(self.problem.input_shape, samples, like.dtype)
        self.run.freeze(self.chain.input, keep_bytes=self.keep_bytes)
        if saved is None:
            if self.run.ranks.rank == 0:  # with steps of its own that the others do not make
                states: Iterable[SegmentState] = (
                    self._state(i, plan, shapes[plan.stop - 1]) for i, plan in enumerate(self.plans)
                )
                if not self.problem.is_outline:
                    states = self.run.watch(states, len(self.plans), "trying what each layer will take")
                costs = segment_costs(self.plans, states, self.problem, self.chain, self.run, self.keep_bytes, self._steps)
                self.run.expect(costs)
        else:
            self._take_up(saved, shapes)
        best = saved["best"] if saved else None
        first = saved["segment"] if saved else 0
        self.run.ranks.synchronise(self.chain)
        feeder = Feeder(self.problem, self.chain.input, self.keep_bytes, self.run.hardware, self.run.ranks)
        most_kept, feature_passes = 0, 0
        for i, plan in enumerate(self.plans):
            with self.run.timer("feed"):
                feature_passes += feeder.keep()
            most_kept = max(most_kept, feeder.kept_bytes)
            if i >= first:
                state = self._state(i, plan, shapes[plan.stop - 1])
                history = []
                if saved is not None and i == first:
                    with taking_up():
                        state.load_state_dict(saved["state"])
                    history = saved["history"]
                if self.run.hardware.compile:
                    state.compile()
                state.ranks = self.run.ranks  # not before: rehearsals are each rank's own
                best = self._train(i, state, feeder, best, history)
            feeder.advance(*self.chain[plan.start : plan.stop])
            self.run.freeze(*self.chain[plan.start : plan.stop], keep_bytes=self.keep_bytes)
        assert best is not None
        chosen = best["segment"]
        self.run.note(segment_chosen=chosen, memory_kept_features_bytes=most_kept, data_feature_passes=feature_passes)
        return self._predictor(chosen, shapes, best["local_loss"])

    def _take_up(self, saved: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
        """Put the chain back, and look whether the rest is such as was saved, some of which is needed at the very end."""
        with taking_up():
            self.chain.load_state_dict(saved["chain"])
            if not len(saved["history"]) == saved["state"]["epoch"] <= self.plans[saved["segment"]].epochs:
                raise ValueError("no such epoch")
            if (best := saved["best"]) is not None:
                self._predictor(best["segment"], shapes, best["local_loss"])
                float(best["score"])

    def _state(self, i: int, plan: SegmentPlan, shape: tuple[int, ...]) -> SegmentState:
        """Segment i, its decision block freshly drawn from the stream ("init", i)."""
        blocks, rank = self.chain[plan.start : plan.stop], self.run.ranks.rank
        reseed(self.run.seed("init", i))
        like = next(blocks.parameters())
        local_loss = self._beside(like, plan.local_loss(shape))
        if not self.problem.is_outline:
            local_loss.check(like.new_zeros(2, *shape), self.problem.outputs)
        parameters = [*blocks.parameters(), *local_loss.parameters()]
        return SegmentState(
            blocks,
            local_loss.eval(),
            self.run.optimizer(parameters, plan.lr_scale, plan.weight_decay_scale),
            seed=lambda epoch, step: self.run.seed("step", i, epoch, step, *([rank] if rank else [])),
            epochs=plan.epochs,
            schedule=self.run.schedule,
            input_dropout=plan.input_dropout,
            checkpoint=plan.checkpoint,
            autocast=self.run.hardware.autocast,
            yields=False,  # each segment is trained to its end before the next begins, so that nobody takes what it puts out
        )

    def _beside(self, like: Tensor, module: LocalLoss) -> LocalLoss:
        """The module on this tensor's device, of its type, in the run's layout."""
        if not self.problem.is_outline:
            return self.run.hardware.place(module.to(dtype=like.dtype), like.device)
        if all((p.device, p.dtype) == (like.device, like.dtype) for p in module.parameters()):
            return module
        # `to` exchanges parameters, which fake ones do not take
        return clone(module, lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))

    def _train(
        self, i: int, state: SegmentState, feeder: Feeder, best: dict[str, Any] | None, history: list[float]
    ) -> dict[str, Any]:
        """Train segment i to its end; returns the best segment so far. history: its validation scores by epoch."""
        plan = self.plans[i]
        passes = sum(p.epochs for p in self.plans[:i])
        local = state.local_loss.predictor(BlockChain(dict(state.blocks.named_children()), nn.Identity()))
        state.ranks.synchronise(state.modules)
        while state.epoch < plan.epochs and not self._is_stale(history):
            epoch = state.epoch
            with self.run.timer("train"):
                loss, samples = self._one_epoch(i, state, feeder, passes + epoch)
            with self.run.timer("eval"), self.run.hardware.autocast():
                val = state.ranks.agree(lambda: evaluate(local, feeder.val(), self.problem.objective))
            if not math.isfinite(val.get("loss", 0.0)):
                where = f"segment {i + 1} of {len(self.plans)}, epoch {epoch + 1}"
                raise Diverged(f"validation loss is {val['loss']} after {where}: try a smaller optimizer.lr")
            history.append(score(val))
            self.run.record(i, epoch, train_loss=loss, data_samples=samples, **{f"val_{k}": v for k, v in val.items()})
            last = state.epoch == plan.epochs or self._is_stale(history)
            self.run.test(local, i, epoch, last)
            self.run.probe(state.blocks, i, epoch, last)
            self.run.save(
                lambda: {
                    "segment": i,
                    "chain": self.chain.state_dict(),
                    "state": state.state_dict(),
                    "best": best,
                    "history": history,
                }
            )
        candidate = {"segment": i, "score": history[-1], "local_loss": state.local_loss.state_dict()}
        better = best is None or self.choose == "last" or self.problem.num_val == 0 or candidate["score"] > best["score"]
        return candidate if better or best is None else best

    def _is_stale(self, history: list[float]) -> bool:
        if self.patience is None or self.problem.num_val == 0:
            return False
        return len(history) - 1 - max(range(len(history)), key=history.__getitem__, default=0) >= self.patience

    def _one_epoch(self, i: int, state: SegmentState, feeder: Feeder, number: int) -> tuple[float, int]:
        epoch, epochs, segments = state.epoch, self.plans[i].epochs, len(self.plans)
        steps = self._steps

        def progress(step: int) -> None:
            self.run.progress(i, segments, epoch, epochs, step, steps)

        batches = feeder.train(number, self.run.filter, self.run.seed("filter", i, epoch))
        return drain_epoch(state, batches, f"segment {i + 1} of {segments}, epoch {epoch + 1}", progress)

    @property
    def _steps(self) -> int:
        """Expected steps of an epoch."""
        share = self.run.filter.expected_share if self.run.filter is not None else 1.0
        return max(1, len(cut(round(share * self.problem.num_train), self.problem.batch_size)))

    def _predictor(self, segment: int, shapes: list[tuple[int, ...]], weights: dict[str, Tensor]) -> nn.Module:
        plan = self.plans[segment]
        local_loss = self._state(segment, plan, shapes[plan.stop - 1]).local_loss
        local_loss.load_state_dict(weights)
        return local_loss.predictor(self.chain.cropped(plan.stop)).eval()


def drain_epoch(
    state: SegmentState, batches: Iterable[Batch], where: str, progress: Callable[[int], object]
) -> tuple[float, int]:
    """Let a segment learn from one epoch; mean training loss over the samples stepped on, and how many they were.

    An epoch whose loss is no number ends early, at a step that does not depend on any clock.

    Args:
        where: names the segment and epoch in an error.
        progress: told each step, from 1.

    Raises:
        Diverged: a loss, or at the end a weight, is not finite.
        FitFailed: there were no samples.
    """
    losses: list[Tensor] = []
    samples = 0
    for batch in state.train_epoch(batches):
        assert batch.loss is not None
        losses.append(batch.loss.sum())
        samples += len(batch.loss)
        del batch
        progress(len(losses))
        if len(losses) % LOOK_EVERY == 0 and state.ranks.alone and not losses[-1].isfinite():
            break
    if not losses:
        raise FitFailed(f"nothing to train on at {where}: the filter dropped every sample")
    total, samples = state.ranks.total(torch.stack(losses).double()), int(state.ranks.total(torch.tensor(samples)))
    if not total.isfinite().all():
        step = int((~total.isfinite()).nonzero()[0]) + 1
        raise Diverged(f"loss is {total[step - 1].item()} at {where}, step {step}: try a smaller optimizer.lr")
    if (name := not_finite(state.modules)) is not None:
        raise Diverged(f"weight {name} is not finite after {where}: try a smaller optimizer.lr")
    return float(total.sum()) / samples, samples


def not_finite(module: nn.Module) -> str | None:
    """The first weight or buffer with a value that is no finite number. One pass over the memory and one wait for the device
    where all is well."""
    named = {name: t for name, t in module.state_dict().items() if t.is_floating_point() and t.numel()}
    if not named or torch.stack([t.sum().double() for t in named.values()]).isfinite().all():
        return None
    return next((name for name, t in named.items() if not t.isfinite().all()), None)


def score(metrics: dict[str, float]) -> float:
    """Higher is better: accuracy, or minus the mean squared error; minus infinity where nothing was measured."""
    if "acc" in metrics:
        return metrics["acc"]
    return -metrics["mse"] if "mse" in metrics else float("-inf")
