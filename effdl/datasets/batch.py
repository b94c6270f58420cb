"""What flows between data and step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """What flows between data and step: inputs, targets, and what is known of each sample.

    x: (B, *input); y: (B,) class indices or (B, K) reals; index: (B,) positions in the training (or validation) set;
    sample_weight: (B,) or None; loss: (B,) once a step has filled it, else None. scale: (B,) or None, by which a step
    multiplies each sample's loss before its (weighted) mean is taken: unlike weights, which are relative, it lengthens the
    step. inputs: (B, *input), the samples as they are stored, where a rule learns from them beside x, see `Rule.wants_inputs`.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    sample_weight: Tensor | None = None
    loss: Tensor | None = None
    scale: Tensor | None = None
    inputs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def passed_on(self, x: Tensor, loss: Tensor | None = None) -> "Batch":
        """The same samples, ``x`` in the place of their inputs; without `dataclasses.replace`, which every step would feel."""
        loss = self.loss if loss is None else loss
        return Batch(x, self.y, self.index, self.sample_weight, loss, self.scale, self.inputs)

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda tensor: tensor.to(device))

    def between(self, start: int, stop: int) -> "Batch":
        """The samples from one position up to another, not copied."""
        return self._map(lambda tensor: tensor[start:stop])

    def take(self, index: Tensor) -> "Batch":
        """The samples at these positions within the batch, copied."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, **{k: change(v) for k in self.__slots__ if (v := getattr(self, k)) is not None})


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches in their order as one; what is None in one must be None in all."""
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, Tensor] = {}
    for name in Batch.__slots__:
        parts = [part for batch in batches if (part := getattr(batch, name)) is not None]
        assert len(parts) in (0, len(batches)), f"{name} is known of some batches only"
        if parts:
            joined[name] = torch.cat(parts)
    return Batch(**joined)
