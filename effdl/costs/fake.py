"""Fake tensors: form and storage without memory or arithmetic, on which a training step is counted, not computed."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from effdl.costs.memory import LiveStorages
from effdl.training.copies import converted, counters, tensors_of

T = TypeVar("T")
TORCHS_LOG = logging.getLogger("torch._subclasses.fake_tensor")
DEVICE = torch.ops.prim.device.default
RANDOM = {torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default}
# What makes a truncated normal of uniform numbers
TRUNCATING = {torch.ops.aten.erfinv_, torch.ops.aten.mul_, torch.ops.aten.add_, torch.ops.aten.clamp_}
Args = tuple[Any, ...]
Maker = Callable[[Args], Any]  # an operation's arguments -> what it puts out


class Undrawn(TorchDispatchMode):
    """A context in which weights are made but not drawn: pages that nobody writes take neither memory nor time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._undrawn = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RANDOM:
            self._undrawn[args[0]] = True
        elif func.overloadpacket not in TRUNCATING or args[0] not in self._undrawn:
            return func(*args, **(kwargs or {}))
        return args[0]


_stock = False


@contextmanager
def by_stock() -> Iterator[None]:
    """Within, `fakes` are torch's own: slower, with the same bytes in float32, and with less of torch's inside in them."""
    global _stock
    _stock = True
    try:
        yield
    finally:
        _stock = False


def fakes() -> "Fakes":
    """The process's own: fake tensors of two modes do not mix, and what one count has worked out serves the next."""
    return _fakes(_stock)


@lru_cache(maxsize=2)
def _fakes(stock: bool) -> "Fakes":
    return Fakes(stock)


