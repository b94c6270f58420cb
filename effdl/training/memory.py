"""Peak training memory by counting live storages: exact, deterministic, the same on CPU, GPU and fake tensors."""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from effdl.datasets.problem import Batch
from effdl.training.segment import SegmentState

T = TypeVar("T")
KINDS = ("parameter", "gradient", "optimizer", "feednet", "activation")


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak bytes of one training step and what they were at that moment, by kind."""

    peak: int
    by_kind: dict[str, int]


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
    tensors; not a kernel's own scratch memory.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._now = self._live = self.peak = self._peak_at = 0
        self._all: list[_Storage] = []
        self._of = WeakIdKeyDictionary()
        self._kind = "activation"

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

    def memory(self) -> Memory:
        """Peak so far, split by what each storage alive at the peak turned out to be."""
        at = self._peak_at
        alive = [s for s in self._all if s.birth <= at and (s.death is None or s.death > at)]
        return Memory(self.peak, {kind: sum(s.bytes for s in alive if s.kind == kind) for kind in KINDS})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._track(leaf)
        return out

    def _track(self, tensor: Tensor) -> _Storage:
        storage = tensor.untyped_storage()
        if (known := self._of.get(storage)) is not None:
            return known  # type: ignore[no-any-return]
        self._now += 1
        entry = _Storage(self._now, storage.nbytes(), self._kind)
        self._of[storage] = entry
        self._all.append(entry)
        self._live += entry.bytes
        if self._live > self.peak:
            self.peak, self._peak_at = self._live, self._now
        entry.watch = weakref.ref(storage, lambda _: self._forget(entry))
        return entry

    def _forget(self, entry: _Storage) -> None:
        self._now += 1
        entry.death = self._now
        self._live -= entry.bytes


def clone(thing: T, convert: Callable[[Tensor], Tensor]) -> T:
    """A deep copy whose parameters, buffers and optimizer state are ``convert``-ed: fake ones take no memory."""
    memo: dict[int, Any] = {}
    for module in _modules(thing):
        for parameter in module.parameters():
            memo[id(parameter)] = nn.Parameter(convert(parameter.detach()), parameter.requires_grad)
        for buffer in module.buffers():
            memo[id(buffer)] = convert(buffer)
    if isinstance(thing, SegmentState):
        memo |= {id(held): convert(held) for held in _held(thing.optimizer)}
    return copy.deepcopy(thing, memo)


def _held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor)]


def _fake_mode() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode  # half a second to import, and few need it

    return FakeTensorMode()


def _modules(thing: object) -> list[nn.Module]:
    return [thing.blocks, thing.local_loss] if isinstance(thing, SegmentState) else [thing]  # type: ignore[list-item]


class Rehearsal:
    """Training steps of a segment on copies of it and of its feednet, to measure them; the originals are not touched.

    Args:
        state: the segment.
        feednet: the frozen prefix from ``batch.x`` to the segment's input, in eval mode.
        batch: a batch of stored inputs; counted too.
        fake: on fake tensors, which compute nothing and allocate nothing, else on real ones: the same bytes.
    """

    def __init__(self, state: SegmentState, feednet: nn.Module, batch: Batch, *, fake: bool = False) -> None:
        self._mode = _fake_mode() if fake else None
        convert: Callable[[Tensor], Tensor] = self._mode.from_tensor if self._mode else torch.clone
        self._state, self._feednet = clone(state, convert), clone(feednet, convert)
        with self._mode or nullcontext():  # each a storage of its own: a slice of the set counts itself only
            x, y, index = (convert(t).clone() for t in (batch.x, batch.y, batch.index))
        self._batch = replace(batch, x=x, y=y, index=index)

    def memory(self) -> Memory:
        """Peak memory of the second of two steps. The feednet counts (table 6.3's "relative memory use" includes it)."""
        live = LiveStorages()
        with self._mode or nullcontext():
            if not self._state.optimizer.state:
                self._step(self._feed)
            with live:
                self._book(live)

                def feed(x: Tensor) -> Tensor:
                    with live.booking("feednet"):
                        fed = self._feed(x)
                    live.book([fed], "activation")
                    return fed

                self._step(feed)
        return live.memory()

    def seconds(self, budget: float = 0.02) -> tuple[float, float]:
        """(feednet forward, training step) for one batch: the fastest of at least two, unless the first takes seconds."""
        feed_s = step_s = float("inf")
        start = self._clock()
        for repeat in count(1):
            before = self._clock()
            fed = self._feed(self._batch.x)
            between = self._clock()
            self._step(lambda x, fed=fed: fed)  # type: ignore[misc]
            after = self._clock()
            feed_s, step_s = min(feed_s, between - before), min(step_s, after - between)
            if after - start > (budget if repeat > 1 else 2.0):
                break
        return feed_s, step_s

    def _clock(self) -> float:
        if self._batch.x.is_cuda:
            torch.cuda.synchronize()
        return perf_counter()

    def _book(self, live: LiveStorages) -> None:
        parameters = list(self._state.modules.parameters())
        live.book([*self._feednet.parameters(), *self._feednet.buffers()], "feednet")
        live.book([*parameters, *self._state.modules.buffers()], "parameter")
        live.book(_held(self._state.optimizer), "optimizer")
        live.book([self._batch.x, self._batch.y, self._batch.index], "activation")
        self._state.optimizer.register_step_pre_hook(lambda *_: live.book([p.grad for p in parameters], "gradient"))

    def _feed(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            fed: Tensor = self._feednet(x)
        return fed

    def _step(self, feed: Callable[[Tensor], Tensor]) -> None:
        for _ in self._state.train_epoch(replace(b, x=feed(b.x)) for b in [self._batch]):
            pass
