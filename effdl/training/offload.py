"""Offload: tensors that nothing computes with lie on the host or on disk, and come back as they were."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdl.errors import disk_errors
from effdl.training.feednet import feednet, is_copied
from effdl.training.hardware import Hardware
from effdl.training.tensor_file import TensorFile

Place = Literal["host", "disk"]

SUFFIX = ".away"
_numbers = count()  # so that no file of this process is ever taken for an earlier one, which may end only now


class Offload:
    """Where a training's tensors lie while nothing computes with them.

    Tensors stay the objects that they are; only what is behind them moves. On the host they lie pinned where the device is a
    GPU; on a CPU that is the device itself, and nothing moves. On disk each part is a file, see `TensorFile`: from a CPU it is
    read page by page as it is computed with, and its pages are let go of after each call.

    Args:
        where: None leaves all where it is.
        device: on which the training computes.
        folder: the run's own for these files, see `RunHandle.folder`; asked for when the first is written, and emptied then of
            what a killed process left.
        outline: whether the tensors are fake ones, of which only the bytes are asked for.

    ``moves``: whether anything does. Within ``with``, files are there; they go with its end, however that comes.
    """

    def __init__(self, where: Place | None, device: torch.device, folder: Callable[[], Path], outline: bool = False) -> None:
        self.where, self.device, self.outline = where, device, outline
        self.moves = where == "disk" or (where == "host" and device.type != "cpu")
        self._asked = folder
        self._parts: weakref.WeakSet[Part] = weakref.WeakSet()
        self._folder: Path | None = None

    def __enter__(self) -> "Offload":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            with suppress(OSError):
                self._empty(self._folder)
            self._folder = None

    def part(self, name: str, tensors: Callable[[], Iterable[Tensor]], staying: Iterable[Tensor] = ()) -> "Part":
        """Tensors that leave the device and come back together; they are there at first.

        tensors: asked for when they leave: an optimizer has its state only after a step. staying: those whose memory others
            share, which does not move.
        """
        made = Part(self, f"{next(_numbers)}-{name}", tensors, {_address(t) for t in staying})
        self._parts.add(made)
        return made

    def copies(self, name: str, tensors: Mapping[str, Tensor]) -> "tuple[dict[str, Tensor], Part]":
        """Copies of these tensors that are off the device from the first; as long as the part is there, they are."""
        copies = {key: torch.empty(0, dtype=t.dtype) for key, t in tensors.items()}
        part = self.part(name, copies.values)
        part.hold(_grouped(tensors.values(), copies.values()), [one.storage() for one in _grouped(tensors.values())])
        return copies, part

    def lay(self, name: str, storages: Sequence[Tensor]) -> "_Host | TensorFile":
        """Storages, each as its bytes, (n,), where things lie. Raises RecordError for a full disk, and leaves nothing there."""
        if self.where == "host":
            return _Host(storages)
        if self._folder is None:
            self._folder = self._asked()
            with disk_errors(self._folder):
                self._empty(self._folder)
        return TensorFile(self._folder / (name + SUFFIX), storages)

    @staticmethod
    def _empty(folder: Path) -> None:
        for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{SUFFIX}.part")):
            path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise a RecordError where a file is not what was written."""
        for part in list(self._parts):
            part.check()

    def away_bytes(self) -> int:
        """Of all that is off the device now."""
        return sum(part.away_bytes for part in list(self._parts))


