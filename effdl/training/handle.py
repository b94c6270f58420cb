"""What a method may ask of the run that carries it. `records.Run` is one; methods never import records."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.training.company import Company
from effdl.training.features import Stack
from effdl.training.hardware import Hardware
from effdl.training.look import Look
from effdl.training.optim import Schedule
from effdl.training.ranks import Ranks
from effdl.training.sync import Sync

T = TypeVar("T")
KINDS = ("parameter", "gradient", "optimizer", "feednet", "activation")


class CannotGoOn(Exception):
    """A checkpoint does not hold what the method saved in it: the run begins anew."""


@contextmanager
def taking_up() -> Iterator[None]:
    """Within, a method puts back what `RunHandle.load` gave it; whatever fails there is the checkpoint's fault."""
    try:
        yield
    except Exception as error:
        raise CannotGoOn from error


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak bytes of one training step and what they were at that moment, by kind."""

    peak: int
    by_kind: dict[str, int]

    def plus(self, **more: int) -> "Memory":
        """With further bytes of these kinds, alive all the while."""
        return Memory(self.peak + sum(more.values()), {kind: n + more.get(kind, 0) for kind, n in self.by_kind.items()})


@dataclass(frozen=True, slots=True)
class SegmentCost:
    """What one segment will cost: counted bytes, and seconds measured on one batch.

    start, stop: its blocks. turns: (place in the order of all turns, epochs) of each of its own. batches, steps, val_steps:
    how many batches an epoch has, how many the filter leaves of them, and how many the validation set has. fed_steps: how many
    batches of an epoch go through the frozen prefix, where its outputs are not kept. feed_s: to read a batch and send it
    through the whole prefix; made_s: the parts of it that are spent, turn by turn, to make features that are kept, in all;
    fed_s: the part that is spent in each epoch, where they are not; replayed_s: above a recording (§6.2.2), what a batch of it
    takes through the layers between, and then the last two, kept_bytes and spared_bytes are of the validation set alone;
    step_s: one training step, without feeding. idle_bytes:
    what this segment does not need, but lies in memory all the same: weights of the network and of learners whose turn comes
    again, and copies of weights. kept_bytes: features that are stored while it trains; filter_bytes: samples that a filter has
    chosen and that wait for their step; feature_bytes: of one sample at the segment's input; below_bytes: weights of the frozen
    prefix, which ``memory`` counts as the feednet's; feednet_bytes: of weights that feednets copy where nothing is stored;
    spared_bytes: the part of them that is not copied; certain: False where the network may have
    grown enough before. making_bytes: the most features that are there at once while its own are made, the last ones beside
    the new; 0 where none are; feeding_bytes: of a batch on its way through the prefix then, with the weights of both.
    state_bytes: of its learner while it waits for its next turn, beside the network: what its rule has of its own, and the
    optimizer's state; away_bytes: of what ``memory`` counts so much is on the host or on disk
    (`offload.Offload`).
    """

    start: int
    stop: int
    epochs: int
    turns: tuple[tuple[int, int], ...]
    batches: int
    steps: int
    fed_steps: int
    val_steps: int
    feed_s: float
    step_s: float
    memory: Memory
    idle_bytes: int
    filter_bytes: int
    feature_bytes: int
    below_bytes: int
    feednet_bytes: int
    spared_bytes: int = 0
    made_s: float = 0.0
    fed_s: float = 0.0
    replayed_s: float | None = None
    kept_bytes: int = 0
    certain: bool = True
    state_bytes: int = 0
    away_bytes: int = 0
    making_bytes: int = 0
    feeding_bytes: int = 0

    @property
    def resident(self) -> int:
        """Bytes of a step's peak with all that lies in the device's memory beside it, or of the making of features if that
        takes more."""
        step = self.memory.peak + self.kept_bytes + self.filter_bytes
        making = self.feeding_bytes + self.making_bytes if self.making_bytes else 0
        return max(step, making) + self.idle_bytes - self.away_bytes


class SampleFilter(Protocol):
    """What the engine needs of a filter, see `filters.filter.Filter`."""

    @property
    def sees(self) -> Literal["index", "features"]:
        """What it chooses by."""

    @property
    def again(self) -> bool:
        """Whether it chooses again among what was recorded below."""

    @property
    def watches(self) -> bool:
        """Whether it goes by the losses of steps."""

    @property
    def needs_moments(self) -> bool:
        """Whether it goes by what a segment makes of single samples."""

    @property
    def rescales(self) -> bool:
        """Whether it fills ``scale`` of batches."""

    @property
    def compounds(self) -> bool:
        """Whether each segment drops its share of what the one below was left."""

    @property
    def scope(self) -> str:
        """Of what it chooses, and by what, in words."""

    def check_training(self, epochs: Sequence[int], at_once: bool) -> None:
        """Raise a ConfigError for a training that it does not go with. epochs: of each segment. at_once: whether they share
        turns."""

    def begin(self, at: Any) -> None:
        """Before an epoch of a segment, of which a `sieving.Moment` tells."""

    def between(self, batches: Iterator[Batch], batch_size: int, at: Any) -> Iterable[Batch]:
        """Of what one segment puts out as it learns, what the one above it gets, whose moment it is."""

    @property
    def chunk(self) -> int:
        """Samples that it looks at at once."""

    @property
    def expected_share(self) -> float:
        """The share of the samples that it keeps in an epoch."""

    def apply(self, batches: Iterable[Batch], batch_size: int, seed: int, at: Any = None) -> Iterator[Batch]:
        """What it keeps of an epoch's batches, regrouped."""


