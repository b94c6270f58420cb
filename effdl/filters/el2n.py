"""EL2N (Paul, Ganguli and Dziugaite 2021): samples with the largest error early in training are worth keeping."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError, Diverged
from effdl.filters.listed import check_classes, told, with_least
from effdl.filters.remembering import Remembering, refuse_at_once
from effdl.setting import Count, Size, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class El2n(Remembering):
    """From an epoch on keep the share of the samples with the largest score |softmax(f(x)) − one-hot y|₂.

    The paper averages the score over ten short trainings, after 20 of 200 epochs, and trains anew on what is kept; here it is
    of the very network that goes on, after ``epoch`` epochs, in evaluation mode, and of each segment its own.

    share: of the samples, in (0, 1]; round(share · n) are kept, of equal scores those with the lower index.
    epoch: how many epochs of a segment have all samples, from 1. least: of each class so many are kept: its largest scores.
    """

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    epoch: Count = 2
    least: Size = 1

    @property
    def scope(self) -> str:
        return f"errors after epoch {self.epoch}, whole set"

    def check(self, problem: Facts) -> None:
        check_classes(type(self).__name__, problem)

    def check_training(self, epochs: Sequence[int], at_once: bool) -> None:
        refuse_at_once(self, at_once)
        if min(epochs) <= self.epoch:
            raise ConfigError(
                f"filter.epoch={self.epoch}: a segment learns for {min(epochs)} epochs, so that nothing would be filtered; "
                "take a smaller one, or a larger method.epochs"
            )

    def begin(self, at: "Moment") -> None:
        if at.epoch < self.epoch or "kept" in at.memory:
            return
        score = torch.full((len(at.targets),), -1.0, device=at.targets.device)
        for batch in at.batches():
            score[batch.index] = el2n(at.outputs(batch), batch.y).to(score)
        if score.isnan().any():
            raise Diverged(f"filter: outputs of segment {at.segment + 1} are NaN or infinite; a smaller optimizer.lr may help")
        seen = score >= 0
        order = score.argsort(descending=True, stable=True)
        mask = torch.zeros_like(seen)
        mask[order[: round(self.share * int(seen.sum()))]] = True
        at.memory["kept"] = told(at, lambda: with_least(mask, at.targets, self.least, order[seen[order]])) & seen
        at.memory["el2n"] = score

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        assert at is not None
        return chunk.take(at.memory["kept"][chunk.index].nonzero()[:, 0]) if "kept" in at.memory else chunk


def el2n(outputs: Tensor, y: Tensor) -> Tensor:
    """|p − e_y|₂ of each sample, (B,) in [0, √2], p = softmax of outputs (B, K); of one output p = (1 − σ, σ)."""
    logits = torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs
    score: Tensor = torch.linalg.vector_norm(logits.softmax(1) - one_hot(y, logits.shape[1]), dim=1)
    return score
