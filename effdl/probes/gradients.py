"""Gradients of the loss by layers' weights and outputs, on stored samples, batch by batch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from effdl.datasets.split import Split
from effdl.objectives.objective import at_least_float32
from effdl.probes.sample import above
from effdl.training.look import Look

Slopes = tuple[tuple[Tensor | None, ...], dict[str, Tensor | None]]


def slopes(look: Look, split: Split, index: Tensor, weights: Sequence[Tensor]) -> Iterator[Slopes]:
    """Of each batch of the samples at these positions, L being the sum of their losses under the network that the segment
    trains: ∂L/∂w for each of ``weights``, and by layer ∂L/∂z, (B, ...), whose row i is that of sample i's own loss.

    None where the loss does not depend on it. Layers are the blocks that learn and "output", the network before its output
    units. By automatic differentiation, whatever rule the segment learns by; nothing is left in ``grad``.
    """
    assert look.learning is not None and look.learning.problem is not None
    learning = look.learning
    for batch in split.gather(index.split(look.learning.problem.batch_size)):
        x = batch.x
        with learning.rule.hardware.autocast():
            for module in learning.below:
                x = module(x)
            with torch.enable_grad():
                zs = dict(above(look, x))
                *_, logits = zs.values()
                loss = learning.objective.loss(at_least_float32(logits), batch.y).sum()
        found = torch.autograd.grad(loss, [*weights, *zs.values()], allow_unused=True)
        yield found[: len(weights)], dict(zip(zs, found[len(weights) :], strict=True))
