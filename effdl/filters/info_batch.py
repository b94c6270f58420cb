"""InfoBatch (Qin et al. 2024): samples of small loss are left out at random, and those of them that stay count for more."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from effdl.datasets.batch import Batch
from effdl.filters.remembering import Remembering, refuse_at_once
from effdl.setting import Probability, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class InfoBatch(Remembering):
    """In each epoch leave out, with probability ``prune``, each sample whose last loss is below the mean of all last losses;
    the loss of those below it that stay is multiplied by 1/(1 − prune), which keeps the expected sum of gradients.

    The first epoch of a segment has all samples, which have no loss yet, and so have its last ones.

    prune: r, in [0, 1); 0.5 in the paper. full: the last share of the epochs, in [0, 1), that have all samples; 0.125 in the
        paper, which filters while epoch < (1 − full) · epochs.
    """

    watches: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    prune: Probability = 0.5
    full: Probability = 0.125

    @property
    def scope(self) -> str:
        return "last losses, whole set"

    def check_training(self, epochs: Sequence[int], at_once: bool) -> None:
        refuse_at_once(self, at_once)

    def begin(self, at: "Moment") -> None:
        """Draws what this epoch leaves out: ``low`` and ``drawn`` in the memory, both (N,) booleans."""
        at.memory.pop("low", None)
        if "loss" not in at.memory or at.epoch >= (1 - self.full) * at.epochs:
            return
        loss = at.memory["loss"]
        at.memory["low"] = loss < loss.nanmean()
        at.memory["drawn"] = (torch.rand(len(loss), generator=at.generator()) < self.prune).to(loss.device)

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        assert at is not None
        if "low" not in at.memory:
            return chunk
        low, drawn = at.memory["low"][chunk.index], at.memory["drawn"][chunk.index]
        kept = chunk.take((~(low & drawn)).nonzero()[:, 0])
        scale = torch.ones(len(kept), device=low.device)
        scale[at.memory["low"][kept.index]] = 1 / (1 - self.prune)
        return Batch(kept.x, kept.y, kept.index, kept.sample_weight, kept.loss, scale, kept.inputs)
