"""Loss filtering (thesis §6.8.4): the loss that a sample has in one partition decides whether the next one sees it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.filters.filter import Filter, chunked, regroup
from effdl.filters.listed import told, with_least
from effdl.filters.random_subset import quota
from effdl.setting import Share, Size, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class LossFilter(Filter):
    """Drop the samples of lowest loss, of equal losses the earlier ones first.

    drop: this share of what comes; 0.25 in §6.8.4.
    by: "below": a segment sees what is left of that which the one below learned from; the lowest sees all. Where segments
        learn at once, a sample's loss is that of the step that has just put it out, chunk by chunk; where they take turns,
        that of its last step in the last epoch of the one below, over the whole set: what was dropped there stays dropped.
        "own": each segment drops of what comes, chunk by chunk, by a forward pass of its own with the weights of that moment,
        in evaluation mode (ours, after Selective-Backprop; for methods with a single segment).
    start: all samples are kept in so many first epochs of a segment; 30 in §6.8.4.
    least: of each class so many are kept, or all that came: its largest losses; of each chunk, where these are compared chunk
        by chunk.
    """

    needs_moments: ClassVar[bool] = True
    again = True

    drop: Share = 0.25
    by: Literal["below", "own"] = "below"
    start: Size = 0
    least: Size = 1

    @property
    def watches(self) -> bool:  # type: ignore[override]
        return self.by == "below"

    @property
    def sees(self) -> Literal["index", "features"]:
        return "index" if self.by == "below" else "features"

    @property
    def compounds(self) -> bool:
        return self.by == "below"

    @property
    def expected_share(self) -> float:
        """Of each segment, and of what the one below it was left; of "below" 1 for the lowest."""
        return 1 - self.drop

    @property
    def scope(self) -> str:
        return f"losses {'of the segment below' if self.by == 'below' else f'of its own, chunks of {self.chunk:,}'}"

    def check_training(self, epochs: Sequence[int], at_once: bool) -> None:
        if self.by == "below" and len(epochs) == 1:
            raise ConfigError("filter.by=below: this method has one segment, with none below it; filter.by=own")
        if self.by == "own" and at_once:
            raise ConfigError("filter.by=own is of segments that take turns, and here they learn at once: filter.by=below")

    def begin(self, at: "Moment") -> None:
        if self.by == "own":
            return
        loss = None if at.below is None else at.below.get("loss")
        at.memory.pop("kept", None)
        at.memory["loss"] = torch.full((len(at.targets),), torch.nan, device=at.targets.device)
        if loss is not None and at.epoch >= self.start and bool(loss.isfinite().any()):
            came = (~loss.isnan()).nonzero()[:, 0]
            kept = torch.zeros(len(loss), dtype=torch.bool, device=loss.device)
            kept[came[self._kept_of(loss[came], at.targets[came], 0, at)]] = True
            at.memory["kept"] = kept

    def _kept_of(self, loss: Tensor, y: Tensor, seen: int, at: "Moment") -> Tensor:
        """Positions, rising, of what is kept of samples that come after so many others."""
        kept = highest(loss, len(loss) - quota(seen, len(loss), self.drop))
        if y.dim() != 1 or y.is_floating_point():
            return kept
        mask = torch.zeros(len(loss), dtype=torch.bool, device=loss.device).index_fill(0, kept, True)
        largest_first = loss.argsort(stable=True).flip(0)
        found: Tensor = told(at, lambda: with_least(mask, y, self.least, largest_first)).nonzero()[:, 0]
        return found

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        assert at is not None
        if self.by == "below":
            return chunk.take(at.memory["kept"][chunk.index].nonzero()[:, 0]) if "kept" in at.memory else chunk
        if at.epoch < self.start:
            return chunk
        return chunk.take(self._kept_of(at.losses(chunk), chunk.y, seen, at))

    def between(self, batches: Iterator[Batch], batch_size: int, at: "Moment") -> Iterable[Batch]:
        return regroup(self._passed(batches, at), batch_size) if at.epoch >= self.start else batches

    def _passed(self, batches: Iterator[Batch], at: "Moment") -> Iterator[Batch]:
        seen = 0
        for chunk in chunked(batches, self.chunk):
            assert chunk.loss is not None
            with at.timer("filter"):
                kept = [chunk.take(self._kept_of(chunk.loss, chunk.y, seen, at))]
            seen += len(chunk)
            del chunk
            yield kept.pop()

    def check(self, problem: Facts) -> None:
        if problem.train - quota(0, problem.train, self.drop) < min(2, problem.train):
            raise ConfigError(f"filter.drop: {self.drop:g} of {problem.train} training samples leaves too few to train on")


def highest(loss: Tensor, count: int) -> Tensor:
    """Positions, rising, of so many samples of highest loss (B,); of equal losses the later ones."""
    order = loss.argsort(stable=True)
    return order[len(loss) - count :].sort().values