class RunHandle(Protocol):
    """An open run, and when a method turns to it (the engine does so for those that it trains)::

    load                      once, before all else: a run may go on
    expect                    before the first step, where it does not
    for each turn of a segment:
        probe                 before its first epoch
        for each epoch:
            progress          at every step
            record            the epoch's numbers
            test, probe       of what has learned
            save              last: what was recorded before a checkpoint survives with it
    note                      at any time, of what the summary is to hold
    """

    @property
    def hardware(self) -> Hardware:
        """What the run computes on."""

    @property
    def ranks(self) -> Ranks:
        """The processes that carry it out together. Only the first records, measures and saves; all get the same answers."""

    @property
    def company(self) -> Company:
        """Other runs that are trained with it as one; whom it asks for epochs and measurements, see `training.stacked`."""

    @property
    def schedule(self) -> Schedule | None:
        """Learning rate by epoch; restarts with every segment."""

    @property
    def filter(self) -> SampleFilter | None:
        """What drops training samples, seeded by ``seed("filter", segment, epoch)``; validation data go past it."""

    @property
    def sync(self) -> Sync | None:
        """How its processes agree, and what weights go through on the way; None: each step has the gradients of all."""

    def seed(self, stream: str, *counters: int) -> int:
        """Seed of a random stream at a point of this run, see `rng.seed_for`."""

    def optimizer(
        self, parameters: Iterable[nn.Parameter], lr_scale: float = 1.0, weight_decay_scale: float = 1.0
    ) -> torch.optim.Optimizer:
        """The configured optimizer over these parameters, its base values scaled."""

    def folder(self, name: str) -> Path:
        """A folder of the run's own for files that belong to its checkpoint; they stay until the run has ended.

        Such as are of this process alone whoever writes them removes.
        """

    def decide(self, name: str, choose: Callable[[], Any]) -> Any:
        """What was chosen by a measurement, or by what this machine has: a JSON value, found out once and written down before
        the first step, so that all processes and a run that goes on have the same. name: such as "data/recorded_on"; it is
        noted under it."""

    def say(self, text: str) -> None:
        """Tell whoever watches the run something in a line."""

    def watch(self, parts: Iterable[T], total: int, doing: str) -> Iterable[T]:
        """The same parts, one by one; where they take seconds, it is shown how far they are. doing: what is done with them."""

    def expect(self, costs: list[SegmentCost], keep_bytes: int) -> None:
        """Say beforehand what the run will cost. keep_bytes: as in `test`."""

    def reached(self, segments: int) -> None:
        """So many of the segments that were expected have been trained, from the lowest, and no other will be: only what these
        took is of interest."""

    def progress(self, segment: int, past: Sequence[float], epochs: int, stands_for: int = 1) -> bool:
        """Whether something was shown of how far the run is. Called at every step, this costs next to nothing.

        Args:
            segment: which learns.
            past: of each segment the epochs that lie behind, with the part of the present one.
            epochs: of this segment in all.
            stands_for: how many runs that are trained as one are shown by this one; 0 of those that another one shows.
        """

    def record(self, segment: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write one line of metrics, by keys such as "train/loss"."""

    def probe(self, look: Look, segment: int, epoch: int, last: bool) -> None:
        """Let the configured probes look at blocks that have learned.

        epoch: that lies behind, -1 before a segment's first. last: in this segment's last epoch.
        """

    def test(
        self, model: nn.Module, segment: int, epoch: int, last: bool, below: Stack | None = None, keep_bytes: int = 0
    ) -> None:
        """Let the run measure a network on the test split; nothing comes back, so nothing can be chosen by it.

        Args:
            model: from what ``below`` puts out, or from stored inputs, to logits.
            last: in this segment's last epoch, after which segments above will be measured on what its blocks put out.
            below: what does not learn beside it, and is called before it.
            keep_bytes: how much of the test split's features may be kept at that height, so that lower blocks are not called
                again. It is a bound of its own, beside that of training features.
        """

    def note(self, facts: Mapping[str, Any]) -> None:
        """Put facts, as JSON values by keys such as "segment/chosen", into the summary, where they survive a resume."""

    def keep(self, lists: Mapping[str, Tensor]) -> None:
        """Index lists, by name, that are to stand beside the run's other files."""

    def timer(self, name: str) -> AbstractContextManager[None]:
        """Adds the seconds spent within to ``time/<name>_s``.

        Seconds of another timer inside are that one's alone, as those of "filter" within "train"; but a timer "probe/passes"
        inside "probe" is a part of it.
        """

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Offer a checkpoint: everything needed to go on from here. The run may skip it."""

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint's state, or None in a fresh run."""
