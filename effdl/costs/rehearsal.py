"""Training steps tried on copies, to measure them: counted memory and seconds, segment by segment from the bottom up."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import copy as copied
from dataclasses import replace
from functools import cached_property
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from effdl.costs.memory import NOTHING, LiveStorages
from effdl.datasets.batch import Batch
from effdl.training.copies import clone, held
from effdl.training.feednet import feednet
from effdl.training.form import form_of
from effdl.training.handle import Memory
from effdl.training.learner import Learner

if TYPE_CHECKING:
    from effdl.costs.fake import Fakes

T = TypeVar("T")
STEP_BUDGET_S, PIECE_BUDGET_S = 0.1, 0.005


class Prefix:
    """The frozen modules below a segment, each called once as its feednet would call it, on one batch.

    What feeding takes does not depend on what stands above: beside the batch, only each module's input, weights and what it
    makes count. So all segments of a network are measured in one walk from its bottom.

    Args:
        batch: stored inputs; counted too.
        pieces: the modules, in eval mode, in their order; `climb` adds more.
        fake: whether on fake tensors, which compute and allocate nothing, instead of real ones; the bytes are the same. What is
            given may be fake already.
        autocast: entered for a feednet's forward pass over one batch, all pieces within.
        parts: the batch is fed in so many parts, one after another, see `sources.Fed`.
    """

    def __init__(
        self,
        batch: Batch,
        *pieces: nn.Module,
        fake: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        parts: int = 1,
    ) -> None:
        self._fakes, self._autocast, self._parts = _fakes() if fake else None, autocast, parts
        with self.mode:  # each a storage of its own: a slice of the set counts itself only
            x, y, index = (self.convert(t).clone() for t in (batch.x, batch.y, batch.index))
        self.batch = replace(batch, x=x, y=y, index=index)
        self.x = x
        self.seconds, self._timed = 0.0, True
        self._weights: dict[int, int] = {}
        self._cast_bytes = 0  # of the pieces' weights, which autocast keeps until the batch is through
        # Peaks of the calls so far without weights: below the last piece, and of that one, whose output is now fed to a
        # segment ("activation") and will be the feednet's own once there is another piece.
        self._below = self._last = self._last_within = NOTHING
        # Of segments by their form: networks repeat themselves.
        self.steps: dict[Any, Step] = {}
        self.step_seconds: dict[Any, float] = {}
        self._piece_seconds: dict[Any, float] = {}
        # Of the largest part of the batch, where it is fed in parts
        self._part = _part(self, parts) if parts > 1 else None
        self.climb(*pieces)

    def as_it_is(self) -> "Prefix":
        """Itself now, which stays there while this one climbs on; what segments of one form take, they find out together."""
        now = copied(self)
        now._weights = dict(self._weights)
        now._part = self._part and self._part.as_it_is()
        return now

    def above(self) -> "Prefix":
        """One that begins where this one ends, on what it puts out, as a recording gives it back."""
        batch = replace(self.batch, x=self.fed())
        return Prefix(batch, fake=self._fakes is not None, autocast=self._autocast, parts=self._parts)

    @property
    def mode(self) -> AbstractContextManager[Any]:
        return self._fakes or nullcontext()

    def count(self) -> LiveStorages:
        """A count of what is alive in a rehearsal."""
        return self._fakes.count() if self._fakes else LiveStorages()

    def convert(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor to rehearse with."""
        return self._fakes.convert(tensor) if self._fakes else tensor.clone()

    def copy(self, learner: Learner) -> Learner:
        """A copy of a learner to rehearse with."""
        return self._fakes.copy(learner) if self._fakes else clone(learner, Tensor.clone)

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
        if self._part is not None:  # the parts of what it puts out wait in a whole
            rest = _bytes(self.data) - _bytes(self._part.data)
            return self._part.feeding().plus(activation=rest + self.x.nbytes)
        return _larger(self._below, self._last).plus(feednet=self.weight_bytes)

    @property
    def form(self) -> tuple[Any, ...]:
        """All that what is done with its output depends on, but for the numbers in it."""
        return self.x.shape, self.x.stride(), self.x.dtype, self.x.untyped_storage().nbytes()

    def fed(self) -> Tensor:
        """What it puts out, in a storage of its own of the same size; the batch's own inputs where nothing changed them."""
        if _same_storage(self.x, self.batch.x):
            return self.batch.x
        elements = self.x.untyped_storage().nbytes() // self.x.element_size()
        with self.mode:
            whole = self.x.as_strided((elements,), (1,), 0).clone()
            return whole.as_strided(self.x.shape, self.x.stride(), self.x.storage_offset())

    def climb(self, *pieces: nn.Module, feeding: bool = False) -> None:
        """Put further modules on top.

        feeding: they are called as feednets. The bytes are those of the modules themselves, which are a little more.
        """
        if self._part is not None:
            self._part.climb(*pieces)
        for piece in pieces:
            self._weights |= {id(t): t.untyped_storage().nbytes() for t in _state(piece)}
            tried = self._fakes.copy(piece) if self._fakes else piece
            with self.mode, torch.no_grad():
                self._climb(tried, feeding)

    def _climb(self, piece: nn.Module, feeding: bool) -> None:
        live, weights = self.count(), _state(piece)
        live.book([*weights, self.x], "feednet")
        live.book(self.data, "activation")
        with live, live.booking("feednet"):
            with self._autocast():
                out = piece(self.x)
                within = live.live
            cast_bytes = within - live.live
        beside = self._cast_bytes - _bytes(weights)
        self._below = _larger(self._below, self._last_within)
        self._last_within = live.memory().plus(feednet=beside)
        live.book([out], "activation")
        self._last = live.memory().plus(feednet=beside)
        self._cast_bytes += cast_bytes
        if self._fakes is None and self._timed:
            form = form_of(piece)
            alike = None if form is None else (form, feeding, self.form)
            self.seconds += _once(self._piece_seconds, alike, lambda: self._seconds(feednet(piece) if feeding else piece))
        self.x = out

    def _seconds(self, piece: nn.Module) -> float:
        def call() -> None:
            with self._autocast():
                piece(self.x)

        return usual(call, self.x.device, PIECE_BUDGET_S)


