"""Training steps tried on copies, to measure them: counted memory and seconds, segment by segment from the bottom up."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from effdl.datasets.problem import Batch
from effdl.training.memory import NOTHING, LiveStorages, Memory, clone, held
from effdl.training.segment import SegmentState

PIECE_BUDGET_S = 0.005


class Prefix:
    """The frozen modules below a segment, each called once as its feednet would call it, on one batch.

    What feeding takes does not hang on what stands above: of a module's call only its input, its own weights and what it
    makes count, beside the batch. So all segments of a network are measured in one walk from its bottom.

    Args:
        batch: stored inputs; counted too.
        pieces: the modules, in eval mode, in their order; `climb` adds more.
        fake: on fake tensors, which compute nothing and allocate nothing, else on real ones: the same bytes.
    """

    def __init__(self, batch: Batch, *pieces: nn.Module, fake: bool = False) -> None:
        self._mode = _fake_mode() if fake else None
        with self.mode:  # each a storage of its own: a slice of the set counts itself only
            x, y, index = (self.convert(t).clone() for t in (batch.x, batch.y, batch.index))
        self.batch = replace(batch, x=x, y=y, index=index)
        self.x = x
        self.seconds = 0.0
        self._weights: dict[int, int] = {}
        # Peaks of the calls so far without weights: below the last piece, and of that one, whose output is now fed to a
        # segment ("activation") and will be the feednet's own once there is another piece.
        self._below = self._last = self._last_within = NOTHING
        self.climb(*pieces)

    @property
    def mode(self) -> AbstractContextManager[Any]:
        return self._mode or nullcontext()

    def convert(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor to rehearse with."""
        return self._mode.from_tensor(tensor) if self._mode else tensor.clone()

    @property
    def data(self) -> list[Tensor]:
        return [self.batch.x, self.batch.y, self.batch.index]

    @property
    def weight_bytes(self) -> int:
        """Of all pieces' weights and buffers, each storage once."""
        return sum(self._weights.values())

    @property
    def sample_bytes(self) -> int:
        """Of what it puts out for one sample."""
        return self.x.nbytes // len(self.x)

    def feeding(self) -> Memory:
        """The most that is alive while it feeds one batch, beside the segment that it feeds."""
        return _larger(self._below, self._last).plus(feednet=self.weight_bytes)

    def fed(self) -> Tensor:
        """What it puts out, in a storage of its own of the same size; the batch's own inputs where nothing changed them."""
        if _same_storage(self.x, self.batch.x):
            return self.batch.x
        elements = self.x.untyped_storage().nbytes() // self.x.element_size()
        with self.mode:
            whole = self.x.as_strided((elements,), (1,), 0).clone()
            return whole.as_strided(self.x.shape, self.x.stride(), self.x.storage_offset())

    def climb(self, *pieces: nn.Module) -> None:
        """Put further modules on top."""
        for piece in pieces:
            self._weights |= {id(t): t.untyped_storage().nbytes() for t in _state(piece)}
            tried = clone(piece, self.convert) if self._mode else piece
            with self.mode, torch.no_grad():
                self._climb(tried)

    def _climb(self, piece: nn.Module) -> None:
        live, weights = LiveStorages(), _state(piece)
        live.book([*weights, self.x], "feednet")
        live.book(self.data, "activation")
        with live, live.booking("feednet"):
            out: Tensor = piece(self.x)
        own = _bytes(weights)
        self._below = _larger(self._below, self._last_within)
        self._last_within = live.memory().plus(feednet=-own)
        live.book([out], "activation")
        self._last = live.memory().plus(feednet=-own)
        if self._mode is None:
            self.seconds += fastest(lambda: piece(self.x), self.x.device, PIECE_BUDGET_S)
        self.x = out


class Rehearsal:
    """Training steps of a copy of a segment above a rehearsed prefix; the original is not touched."""

    def __init__(self, state: SegmentState, prefix: Prefix) -> None:
        self._prefix = prefix
        self._state = clone(state, prefix.convert)

    def memory(self) -> Memory:
        """Peak memory of the second of two steps. The feednet counts (table 6.3's "relative memory use" includes it)."""
        prefix, parameters = self._prefix, list(self._state.modules.parameters())
        with prefix.mode:
            if not self._state.optimizer.state:
                self._step(prefix.fed())
            live = LiveStorages()
            weights, optimizer = _state(self._state.modules), held(self._state.optimizer)
            given = [prefix.fed()]
            live.book(weights, "parameter")
            live.book(optimizer, "optimizer")
            live.book([*given, *prefix.data], "activation")
            watch = self._state.optimizer.register_step_pre_hook(lambda *_: live.book([p.grad for p in parameters], "gradient"))
            with live:
                self._step(given.pop())
            watch.remove()
        feeding = prefix.feeding().plus(parameter=_bytes(weights), optimizer=_bytes(optimizer))
        return _larger(feeding, live.memory().plus(feednet=prefix.weight_bytes))

    def seconds(self, budget: float = 0.02) -> float:
        """Of one training step: the fastest of at least two, unless the first takes seconds."""
        return fastest(lambda: self._step(self._prefix.x), self._prefix.x.device, budget)

    def _step(self, fed: Tensor) -> None:
        """One training step; nothing but ``fed``'s place in the batch holds it."""
        waiting = [replace(self._prefix.batch, x=fed)]
        del fed
        for _ in self._state.train_epoch(waiting.pop() for _ in range(1)):
            pass


def fastest(call: Callable[[], object], device: torch.device, budget: float) -> float:
    """Seconds of the fastest of at least two calls, of more while ``budget`` lasts, of one alone if it takes seconds."""
    best, start = float("inf"), _clock(device)
    for repeat in count(1):
        before = _clock(device)
        call()
        after = _clock(device)
        best = min(best, after - before)
        if after - start > (budget if repeat > 1 else 2.0):
            return best
    raise AssertionError


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _fake_mode() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode  # half a second to import, and few need it

    return FakeTensorMode()


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of their storages, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _larger(a: Memory, b: Memory) -> Memory:
    return a if a.peak >= b.peak else b
