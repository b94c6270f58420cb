"""Filters that fix a list of samples before a segment learns, by classes and inputs or features: one decision for all."""

import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError, FitFailed
from effdl.filters.remembering import Remembering
from effdl.neighbours.watching import Watch, unwatched
from effdl.setting import Size, setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment

MANY = 10_000  # samples, of which a list takes seconds or minutes


@setting
class Listed(Remembering):
    """Chooses once among all training samples; then every epoch has the same ones.

    space: "inputs" as they are stored, once for the run; or "features" below a segment, once for each segment, as its first
        epoch has them (of an augmented set: as that epoch varied them), which for the lowest one are the inputs.
    least: of each class so many samples are kept, or all there are, whatever the criterion says; the run says so.

    The list stands as ``kept``, or ``kept/<segment>``, in filter.safetensors of the record.
    """

    space: Literal["inputs", "features"] = "inputs"
    least: Size = 1

    @abstractmethod
    def listed(self, x: Tensor, y: Tensor, generator: torch.Generator, watch: Watch = unwatched) -> Any:
        """Rising indices of what is kept of samples x (n, ...) of classes y (n,); a RuntimeWarning is said to who watches, to
        whom ``watch`` shows how far it is."""

    @property
    def again(self) -> bool:
        return self.space == "features"  # the list is the segment's own, and that of the recorded one another

    @property
    def scope(self) -> str:
        return f"{self.space}, whole set"

    def check(self, problem: Facts) -> None:
        check_classes(type(self).__name__, problem)

    def begin(self, at: "Moment") -> None:
        memory = at.run if self.space == "inputs" else at.memory
        if "kept" not in memory:
            memory["kept"] = self._decided(at)

    def _decided(self, at: "Moment") -> Tensor:
        if self.space == "inputs":
            x, place = at.inputs(), torch.arange(len(at.targets), device=at.targets.device)
        else:
            x, place = _in_order(at)
        kept = torch.zeros(len(at.targets), dtype=torch.bool, device=at.targets.device)
        y = at.targets[place]
        if len(y) >= MANY:
            at.say(f"filter: choosing among {len(y):,} samples ({self.scope}); training begins when that is done")
        kept[place[told(at, lambda: self.listed(x, y, at.generator(), at.watch))]] = True
        count = int(kept.sum())
        of_which = "" if self.space == "inputs" else f" for segment {at.segment + 1}"
        at.say(f"filter: {count:,} of {len(y):,} samples are kept{of_which}, {100 * count / len(y):.3g}% ({self.scope})")
        return kept

    def choose(self, chunk: Batch, seen: int, generator: torch.Generator, at: "Moment | None") -> Batch:
        assert at is not None
        kept = at.run["kept"] if self.space == "inputs" else at.memory["kept"]
        return chunk.take(kept[chunk.index].nonzero()[:, 0])


def _in_order(at: "Moment") -> tuple[Tensor, Tensor]:
    """What a segment gets of an epoch, by the samples' places (n,), rising."""
    batches = list(at.batches())
    x, index = torch.cat([batch.x for batch in batches]), torch.cat([batch.index for batch in batches])
    del batches
    order = index.argsort()
    return x[order], index[order]


def told(at: "Moment", decide: Any) -> Any:
    """What is decided, its warnings said to who watches, and its ValueError an end of the run in one line."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            found = decide()
        except ValueError as error:
            text = str(error).removeprefix("x has ")
            raise FitFailed(f"filter: segment {at.segment + 1} gets {text}; a smaller optimizer.lr may help") from None
    for one in said:
        at.say(f"filter: {one.message}")
    return found


def with_least(mask: Tensor, y: Tensor, least: int, order: Tensor) -> Tensor:
    """Booleans (n,) with so many of each class at least, or all there are among ``order``: positions, of which those that come
    first are kept beside, with a RuntimeWarning."""
    short, classes = 0, y[order].unique().tolist()
    for code in classes:
        mine = order[y[order] == code]
        lacking = min(least, len(mine)) - int(mask[mine].sum())
        if lacking > 0:
            short += 1
            mask = mask.index_fill(0, mine[~mask[mine]][:lacking], True)
    if short:
        warnings.warn(
            f"fewer than filter.least = {least} samples would be left of {short} of {len(classes)} classes; so many of each "
            "are kept, or all there are",
            RuntimeWarning,
            stacklevel=2,
        )
    return mask


def check_classes(name: str, problem: Facts) -> None:
    """Raise a ConfigError where targets are no classes."""
    if problem.targets != "classes":
        raise ConfigError(
            f"filter: {name} compares classes, and these targets are {problem.targets}: filter=random_subset or none"
        )
