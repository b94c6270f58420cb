"""Where Hydra writes for a multirun: what was there before, what jobs left in it, and how it is put back."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdl import jobs


@dataclass(frozen=True)
class SweepFolder:
    """What there was before Hydra wrote multirun.yaml, which it does before it looks whether the runs can be composed.

    The folder is one that the user may have named, with anything in it.

    multirun: the file that Hydra writes. content: what it held, None where it was not there.
    missing: folders that were not there. left: by jobs of earlier sweeps.
    """

    multirun: Path
    content: bytes | None
    missing: tuple[Path, ...]
    left: jobs.Times

    @classmethod
    def as_it_is(cls, folder: Path) -> "SweepFolder":
        path = folder.resolve()
        multirun = path / "multirun.yaml"
        missing = tuple(p for p in (path, *path.parents) if not p.exists())
        content = multirun.read_bytes() if multirun.is_file() else None
        return cls(multirun, content, missing, jobs.left(path))

    def gathered(self, asked: Sequence[str]) -> list[dict[str, Any]]:
        """What jobs of another launcher left since. asked: what varies in each, as far as it is known."""
        return jobs.gather(self.multirun.parent, self.left, asked)

    def put_back(self) -> None:
        """Take back what Hydra wrote for a sweep that left no record: its file, and folders it made that are empty again."""
        if jobs.left(self.multirun.parent) != self.left:  # jobs have been at work
            return
        with suppress(OSError):  # never made
            if self.content is None:
                self.multirun.unlink()
            else:
                self.multirun.write_bytes(self.content)
        for folder in self.missing:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
