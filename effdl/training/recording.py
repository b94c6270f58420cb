"""Recorded features: what a segment put out while it learned, kept batch by batch to be replayed in the same order (§6.2.2)."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.errors import DataError, RecordError, disk_errors

T = TypeVar("T")
Where = Literal["device", "host", "disk"]
BESIDE = 8 + 8 + 4  # bytes of a sample's target, index and loss, beside its features
LENGTH = 8  # bytes before each batch in a file, which say how long it is
LAST = "x_channels_last"  # in the place of "x" where its values lie in that order


@dataclass
class Epoch:
    """One epoch of batches: in memory, in a file, or both. bytes: of its tensors; digest: SHA-256 of the file."""

    bytes: int
    batches: list[Batch] | None
    file: str | None = None
    digest: str | None = None


class Recording:
    """What one segment put out in the epochs of a turn.

    On disk each epoch is a file, renamed when it is whole. What lies in memory is written where a checkpoint is made: the files
    are part of it.

    Args:
        name: tells its files from those of other turns.
        where: on the device, in the machine's memory, or on disk.
        device: where the batches are to be learned from.
        folder: the run's own for files that belong to its checkpoint; asked for where one is written.
        give_up: told why nothing more can be written down, where the training is to go on without; else it ends with that.
    """

    def __init__(
        self,
        name: str,
        where: Where,
        device: torch.device,
        folder: Callable[[], Path],
        give_up: Callable[[RecordError], None] | None = None,
    ) -> None:
        self.name, self._where, self._device, self._folder, self._give_up = name, where, device, folder, give_up
        self._epochs: list[Epoch] = []

    def __len__(self) -> int:
        """How many epochs are whole."""
        return len(self._epochs)

    @property
    def bytes(self) -> int:
        """Of all tensors of all epochs."""
        return sum(epoch.bytes for epoch in self._epochs)

    @property
    def files(self) -> set[str]:
        """Names of those that there are."""
        return {epoch.file for epoch in self._epochs if epoch.file is not None}

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, written down on their way; the epoch counts when they have come to their end.

        Raises:
            RecordError: the disk is full, or not to be written to; nothing of the epoch is left there then.
        """
        if self._where == "disk":
            return self._written(batches)
        return self._held(batches)

    def _held(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        device = torch.device("cpu") if self._where == "host" else self._device
        epoch, source = Epoch(0, []), iter(batches)
        while (batch := next(source, None)) is not None:
            waiting = [batch]
            epoch.bytes += _bytes(batch)
            epoch.batches.append(_kept(batch, device))  # type: ignore[union-attr]
            del batch
            yield waiting.pop()
        self._epochs.append(epoch)

    def _written(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        opened = self._try(lambda: _EpochFile(self._folder(), self._file_name(len(self))))
        if opened is None:
            yield from batches
            return
        with opened as file:
            source, size = iter(batches), 0
            while (batch := next(source, None)) is not None:
                waiting = [batch]
                size += _bytes(batch)
                self._try(partial(file.write, batch))
                del batch
                yield waiting.pop()
            if (digest := self._try(file.whole)) is not None:
                self._epochs.append(Epoch(size, None, file.name, digest))

    def _try(self, write: Callable[[], T]) -> T | None:
        """What it gives; None where the disk does not take it and the training is to go on."""
        try:
            return write()
        except RecordError as error:
            if self._give_up is None:
                raise
            self._give_up(error)
            return None

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, in their order; after the last one comes the first again.

        Raises:
            DataError: a file is not as it was written; before the first batch.
        """
        epoch = self._epochs[number % len(self)]
        if epoch.batches is not None:
            return (batch.to(self._device) for batch in epoch.batches)
        assert epoch.file is not None
        self._check(epoch, "; run the same command again, which begins anew")
        return self._read(epoch)

    def _read(self, epoch: Epoch) -> Iterator[Batch]:
        path = self._folder() / str(epoch.file)
        with disk_errors(path), path.open("rb") as file:
            while length := int.from_bytes(file.read(LENGTH), "little"):
                waiting = [_unpacked(file.read(length), self._device)]
                yield waiting.pop()

    def _check(self, epoch: Epoch, advice: str = "") -> None:
        path = self._folder() / str(epoch.file)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            digest = None
        if digest != epoch.digest:
            what = "is gone" if digest is None else "is damaged: it is not what was written there"
            raise DataError(f"{path}: a recorded epoch {what}{advice}")

    def _file_name(self, number: int) -> str:
        return f"{self.name}-{number}.epoch"

    def forget(self) -> None:
        """Let go of what is in memory; files go with `swept`."""
        self._epochs = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to find it again; what is in memory alone is written."""
        for number, epoch in enumerate(self._epochs):
            if epoch.file is None:
                with _EpochFile(self._folder(), self._file_name(number)) as file:
                    for batch in epoch.batches or ():
                        file.write(batch)
                    epoch.digest, epoch.file = file.whole(), file.name
        return {"name": self.name, "epochs": [(epoch.bytes, epoch.file, epoch.digest) for epoch in self._epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError, KeyError or ValueError where the files are not those that it wrote."""
        self.name = str(state["name"])
        self._epochs = [Epoch(int(size), None, str(file), str(digest)) for size, file, digest in state["epochs"]]
        for epoch in self._epochs:
            self._check(epoch)
            if self._where != "disk":
                device = torch.device("cpu") if self._where == "host" else self._device
                epoch.batches = [batch.to(device) for batch in self._read(epoch)]


class _EpochFile:
    """A file of batches, renamed when it is whole; within ``with`` one that is not goes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._path, self._part = name, folder / name, folder / f"{name}.part"
        self._sha = hashlib.sha256()
        with disk_errors(self._path):
            self._file = self._part.open("wb")

    def __enter__(self) -> "_EpochFile":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # of what could not be written anyway
            self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def write(self, batch: Batch) -> None:
        data = _packed(batch)
        with disk_errors(self._path):
            for piece in (len(data).to_bytes(LENGTH, "little"), data):
                self._file.write(piece)
                self._sha.update(piece)

    def whole(self) -> str:
        """All is written; the digest. Raises RecordError."""
        with disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)
        return self._sha.hexdigest()


def swept(folder: Path, wanted: set[str]) -> None:
    """Remove recorded epochs that nobody wants, and halves of such."""
    with disk_errors(folder):
        for path in folder.glob("*.epoch*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _named(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name in Batch.__slots__ if (value := getattr(batch, name)) is not None}


def _bytes(batch: Batch) -> int:
    return sum(tensor.nbytes for tensor in _named(batch).values())


def _kept(batch: Batch, device: torch.device) -> Batch:
    """A copy that nobody else changes, and that holds no more than itself."""
    return batch._map(lambda tensor: tensor.to(device, copy=True))


def _packed(batch: Batch) -> bytes:
    tensors = {name: tensor.cpu() for name, tensor in _named(batch).items()}
    x = tensors["x"]
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        tensors[LAST] = tensors.pop("x").permute(0, 2, 3, 1)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _unpacked(data: bytes, device: torch.device) -> Batch:
    tensors = load(data)
    if LAST in tensors:
        tensors["x"] = tensors.pop(LAST).permute(0, 3, 1, 2)
    return Batch(**tensors).to(device)
