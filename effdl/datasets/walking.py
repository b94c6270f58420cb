"""What lies in folders: files by their endings, and through links what lies elsewhere, each folder once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effdl.datasets.reading import cannot_be_read

Identity = tuple[int, int]  # of a folder, whatever its name: device and inode


@dataclass
class Found:
    """What was found.

    names: of the files below each root, in the order of the folders' names and then of their own.
    odd: files that cannot be read, and why. again: links that are not followed, and the folders in which they would end again.
    read: the folders that were read, with the time of their last change.
    """

    names: list[list[str]]
    odd: list[tuple[str, str]] = field(default_factory=list)
    again: list[tuple[str, str]] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)


def walk(groups: Sequence[Sequence[str]], endings: tuple[str, ...]) -> Found:
    """Go through folders at any depth; names that begin with a dot do not count.

    A folder is read once, where it lies if that is below a root: a link is not followed into what has been read, nor into a
    folder around a root. A root that is a link to what its group has read already has no files, and stands in ``again``.

    Args:
        groups: the folders to begin with. Those of one group share nothing; another group may have them too.
        endings: of file names, in small letters.

    Raises:
        DataError: a folder cannot be read.
    """
    return _Walk(groups, endings).found


class _Walk:
    """One walk: real folders first, then roots that are links, then the links found on the way."""

    def __init__(self, groups: Sequence[Sequence[str]], endings: tuple[str, ...]) -> None:
        self.endings = endings
        roots = [(group, root) for group, names in enumerate(groups) for root in names]
        entries: list[list[tuple[str, str]]] = [[] for _ in roots]
        self.found = Found([])
        self._seen: list[dict[Identity, str]] = [{} for _ in groups]
        self._around = {_identity(parent): parent for parent in sorted({p for _, root in roots for p in _parents(root)})}
        self._links: list[tuple[int, str]] = []  # where they were found: the place of the root, and their own
        for are_links in (False, True):
            for place, (group, root) in enumerate(roots):
                if os.path.islink(root) == are_links:
                    self._enter(root, group, place, entries[place], [self._seen[group], self._around] if are_links else [])
        for place, link in self._links:  # which get more on the way
            self._enter(link, roots[place][0], place, entries[place], [*self._seen, self._around])
        self.found.names = [[os.path.join(*entry) for entry in sorted(found)] for found in entries]

    def _enter(
        self, folder: str, group: int, place: int, entries: list[tuple[str, str]], known: Sequence[dict[Identity, str]]
    ) -> None:
        """Read a folder and the real ones below it, unless they are known."""
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            identity = _identity(folder)
            if at := next((some[identity] for some in known if identity in some), None):
                self.found.again.append((folder, at))
                continue
            self._seen[group].setdefault(identity, folder)
            self.found.read[folder] = _stat(folder).st_mtime_ns
            for entry in _entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    self._links.append((place, entry.path))
                elif not entry.name.lower().endswith(self.endings):
                    continue
                elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
                    entries.append((folder, entry.name))
                else:
                    self.found.odd.append((entry.path, _reason(entry.path)))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise cannot_be_read(folder, error) from None


def _stat(folder: str) -> os.stat_result:
    try:
        return os.stat(folder)
    except OSError as error:
        raise cannot_be_read(folder, error) from None


def _identity(folder: str) -> Identity:
    found = _stat(folder)
    return found.st_dev, found.st_ino


def _parents(root: str) -> list[str]:
    """The folders around it, by the names that lead to it and by where it lies."""
    return [str(parent) for path in (Path(root).parent.resolve() / "it", Path(root).resolve()) for parent in path.parents]


def _reason(path: str) -> str:
    """Why something is no file to be read."""
    if os.path.exists(path):
        return "a pipe, socket or device, not a file"
    return "a link that leads nowhere" if os.path.islink(path) else "it is gone"
