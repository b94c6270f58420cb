"""Selective-Backprop (Jiang et al. 2019): a sample is learned from with a probability that rises with its loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from effdl.datasets.batch import Batch
from effdl.filters.filter import Filter
from effdl.filters.remembering import refuse_at_once
from effdl.setting import Count, Positive, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class SelectiveBackprop(Filter):
    """Each sample that comes is kept with probability CDF(loss)^beta; CDF is the share of the last losses that are no larger.

    Losses are of a forward pass with the weights of that moment, of batches that come before they are regrouped; ours in
    evaluation mode, so that normalisation and dropout of the steps are not touched. Its time is in "time/filter_s".

    beta: the larger the fewer are kept, about 1/(1 + beta). history: so many last losses make the CDF, of a chunk its own
        among them; 1024 in the paper. chunk: 1 lets each batch of the data decide by itself.
    """

    needs_moments: ClassVar[bool] = True

    chunk: Count = 1
    beta: Positive = 1.0
    history: Count = 1024

    @property
    def expected_share(self) -> float:
        return 1 / (1 + self.beta)

    @property
    def scope(self) -> str:
        return f"losses, the last {self.history:,}"

    def check_training(self, epochs: Sequence[int], at_once: bool) -> None:
        refuse_at_once(self, at_once)

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        assert at is not None
        loss = at.losses(chunk)
        known = torch.cat([at.memory["losses"], loss]) if "losses" in at.memory else loss
        at.memory["losses"] = known = known[-max(self.history, len(loss)) :].clone()
        share = torch.searchsorted(known.sort().values, loss, right=True) / len(known)
        drawn = torch.rand(len(loss), generator=generator).to(loss.device)
        return chunk.take((drawn < share**self.beta).nonzero()[:, 0])
