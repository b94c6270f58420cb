"""Image sets that lie in files: where they are looked for, how they are fetched, what is said where they are missing."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from effdl.datasets.dataset import Dataset
from effdl.datasets.fingerprints import checksum
from effdl.errors import DataError
from effdl.home import at_home
from effdl.setting import Size, Switch, setting


@setting
class Files(Dataset, ABC):
    """A published set in files of known names, in a folder of its own under ``root``.

    root: folder that holds the sets, by default the environment variable EFFDL_DATA, else ``data``.
    download: fetch a missing set through torchvision.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"root", "download"})
    endings: ClassVar[tuple[str, ...]] = ("",)

    val_size: Size = 5000
    root: str | None = None
    download: Switch = False

    @property
    @abstractmethod
    def title(self) -> str:
        """What the set is called, as torchvision's class."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where its files lie, or would lie."""

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Names of all its files in that folder, in an order that does not change."""

    @property
    def parent(self) -> Path:
        """The folder that holds the sets."""
        return sets_folder(self.root)

    def path(self, name: str) -> Path:
        """One of the files, fetched with the others where it may be. Raises DataError."""
        if self.download and self._gap() is not None:
            self._fetch()
        if (path := self._find(name)) is not None:
            return path
        some = any(self._find(other) for other in self.files)
        what = f"{self.title} is incomplete" if some else f"no {self.title}"
        raise DataError(
            f"{what} under {self.folder} ({self._gap()} is missing): "
            "point dataset.root or EFFDL_DATA to the folder that holds all of it, or add dataset.download=true"
        )

    def fingerprint(self) -> str:
        """A hash over the hashes of all files."""
        digest = hashlib.sha256()
        for name in self.files:
            digest.update(self.digest(name))
        return digest.hexdigest()

    def digest(self, name: str) -> bytes:
        """SHA-256 of one file's content."""
        return checksum(self.path(name))

    def fetches(self) -> Iterator[dict[str, Any]]:
        """Arguments of torchvision's class with which the whole set is downloaded, call by call."""
        yield {"root": str(self.parent)}

    def _find(self, name: str) -> Path | None:
        return next((path for end in self.endings if (path := self.folder / (name + end)).is_file()), None)

    def _gap(self) -> str | None:
        """The first file that is missing."""
        optional = "".join(f"[{end}]" for end in self.endings if end)
        return next((name + optional for name in self.files if self._find(name) is None), None)

    def _fetch(self) -> None:
        fetch(self.title, self.fetches(), self.folder)


def fetch(title: str, calls: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Download a set through torchvision's class of this name, called with each of these arguments. Raises DataError."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(
            f"no {title} under {folder}: downloads need torchvision ({error}): pip install 'effdl[vision]'"
        ) from None
    try:
        for arguments in calls:
            getattr(datasets, title)(**arguments, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{title} could not be downloaded to {folder}: {' '.join(str(error).split())}") from None


def sets_folder(root: str | None) -> Path:
    """The folder that holds the sets, where none is named."""
    return at_home(root, "dataset.root") if root else at_home(os.environ.get("EFFDL_DATA", "data"), "EFFDL_DATA")
