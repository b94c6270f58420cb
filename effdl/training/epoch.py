"""One epoch of a learner, or of several that learn at once, drained: mean losses, and when one has diverged."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.errors import DataError, Diverged, FitFailed
from effdl.training.learner import Learner

LOOK_EVERY = 64  # steps: each look at a loss waits for the device


class Losses:
    """What a learner's losses come to in an epoch.

    where: names its segment and epoch in an error.
    """

    def __init__(self, learner: Learner, where: str) -> None:
        self._learner, self._where = learner, where
        self._sums: list[Tensor] = []
        self._samples = 0

    def see(self, batch: Batch) -> int:
        """Take in a batch that it has learned from; how many they are now."""
        assert batch.loss is not None
        self._sums.append(batch.loss.sum())
        self._samples += len(batch.loss)
        return len(self._sums)

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, seen on their way; none is held."""
        source = iter(batches)
        while (batch := next(source, None)) is not None:
            self.see(batch)
            waiting = [batch]
            del batch
            yield waiting.pop()

    def is_finite(self) -> bool:
        """Whether the last one is a number; where there is none yet, too. It waits for the device."""
        return all(bool(loss.isfinite()) for loss in self._sums[-1:])

    def mean(self, expected: int) -> tuple[float, int]:
        """Over the samples stepped on, and how many they were. Raises as `drain_epoch`."""
        learner, where, count = self._learner, self._where, len(self._sums)
        if count < expected and self.is_finite():
            raise ends_early(count, expected, where)
        if not self._sums:
            raise FitFailed(f"nothing to train on at {where}: the filter dropped every sample")
        total = learner.ranks.total(torch.stack(self._sums).double())
        samples = int(learner.ranks.total(torch.tensor(self._samples)))
        return mean_loss(total, samples, learner.rule, where), samples


def ends_early(count: int, expected: int, where: str) -> DataError:
    """What is wrong where there were fewer batches than the split has."""
    return DataError(f"the samples end after {count} of {expected} batches at {where}: a split has as many in each epoch")


def mean_loss(total: Tensor, samples: int, rule: nn.Module, where: str) -> float:
    """Over an epoch's samples, of the sums of each step's losses, (steps,). Raises Diverged where one, or what the rule has
    learned, is not finite."""
    if not total.isfinite().all():
        step = int((~total.isfinite()).nonzero()[0]) + 1
        raise Diverged(f"loss is {total[step - 1].item()} at {where}, step {step}: try a smaller optimizer.lr")
    if (name := not_finite(rule)) is not None:
        raise Diverged(f"weight {name} is not finite after {where}: try a smaller optimizer.lr")
    return float(total.sum()) / samples


def drain_epoch(
    learners: Mapping[str, Learner],
    batches: Iterable[Batch],
    progress: Callable[[int], object],
    expected: int = 0,
    passing: Callable[[Iterator[Batch]], Iterable[Batch]] = iter,
    between: Callable[[int, Iterator[Batch]], Iterable[Batch]] = lambda place, batches: batches,
) -> list[tuple[float, int]]:
    """Let a segment learn from one epoch, or several at once, each from what the one below puts out as it learns.

    An epoch whose loss is no number ends early, at a step that does not depend on any clock.

    Args:
        learners: from the bottom up, by what names segment and epoch in an error.
        progress: told each step, from 1.
        expected: so many batches there are at least.
        between: (place, what the learner there puts out) -> what the one above it gets.
        passing: what comes out of the highest, on its way to nowhere; a recording looks at it.

    Returns:
        Of each segment its mean training loss over the samples stepped on, as its rule prepared them, and how many these were.

    Raises:
        Diverged: a loss, or at the end a weight, is not finite.
        FitFailed: there were no samples.
        DataError: the batches ended early.
    """
    *below, top = (Losses(learner, where) for where, learner in learners.items())
    *lower, highest = learners.values()
    for place, (learner, losses) in enumerate(zip(lower, below, strict=True)):
        batches = between(place, losses.passing(learner.train_epoch(batches)))
    for batch in passing(highest.train_epoch(batches)):
        step = top.see(batch)
        del batch
        progress(step)
        if step % LOOK_EVERY == 0 and highest.ranks.alone and not top.is_finite():
            expected = 0  # of those below, too
            break
    return [losses.mean(expected) for losses in (*below, top)]


def not_finite(module: nn.Module) -> str | None:
    """The first weight or buffer with a value that is no finite number. One pass over the memory and one wait for the device
    where all is well."""
    named = {name: t for name, t in module.state_dict().items() if t.is_floating_point() and t.numel()}
    if not named or torch.stack([t.sum().double() for t in named.values()]).isfinite().all():
        return None
    return next((name for name, t in named.items() if not t.isfinite().all()), None)