class Fakes:
    """A context in which every new tensor is fake.

    stock: by torch's own FakeTensorMode alone.
    """

    def __init__(self, stock: bool = False) -> None:
        self._mode = FakeTensorMode() if stock else _Mode()
        self._mode.cache_enabled = stock  # else it would be asked for what _Recall does not know alone
        self._recall = None if stock else _Recall(self._mode)
        self._depth = 0

    def __enter__(self) -> None:
        if self._depth == 0:
            TORCHS_LOG.disabled = True  # of tracebacks; what is wrong is said by whoever asked
            self._mode.__enter__()
            if self._recall is not None:
                self._recall.__enter__()  # type: ignore[no-untyped-call]
        self._depth += 1

    def __exit__(self, *error: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            if self._recall is not None:
                self._recall.__exit__(*error)  # type: ignore[no-untyped-call]
            self._mode.__exit__(*error)
            TORCHS_LOG.disabled = False

    def count(self) -> LiveStorages:
        """A count that does not ask torch's dispatcher a second time for what an operation puts out."""
        return LiveStorages(None if self._recall is None else self._recall.call)

    def convert(self, tensor: Tensor) -> Tensor:
        """A fake tensor of the same form."""
        return tensor if isinstance(tensor, FakeTensor) else self._mode.from_tensor(tensor)

    def copy(self, thing: T, placed: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> T:
        """A copy of a module or segment on fake tensors; where it has no others, itself, which nothing can spoil.

        placed: what becomes of each of them.
        """
        if all(isinstance(tensor, FakeTensor) for tensor in tensors_of(thing)):
            return thing
        storages: dict[int, Any] = {}
        with self:
            memo = converted(thing, lambda tensor: placed(self._sharing(tensor, storages)))
            memo |= {id(count): torch.tensor(0.0, dtype=count.dtype) for count in counters(thing)}  # zeros have no value
        return copy.deepcopy(thing, memo)  # not within: a tensor that is an attribute stays real, and the count ends there

    def _sharing(self, tensor: Tensor, storages: dict[int, Any]) -> Tensor:
        """As `convert`, in a tenth of the time. storages: by the address of each real one its fake one, more are added."""
        if self._recall is None or type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            return self.convert(tensor)
        real = tensor.untyped_storage()
        if real._cdata not in storages:
            storages[real._cdata] = torch.UntypedStorage(real.nbytes(), device="meta")
        form = tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device
        return self._recall.made(form, storages[real._cdata])


class _Mode(FakeTensorMode):
    """Asks a pointwise operation's kernel for what it puts out. FakeTensorMode would go through its arithmetic, for 10 ms, lest
    a shape be no number; here all are."""

    def cpp_meta_supports_symint(self, func: Any) -> bool:
        return torch.Tag.pointwise in func.tags or super().cpp_meta_supports_symint(func)


class _Recall(TorchDispatchMode):
    """Remembers what an operation puts out for arguments of one form: networks repeat themselves.

    FakeTensorMode's own memory takes ten times as long to look an operation up. This one knows outputs that are an argument,
    a view of one, or have a storage of their own, and leaves all others to it.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode
        self._known: dict[Any, Maker] = {}
        self._attributes: dict[torch.device, dict[str, Any]] = {}  # of fake tensors by their device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in LiveStorages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Args, kwargs: dict[str, Any]) -> Any:
        if func is DEVICE:  # asked for at every turn
            return args[0].fake_device
        try:
            key = (func, *map(_form, args), *[(name, _form(value)) for name, value in kwargs.items()])
            make = self._known.get(key)
        except TypeError:  # an argument that cannot be looked up
            return func(*args, **kwargs)
        if make is not None:
            return make(args)
        out = ACCOUNTS.get(func, func)(*args, **kwargs)
        if (learned := self._learn(args, tree_leaves((args, kwargs)), out)) is not None:
            self._known[key] = learned
        return out

    def _learn(self, args: Args, leaves: list[Any], out: Any) -> Maker | None:
        if isinstance(out, Tensor):
            return self._learn_one(args, leaves, out)
        kind: Any = type(out)
        if kind not in (tuple, list) or not all(part is None or isinstance(part, Tensor) for part in out):
            return None
        makers = [make for part in out if (make := self._learn_one(args, leaves, part)) is not None]
        storages = [part.untyped_storage()._cdata for part in out if part is not None]
        shared = len(set(storages)) < len(storages) or len(makers) < len(out)
        return None if shared else lambda args: kind([make(args) for make in makers])

    def _learn_one(self, args: Args, leaves: list[Any], out: Tensor | None) -> Maker | None:
        if out is None:  # a gradient that nobody asked for
            return lambda args: None
        if type(out) is not FakeTensor or out.constant is not None or out.layout is not torch.strided:
            return None
        storage = out.untyped_storage()
        form: Args = (tuple(out.shape), out.stride(), out.storage_offset(), out.dtype, out.fake_device)
        for i, source in enumerate(args):
            if source is out:
                return lambda args: args[i]
            if isinstance(source, Tensor) and source.untyped_storage()._cdata == storage._cdata:
                return lambda args: self.made(form, args[i].untyped_storage())
        if any(isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata == storage._cdata for leaf in leaves):
            return None
        alike = self.made(form).untyped_storage().nbytes() == storage.nbytes()
        return (lambda args: self.made(form)) if alike else None

    def made(self, form: Args, storage: Any = None) -> FakeTensor:
        """A fake tensor of this form, in a storage that there is or in one of its own that just holds it.

        Made as FakeTensor's own constructor makes it, in a third of its time: the attributes are those that it gave another.
        """
        shape, stride, offset, dtype, device = form
        with torch._C._DisableTorchDispatch():
            if storage is None:
                meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            else:
                meta = torch.empty(0, dtype=dtype, device="meta").set_(storage, offset, shape, stride)
            if device not in self._attributes:
                self._attributes[device] = vars(FakeTensor(self._mode, meta, device))
            fake: FakeTensor = Tensor._make_subclass(
                FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=device
            )
        torch._C._set_throw_on_mutable_data_ptr(fake)
        vars(fake).update(self._attributes[device])
        return fake


def _batch_norm(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What batch normalisation puts out, with the statistics that it saves.

    torch's own account goes through its arithmetic, twenty operations one by one, which is most of what a count takes. And it
    is wrong for bf16 with float32 weights, whose statistics are float32 too (torch 2.14 on CPUs).
    """
    training = args[4]
    saved = x.new_empty(x.shape[1] if training or x.device.type != "cpu" else 0, dtype=_statistics(x, args))
    return torch.empty_like(x), saved, torch.empty_like(saved)


def _batch_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor | None, *args: Any) -> tuple[Tensor | None, ...]:
    """Its gradients: of x, weight and bias."""
    asked = args[-1]
    like = x if weight is None else weight
    of_parameters = [like.new_empty(x.shape[1]) if wanted else None for wanted in asked[1:]]
    return torch.empty_like(x), *of_parameters


def _group_norm(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """torch's own account, but for the type of the statistics, as above."""
    out, mean, rstd = torch.ops.aten.native_group_norm.default(x, *args)
    return out, mean.to(_statistics(x, args)), rstd.to(_statistics(x, args))


def _statistics(x: Tensor, args: Args) -> torch.dtype:
    """Their type: that of weights or running statistics where there are any."""
    return next((weight.dtype for weight in args if isinstance(weight, Tensor)), x.dtype)


# Of operations that torch's fake tensors get wrong, or slowly.
ACCOUNTS = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
    torch.ops.aten.native_group_norm.default: _group_norm,
}


def _form(value: Any) -> Any:
    """Equal for values that an operation takes alike. Raises TypeError where that cannot be told."""
    kind = type(value)
    if kind is FakeTensor and value.constant is None:
        return value.shape, value.stride(), value.storage_offset(), value.dtype, value.fake_device
    if kind in (list, tuple):
        return kind, *map(_form, value)
    if isinstance(value, Tensor):
        raise TypeError
    return kind, value
