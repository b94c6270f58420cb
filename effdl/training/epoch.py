"""One epoch of a learner, drained: its mean loss, and when it has diverged."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.errors import DataError, Diverged, FitFailed
from effdl.training.learner import Learner

LOOK_EVERY = 64  # steps: each look at a loss waits for the device


def drain_epoch(
    learner: Learner, batches: Iterable[Batch], where: str, progress: Callable[[int], object], expected: int = 0
) -> tuple[float, int]:
    """Let a segment learn from one epoch; mean training loss over the samples stepped on, as its rule prepared
    them, and how many they were.

    An epoch whose loss is no number ends early, at a step that does not depend on any clock.

    Args:
        where: names the segment and epoch in an error.
        progress: told each step, from 1.
        expected: so many batches there are at least.

    Raises:
        Diverged: a loss, or at the end a weight, is not finite.
        FitFailed: there were no samples.
        DataError: the batches ended early.
    """
    losses: list[Tensor] = []
    samples = 0
    for batch in learner.train_epoch(batches):
        assert batch.loss is not None
        losses.append(batch.loss.sum())
        samples += len(batch.loss)
        del batch
        progress(len(losses))
        if len(losses) % LOOK_EVERY == 0 and learner.ranks.alone and not losses[-1].isfinite():
            break
    if len(losses) < expected and all(loss.isfinite() for loss in losses[-1:]):
        raise DataError(
            f"the samples end after {len(losses)} of {expected} batches at {where}: a split has as many in each epoch"
        )
    if not losses:
        raise FitFailed(f"nothing to train on at {where}: the filter dropped every sample")
    total, samples = learner.ranks.total(torch.stack(losses).double()), int(learner.ranks.total(torch.tensor(samples)))
    if not total.isfinite().all():
        step = int((~total.isfinite()).nonzero()[0]) + 1
        raise Diverged(f"loss is {total[step - 1].item()} at {where}, step {step}: try a smaller optimizer.lr")
    if (name := not_finite(learner.rule)) is not None:
        raise Diverged(f"weight {name} is not finite after {where}: try a smaller optimizer.lr")
    return float(total.sum()) / samples, samples


def not_finite(module: nn.Module) -> str | None:
    """The first weight or buffer with a value that is no finite number. One pass over the memory and one wait for the device
    where all is well."""
    named = {name: t for name, t in module.state_dict().items() if t.is_floating_point() and t.numel()}
    if not named or torch.stack([t.sum().double() for t in named.values()]).isfinite().all():
        return None
    return next((name for name, t in named.items() if not t.isfinite().all()), None)
