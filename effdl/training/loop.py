"""THE loop: every rule that learns by minibatches goes through `train_epoch`; every measurement through `evaluate`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.objectives.objective import Objective, at_least_float32

Step = Callable[[Batch], Batch]
Exchange = Callable[[Batch], None]
S = TypeVar("S", covariant=True)


class Updates(Protocol):
    """What the loop needs of an optimizer."""

    def step(self) -> Any:
        """Apply the gradients."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget them."""


class Tally(Protocol[S]):
    """What a measurement needs of an objective, see `Objective.tally` and `Objective.scores`."""

    def tally(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is summed up over batches."""

    def scores(self, tally: Mapping[str, Tensor]) -> S:
        """What the sums of all batches come to."""


def reseed(seed: int) -> None:
    """Seed the global generators (dropout layers take no other) in 2 µs; `torch.manual_seed` takes 200 times as long."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def train_epoch(
    batches: Iterable[Batch],
    step: Step,
    optimizer: Updates,
    seed: Callable[[int], int],
    exchange: Exchange | None = None,
    updated: Callable[[], object] | None = None,
) -> Iterator[Batch]:
    """One pass of updates; yields what each step's forward pass put out, from before the step's own update.

    Args:
        batches: the epoch's data; may itself be a segment that learns as it yields.
        step: runs forward and backward, leaves gradients in ``.grad`` and returns the batch with detached outputs as ``x``
            and ``loss`` filled.
        optimizer: applies the gradients.
        seed: step counter -> seed of the global generator for that step.
        exchange: called between step and update where several processes share a batch: it turns the gradients of one part,
            perhaps an empty one, into those of the whole batch. Without it an empty batch is a step like any other.
        updated: called after each update, while its gradients are there.

    While suspended the generator holds neither batch nor outputs, and no context manager spans the yield.
    """
    source, counter = iter(batches), 0
    while (batch := next(source, None)) is not None:
        reseed(seed(counter))
        idle = exchange is not None and len(batch) == 0
        output = [replace(batch, loss=torch.zeros(0, device=batch.y.device)) if idle else step(batch)]
        if exchange is not None:
            exchange(batch)
        del batch
        optimizer.step()
        if updated is not None:
            updated()
        optimizer.zero_grad(set_to_none=True)
        counter += 1
        yield output.pop()


def reduce_loss(loss: Tensor, sample_weight: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """Per-sample losses (B,) to the scalar that is minimised: their (weighted) mean; scale (B,): of each loss before."""
    loss = loss if scale is None else loss * scale
    if sample_weight is None:
        return loss.mean()
    return (loss * sample_weight).sum() / sample_weight.sum()


def switch_mode(module: nn.Module, training: bool) -> Callable[[], None]:
    """Put a module into training or evaluation mode; the returned function puts back what was, submodule by submodule."""
    before = [(m, m.training) for m in module.modules()]
    module.train(training)

    def restore() -> None:
        for m, flag in before:
            m.training = flag

    return restore


def evaluate(model: nn.Module, batches: Iterable[Batch], objective: Objective) -> dict[str, float]:
    """The objective's scores of a model in eval mode, see `Objective.scores`; {} where there are no batches."""
    return evaluate_each([(nn.Identity(), model)], batches, objective)[0] or {}


def evaluate_each(
    levels: Sequence[tuple[nn.Module, nn.Module]], batches: Iterable[Batch], objective: Tally[S]
) -> list[S | None]:
    """As `evaluate`, of networks one above another, in one pass; None where there are no batches.

    levels: blocks, which get what those of the level below put out, and what is to be measured above them.
    """
    restores = [switch_mode(module, False) for level in levels for module in level]
    sums: list[dict[str, Tensor]] = [{} for _ in levels]
    try:
        with torch.no_grad():
            for batch in batches:
                x = batch.x
                for (blocks, top), sum in zip(levels, sums, strict=True):
                    x = blocks(x)
                    for name, value in objective.tally(at_least_float32(top(x)), batch.y).items():
                        sum[name] = sum[name] + value if name in sum else value
    finally:
        for restore in reversed(restores):
            restore()
    return [objective.scores(sum) if sum else None for sum in sums]