def _part(whole: Prefix, parts: int) -> Prefix:
    """Beside a prefix, one for the largest of so many parts of its batch, none of whose seconds counts."""
    batch = whole.batch
    size = -(-len(batch) // parts)
    with whole.mode:
        part = replace(batch, x=batch.x[:size], y=batch.y[:size], index=batch.index[:size])
    made = Prefix(part, fake=whole._fakes is not None, autocast=whole._autocast)
    made._timed = False
    return made


class Step(NamedTuple):
    """What a step takes alone, on a batch that is there: the peak with nothing below the segment, and of it the bytes of the
    optimizer's state, and of weights."""

    memory: Memory
    optimizer: int
    weights: int


class Rehearsal:
    """Training steps of a copy of a segment above a rehearsed prefix; the original is not touched.

    Segments of one form above the same prefix are tried once, and but for that one are not copied.
    """

    def __init__(self, learner: Learner, prefix: Prefix) -> None:
        self._prefix, self._original = prefix, learner
        self._form = self._form_of_step()

    @cached_property
    def _learner(self) -> Learner:
        return self._prefix.copy(self._original)

    def memory(self) -> Memory:
        """Peak memory of a step after the first. The feednet counts (table 6.3's "relative memory use" includes it)."""
        prefix, step = self._prefix, self.step()
        feeding = prefix.feeding().plus(parameter=step.weights, optimizer=step.optimizer)
        return _larger(feeding, step.memory.plus(feednet=prefix.weight_bytes))

    def step(self) -> Step:
        """The same of a step alone."""
        return _once(self._prefix.steps, self._form, self._count)

    def _form_of_step(self) -> Any:
        """All that the bytes and the seconds of its step depend on, but what lies below; None where that cannot be told."""
        learner = self._original
        if (rule := form_of(learner.rule)) is None or learner.optimizer.state:
            return None
        return rule, self._prefix.form

    def _count(self) -> Step:
        """Where the optimizer has no state yet, it gets it in the middle of the step, beside what was alive before."""
        prefix, optimizer = self._prefix, self._learner.optimizer
        before = NOTHING
        with prefix.mode:
            live, weights, given = prefix.count(), _state(self._learner.rule), [prefix.fed()]
            live.book(weights, "parameter")
            live.book(held(optimizer), "optimizer")
            live.book([*given, *prefix.data], "activation")

            def learned(*_: Any) -> None:
                nonlocal before
                watch.remove()
                live.book([p.grad for p in self._learner.rule.parameters()], "gradient")
                if not optimizer.state:
                    before = live.memory()
                    with live.pausing():
                        optimizer.step()
                    live.book(held(optimizer), "optimizer")
                    before = before.plus(optimizer=_bytes(held(optimizer)))

            watch = optimizer.register_step_pre_hook(learned)
            with live:
                self._step(given.pop())
        return Step(_larger(before, live.memory()), _bytes(held(optimizer)), _bytes(weights))

    def seconds(self, budget: float = STEP_BUDGET_S) -> float:
        """Of one training step, as it usually is."""
        prefix = self._prefix
        return _once(prefix.step_seconds, self._form, lambda: usual(lambda: self._step(prefix.x), prefix.x.device, budget))

    def _step(self, fed: Tensor) -> None:
        """One training step; nothing but ``fed``'s place in the batch holds it."""
        batch = self._prefix.batch
        waiting = [replace(batch, x=fed, inputs=batch.x if self._original.rule.wants_inputs else None)]
        del batch, fed
        for _ in self._learner.train_epoch(waiting.pop() for _ in range(1)):
            pass


def _once(known: dict[Any, T], form: Any, find: Callable[[], T]) -> T:
    """Found out once for all that are of one form, each time where there is none."""
    if form is None:
        return find()
    if form not in known:
        known[form] = find()
    return known[form]


def usual(call: Callable[[], object], device: torch.device, budget: float) -> float:
    """Seconds that a call takes in the mean while ``budget`` lasts, after one that warms up.

    The mean, since whatever else runs on the machine interrupts some calls, and not most of them. Of a call that takes seconds
    the first is the only one.
    """
    before = clock(device)
    call()
    start = after = clock(device)
    if after - before > 2.0:
        return after - before
    for calls in count(1):
        call()
        after = clock(device)
        if after - start > budget:
            return (after - start) / calls
    raise AssertionError


def clock(device: torch.device) -> float:
    """Seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _fakes() -> "Fakes":
    from effdl.costs.fake import fakes  # half a second to import, and few need it

    return fakes()


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of their storages, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _larger(a: Memory, b: Memory) -> Memory:
    return a if a.peak >= b.peak else b
