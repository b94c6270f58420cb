"""Shelf: features on disk that do not fit in memory, and at which heights they may lie there."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from torch import Tensor

from effdl.datasets.rows import Rows
from effdl.errors import RecordError

KeepOn = Literal["memory", "disk", "auto"]


class Shelf:
    """Where features are laid that do not fit in memory.

    Args:
        folder: the run's own, see `RunHandle.folder`; asked for where something is laid.
        give_up: told why a disk does not take it, where the training is to go on by a feednet; else it ends with that.

    ``heights``: so many modules lie below features that may be laid here, the input block among them; others are not.
    """

    def __init__(self, folder: Callable[[], Path] | None = None, give_up: Callable[[RecordError], None] | None = None) -> None:
        self._folder, self._give_up = folder, give_up
        self.heights: set[int] = set()

    def rows(self, like: Tensor, chunks: Iterable[Tensor], y: Tensor, height: int) -> Rows | None:
        """Features at a height, as `Rows` takes them; None where the disk has no room, and then never again.

        Raises:
            RecordError: the same, where the training is to end with it.
        """
        assert self._folder is not None
        try:
            return Rows(self._folder(), like, chunks, y)
        except RecordError as error:
            if self._give_up is None:
                raise
            self._give_up(error)
            self.heights.discard(height)
            return None
