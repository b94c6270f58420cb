"""Peak training memory by counting live storages: exact, deterministic, the same on CPU, GPU and fake tensors."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from effdl.training.handle import KINDS, Memory

Call = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
NOTHING = Memory(0, dict.fromkeys(KINDS, 0))


@dataclass(slots=True)
class _Storage:
    birth: int
    bytes: int
    kind: str
    death: int | None = None
    watch: object = None


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of every storage that an operation puts out for as long as it lives.

    Sees parameters, gradients, optimizer state, saved activations, recomputation and the feednet alike, unlike hooks on saved
    tensors; not a kernel's own scratch memory. live: bytes alive now.

    Args:
        call: (operation, its arguments) -> what it puts out; fake tensors have a quicker way to it than the operation itself.
    """

    def __init__(self, call: Call | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._call = call or _call
        self._now = self.live = self.peak = self._peak_at = 0
        self._all: list[_Storage] = []
        self._of: dict[int, _Storage] = {}  # those alive, by their address
        self._kind = "activation"
        self._counting = True

    def book(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """Count these tensors' storages (once) and say what they are."""
        for tensor in tensors:
            if tensor is not None:
                self._track(tensor).kind = kind

    @contextmanager
    def booking(self, kind: str) -> Iterator[None]:
        """Storages that appear within are of this kind."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Storages that appear within are not counted, unless they are booked or put out again later."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True

    def memory(self) -> Memory:
        """Peak so far, split by what each storage alive at the peak turned out to be."""
        at = self._peak_at
        alive = [s for s in self._all if s.birth <= at and (s.death is None or s.death > at)]
        return Memory(self.peak, {kind: sum(s.bytes for s in alive if s.kind == kind) for kind in KINDS})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False spares every operation a wrapper that only torch.compile needs, a tenth of a count's time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self._call(func, args, kwargs or {})
        if self._counting:
            self._see(out)
        return out

    def _see(self, out: Any) -> None:
        if isinstance(out, Tensor):
            self._track(out)
        elif isinstance(out, (list, tuple)):
            for part in out:
                self._see(part)

    def _track(self, tensor: Tensor) -> _Storage:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if (known := self._of.get(address)) is not None:
            return known
        self._now += 1
        entry = self._of[address] = _Storage(self._now, storage.nbytes(), self._kind)
        self._all.append(entry)
        self.live += entry.bytes
        if self.live > self.peak:
            self.peak, self._peak_at = self.live, self._now
        entry.watch = weakref.ref(storage, lambda _: self._forget(address))
        return entry

    def _forget(self, address: int) -> None:
        entry = self._of.pop(address)
        self._now += 1
        entry.death = self._now
        self.live -= entry.bytes


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)