class Part:
    """Tensors that leave the device together, see `Offload.part`."""

    def __init__(self, offload: Offload, name: str, tensors: Callable[[], Iterable[Tensor]], staying: set[int]) -> None:
        self.offload, self.name = offload, name
        self._tensors, self._staying = tensors, staying
        self._held: list[_Held] = []
        self._away: _Host | TensorFile | None = None

    @property
    def away_bytes(self) -> int:
        return sum(held.bytes for held in self._held)

    def leave(self) -> None:
        """Off the device, unless they are already. Raises RecordError where a disk is full; then they are still there."""
        if not self.offload.moves or self.offload.outline or self._away is not None:
            return
        device, staying = self.offload.device.type, self._staying
        held = _grouped(t for t in self._tensors() if t.device.type == device and _address(t) not in staying)
        self.hold(held, [one.storage() for one in held])

    def hold(self, held: "list[_Held]", storages: Sequence[Tensor]) -> None:
        """Lay these storages away, as what the tensors see."""
        self._away = self.offload.lay(self.name, storages)
        self._held = held
        self._put(self._away.storages())

    def come(self) -> None:
        """Back on the device. Raises RecordError where the file that they were written to is not what it was."""
        if self._away is not None:
            self._put([self._on_device(data) for data in self._away.read()])
            self._held, self._away = [], None

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within, they can be computed with; nothing may change them."""
        if (away := self._away) is None:
            yield
            return
        away.look()
        mapped = isinstance(away, TensorFile) and self.offload.device.type == "cpu"
        if not mapped:
            self._put([self._on_device(data) for data in away.storages()])
        try:
            yield
        finally:
            if not mapped:
                self._put(away.storages())
            away.release()

    def check(self) -> None:
        """Raise a RecordError where a file is not what was written."""
        if self._away is not None:
            self._away.check()

    def _on_device(self, data: Tensor) -> Tensor:
        return data.to(self.offload.device, non_blocking=True)

    def _put(self, storages: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for held, data in zip(self._held, storages, strict=True):
                held.put(data)


class Streamed(nn.Module):
    """A frozen module whose tensors are on the device only while it is called.

    call: the module as it is called, compiled for example.
    """

    def __init__(self, module: nn.Module, part: Part, call: nn.Module | None = None) -> None:
        super().__init__()
        self.module, self._part = module, part
        self._call: Callable[[Tensor], Tensor] = call or module

    def forward(self, x: Tensor) -> Tensor:
        with self._part.here():
            return self._call(x)

    def fast(self, hardware: Hardware) -> "Streamed":
        """Its feednet, off the device too."""
        if not is_copied(self.module):
            return Streamed(self.module, self._part, hardware.compiled(self.module))
        with self._part.here():
            fast = feednet(self.module)
        part = self._part.offload.part("feednet", lambda: tensors(fast))
        part.leave()
        return Streamed(fast, part, hardware.compiled(fast))


@dataclass(frozen=True, slots=True)
class _Held:
    """Tensors that share a storage of so many bytes, and how each sees it: offset, shape and strides."""

    tensors: list[Tensor]
    forms: list[tuple[int, torch.Size, tuple[int, ...]]]
    seen: Tensor
    bytes: int

    def storage(self) -> Tensor:
        """All of its bytes, (n,), where they are."""
        return _view(self.seen.untyped_storage(), torch.uint8, 0, (self.bytes,), (1,))

    def put(self, data: Tensor) -> None:
        """The tensors see these bytes from now on."""
        for tensor, form in zip(self.tensors, self.forms, strict=True):
            tensor.data = _view(data.untyped_storage(), tensor.dtype, *form)


def _view(data: torch.UntypedStorage, dtype: torch.dtype, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    made: Any = torch.empty(0, dtype=dtype, device=data.device)
    seen: Tensor = made.set_(data, offset, shape, stride)
    return seen


def _grouped(tensors: Iterable[Tensor], others: Iterable[Tensor] | None = None) -> list[_Held]:
    """By their storages, each once; those that hold nothing are left out.

    others: which are to see it instead.
    """
    found: dict[int, _Held] = {}
    seen = list(tensors)
    places = list(others) if others is not None else seen
    for tensor, place in {id(place): (t, place) for t, place in zip(seen, places, strict=True)}.values():
        if size := tensor.untyped_storage().nbytes():
            one = found.setdefault(_address(tensor), _Held([], [], tensor, size))
            one.tensors.append(place)
            one.forms.append((int(tensor.storage_offset()), tensor.shape, tensor.stride()))
    return list(found.values())


class _Host:
    """Copies in the machine's memory, pinned where they come from a GPU."""

    def __init__(self, storages: Sequence[Tensor]) -> None:
        self._copies = [torch.empty(len(data), dtype=torch.uint8, pin_memory=data.is_cuda).copy_(data) for data in storages]

    def storages(self) -> list[Tensor]:
        return self._copies

    read = storages

    def look(self) -> None:
        """Memory is what it was."""

    check = release = look


def tensors(*modules: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [t for module in modules for t in (*module.parameters(), *module.buffers())]


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
