"""k-filtering (thesis §5.4) of training samples: before training, or online as in §6.8.2."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.filters.listed import Listed, told
from effdl.neighbours import k_filter as neighbours
from effdl.neighbours.watching import Watch, unwatched
from effdl.setting import Count, Size, Switch, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class KFilter(Listed):
    """Keep the samples of which not all k nearest neighbours are of their own class, exactly, see `effdl.k_filter`.

    k: 5 to 104 in table 5.1, 10 in §6.8.2. Of k no less than the largest class all samples are kept. Of equal distances the
        sample with the lower index is the nearer.
    when: "before" a segment learns, once; or "during": chunk by chunk of what the segment gets in each epoch, so that other
        samples may go in each, and chunks of fewer samples keep more of them.
    space: of "before", see `Listed`; "during" it is always the features below the segment, for the lowest the inputs.
    within: of "before": neighbours are sought among the whole "set", or each "chunk" of consecutive samples as they are
        stored.
    itself: whether a sample counts as the first of its own k neighbours. The printed shares of table 5.1 are near those of
        within=chunk chunk=5500 itself=true, and none of the full set.
    least: of each class (of each chunk, "during") so many are kept: those nearest to another class.
    start: of "during": all samples are kept in so many first epochs of a segment (30 in §6.8.2).
    drop_at_most: share of the samples (of a chunk) that goes at most, (0, 1]; 0.6 in §6.8.2. Which of the redundant ones stay
        is drawn at random; the text does not say.
    chunk: 6148 in §6.8.2. memory_mib: to work in, beside the samples.
    """

    not_identity = frozenset({"memory_mib"})

    k: Count = 10
    when: Literal["before", "during"] = "before"
    within: Literal["set", "chunk"] = "set"
    itself: Switch = False
    start: Size = 0
    drop_at_most: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    memory_mib: Count = 1024

    def __post_init__(self) -> None:
        if self.when == "before" and self.start:
            raise ValueError("filter.start is of filter.when=during: a list that is made before holds from the first epoch on")
        if self.when == "during" and self.within == "chunk":
            raise ValueError("filter.within is of filter.when=before: during an epoch neighbours are always sought in chunks")

    @property
    def sees(self) -> Literal["index", "features"]:
        return "index" if self.when == "before" else "features"

    @property
    def again(self) -> bool:
        return self.when == "during" or self.space == "features"

    @property
    def scope(self) -> str:
        if self.when == "before":
            return f"{self.space}, {'whole set' if self.within == 'set' else f'chunks of {self.chunk:,}'}"
        return f"features, chunks of {self.chunk:,}"

    def listed(self, x: Tensor, y: Tensor, generator: torch.Generator, watch: Watch = unwatched) -> Any:
        chunk = self.chunk if self.within == "chunk" and self.when == "before" else None
        kept = neighbours.k_filter(
            x, y, self.k, least=self.least, chunk=chunk, itself=self.itself, memory_mib=self.memory_mib, watch=watch
        ).to(y.device)
        wanted = len(y) - int(self.drop_at_most * len(y))
        if len(kept) >= wanted:
            return kept
        mask = torch.ones(len(y), dtype=torch.bool, device=y.device).index_fill(0, kept, False)
        redundant = mask.nonzero()[:, 0]
        drawn = torch.randperm(len(redundant), generator=generator)[: wanted - len(kept)].to(y.device)
        return torch.cat([kept, redundant[drawn]]).sort().values

    def begin(self, at: "Moment") -> None:
        if self.when == "before":
            super().begin(at)

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        assert at is not None
        if self.when == "before":
            return super().choose(chunk, seen, generator, at)
        if at.epoch < self.start:
            return chunk
        return chunk.take(told(at, lambda: self.listed(chunk.x, chunk.y, generator)))
