"""Recorder: which segments are written down while they learn, and who learns from that (§6.2.2, "Feature checkpointing")."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effdl.datasets.batch import Batch
from effdl.errors import RecordError
from effdl.training.features import Stack
from effdl.training.recording import Recording, swept
from effdl.training.segments import Training

Below = Callable[[int], Stack]  # so many blocks -> they, as they are now, with the input block below


class Recorder:
    """The recordings of a training.

    A recording is of the blocks as they were when its turn ended, and serves the turns above until one of these learns anew.

    Args:
        training: says which segments are recorded, and where.
        device: where they learn.
        folder: see `Recording`.
        say: told where a disk is full and the training goes on without a recording.
    """

    def __init__(
        self, training: Training, device: torch.device, folder: Callable[[], Path], say: Callable[[str], None]
    ) -> None:
        self._training, self._device, self._folder, self._say = training, device, folder, say
        self._done: list[tuple[Stack, Recording]] = []  # from the lowest up
        self._now: Recording | None = None
        self._gone: list[int] = []  # places of the order whose recordings the disk did not take
        self._saved: set[str] = set()  # files that the last checkpoint needs
        self._may_sweep = bool(training.record)  # whether there may be files that nobody needs
        self.most_bytes = 0

    def find(self, below: Stack) -> tuple[int, Recording] | None:
        """The highest recording of modules among these, as they are, and how many modules are below it."""
        found = [(len(stack), one) for stack, one in self._done if below.shared(stack) == len(stack)]
        return max(found, key=lambda pair: pair[0], default=None)

    def begin(self, place: int) -> None:
        """A turn begins, or goes on."""
        if self._now is None and place not in self._gone and self._is_read(place):
            self._now = self._made(place)

    def passing(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """What comes out of the turn's segment, written down where somebody will learn from it."""
        return batches if self._now is None else self._watched(self._now, batches)

    def _watched(self, recording: Recording, batches: Iterable[Batch]) -> Iterator[Batch]:
        yield from recording.passing(batches)
        self.most_bytes = max(self.most_bytes, sum(one.bytes for one in self._all()))

    def end(self, place: int, below: Below) -> None:
        """A turn has ended: its recording is whole. What nobody will learn from any longer goes."""
        stop = self._training.segments[self._training.order[place].segments[-1]].stop
        if self._now is not None:
            self._done.append((below(stop), self._now))
            self._now = None
        starts = self._starts_until_changed(place)
        kept = []
        for stack, one in self._done:
            height = len(stack) - 1  # without the input block
            above = [len(other) - 1 for other, _ in self._done if len(other) > len(stack)]
            ceiling = min((h for h in above), default=None)
            if below(height).shared(stack) == len(stack) and any(
                start >= height and (ceiling is None or start < ceiling) for start in starts(height)
            ):
                kept.append((stack, one))
        self._done = kept

    def _starts_until_changed(self, place: int) -> Callable[[int], list[int]]:
        """Height -> where the segments of later turns start, as long as nothing below that height learns."""

        def starts(height: int) -> list[int]:
            found = []
            for turn in self._training.order[place + 1 :]:
                start = self._training.segments[turn.segment].start
                if start < height:
                    break
                found.append(start)
            return found

        return starts

    def _is_read(self, place: int) -> bool:
        """Whether the segment of a turn is to be recorded, and the turn after it is of one above."""
        turn = self._training.order[place]
        stop = self._training.segments[turn.segments[-1]].stop
        return turn.segments[-1] in self._training.record and bool(self._starts_until_changed(place)(stop))

    def _made(self, place: int) -> Recording:
        give_up = self._give_up(place) if self._training.full_disk == "feed" else None
        return Recording(str(place), self._training.store, self._device, self._folder, give_up)

    def _give_up(self, place: int) -> Callable[[RecordError], None]:
        def give_up(error: RecordError) -> None:
            if place not in self._gone:
                self._gone.append(place)
                what, *_ = str(error).split("; ")
                self._say(f"{what}; nothing is recorded, the blocks below feed the next segment")
            self._now = None

        return give_up

    def _all(self) -> list[Recording]:
        return [one for _, one in self._done] + ([self._now] if self._now is not None else [])

    def notes(self) -> dict[str, Any]:
        """What a run's summary is to hold; nothing where nothing was to be recorded."""
        if not self._training.record:
            return {}
        return {"data/recorded_bytes": self.most_bytes, "data/unrecorded_turns": list(self._gone)}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; files go that neither it nor the last one needs."""
        state = {
            "done": [(list(stack.ages), one.state_dict()) for stack, one in self._done],
            "now": None if self._now is None else self._now.state_dict(),
            "gone": list(self._gone),
            "most_bytes": self.most_bytes,
        }
        files = {name for one in self._all() for name in one.files}
        if self._may_sweep:
            swept(self._folder(), files | self._saved)
        self._may_sweep, self._saved = bool(files or self._saved) or self._now is not None, files
        return state

    def load_state_dict(
        self, state: dict[str, Any], place: int, done: int, modules: Callable[[int], tuple[nn.Module, ...]]
    ) -> None:
        """Raises DataError, KeyError, TypeError or ValueError for what is none, or files that are not those that it wrote.

        Args:
            place, done: of the order, and how many epochs of that turn lie behind.
            modules: so many blocks -> they, with the input block below.
        """
        self._gone, self.most_bytes = list(map(int, state["gone"])), int(state["most_bytes"])
        for ages, saved in state["done"]:
            recording = self._made(0)
            recording.load_state_dict(saved)
            self._done.append((Stack(modules(len(ages) - 1), tuple(map(int, ages))), recording))
        if (state["now"] is not None) != (place not in self._gone and self._is_read(place)):
            raise ValueError("no recording of this turn, or one that nobody asked for")
        if state["now"] is not None:
            self._now = self._made(place)
            self._now.load_state_dict(state["now"])
            if len(self._now) != done:
                raise ValueError("not so many epochs recorded")
        self._saved = {name for one in self._all() for name in one.files}
