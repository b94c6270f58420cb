"""A piece of a network tried on a few samples: what it puts out, or which layer does not take what comes and what helps."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from effdl.errors import ConfigError, EffdlError, one_line

SIZED = {"view", "reshape", "expand", "broadcast_to", "repeat", "zeros", "ones", "full", "empty", "rand", "randn"}
MOST = 1024  # samples that a network may have been written for
SHRUNK = ("Kernel size can't be greater", "Output size is too small", "more than 1 spatial element", "output size is too small")


def tried(what: str, piece: nn.Module, x: Tensor, comes: str) -> Tensor:
    """What a piece puts out for samples x. comes: what they are, in words.

    Raises:
        ConfigError: it does not take them, or takes batches of one size alone, or puts out something else than a tensor.
    """
    try:
        with redirect_stderr(io.StringIO()):  # fx prints code where a traced piece fails
            out: object = piece(x)
    except Exception as error:
        if type(x) is not Tensor or isinstance(error, EffdlError) or "memory" in str(error):  # a fake one says nothing of it
            raise
        raise ConfigError(f"arch: {what} does not take {comes}, {_form(x)}: {_why(piece, x) or one_line(error)}") from error
    if not isinstance(out, Tensor):
        raise ConfigError(
            f"arch: {what} puts out a {type(out).__name__}, and blocks pass a tensor on: end it where one is taken out "
            "of that, or take several such blocks as one"
        )
    if type(x) is Tensor and out.shape[:1] != x.shape[:1] and (why := _one_size(piece, x, _heard(piece, x))):
        raise ConfigError(f"arch: {what} does not take {comes}, {_form(x)}: {why}")
    return out


def _why(piece: nn.Module, x: Tensor) -> str | None:
    heard = _heard(piece, x)
    return _one_size(piece, x, heard) or _reason(heard, x)


class _Heard(TorchFunctionMode):
    """The module that is being called, what it got, and the sizes that operations name first, each with its place."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, nn.Module, tuple[Any, ...]]] = []  # being called, the innermost last
        self.sizes: dict[int, tuple[str, str]] = {}  # a batch size that an operation names -> the operation, and where
        self.last = ""
        self.out: object = None
        self.error = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in SIZED:
            sizes = args[1:] if args and isinstance(args[0], Tensor) else args
            sizes = sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes
            if sizes and type(sizes[0]) is int and 1 < sizes[0] <= MOST:
                self.sizes.setdefault(sizes[0], (f"{name}({', '.join(map(str, sizes))})", self._place()))
        return func(*args, **(kwargs or {}))

    def _place(self) -> str:
        inside = [path for path, _, _ in self.calls if path]
        return f"in {inside[-1]!r}" if inside else f"after {self.last!r}" if self.last else "at its beginning"

    @contextmanager
    def listening(self, piece: nn.Module) -> Iterator[None]:
        handles: list[RemovableHandle] = []

        def enter(path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
            self.calls.append((path, module, args))

        def leave(path: str) -> None:
            self.calls.pop()
            self.last = path or self.last

        for path, module in piece.named_modules():
            handles.append(module.register_forward_pre_hook(lambda m, args, path=path: enter(path, m, args)))
            handles.append(module.register_forward_hook(lambda m, args, out, path=path: leave(path)))
        try:
            with self, redirect_stderr(io.StringIO()):  # fx prints code where a traced piece fails
                yield
        finally:
            for handle in handles:
                handle.remove()


def _heard(piece: nn.Module, x: Tensor) -> _Heard:
    """What happens in a piece, up to its end or where it fails."""
    heard = _Heard()
    try:
        with heard.listening(piece):
            heard.out = piece(x)
    except Exception as error:
        heard.error = one_line(error)
    return heard


def _one_size(piece: nn.Module, x: Tensor, heard: _Heard) -> str | None:
    """That it takes batches of one size alone, if it does: of one that an operation names. It is tried on such a batch."""
    for size, (operation, place) in heard.sizes.items():
        if size == len(x):
            continue
        out = _heard(piece, x[:1].expand(size, *x.shape[1:]).clone()).out
        if isinstance(out, Tensor) and out.shape[:1] == (size,):
            return (
                f"it takes batches of {size} samples alone, by {operation} {place}: write x.shape[0] there in the place of "
                f"{size}, since batches have any number, the last of an epoch fewer"
            )
    return None


def _reason(heard: _Heard, x: Tensor) -> str | None:
    """The innermost module that failed, what it got where that is something else than x, and what helps."""
    if not heard.calls:
        return None
    path, module, args = heard.calls[-1]
    kind = repr(module) if next(module.children(), None) is None else type(module).__name__
    name = f"{path!r}, {kind}," if path and not path.rpartition(".")[2].isdigit() else f"its {kind}"
    got = next((a for a in args if isinstance(a, Tensor)), None)
    told = heard.error if got is None else _advice(module, got, heard.error) or heard.error
    return f"{name} {'fails' if got is None or got.shape == x.shape else f'gets {_form(got)}'}: {told}"


def _advice(module: nn.Module, got: Tensor, error: str) -> str | None:
    """What to do about what a layer got, where that is known."""
    shape, kind = got.shape[1:], str(got.dtype).removeprefix("torch.")
    weight = next(module.parameters(), got)
    if weight.is_floating_point() and not got.is_floating_point():
        wanted = "ids" if isinstance(module, nn.Embedding | nn.EmbeddingBag) else str(weight.dtype).removeprefix("torch.")
        return f"samples are {kind}, of which input=InputBlock(input_shape) beside the blocks makes {wanted}"
    if isinstance(module, nn.Linear) and shape[-1:] != (module.in_features,):
        flat = shape.numel()
        if len(shape) > 1 and flat == module.in_features:
            return "nn.Flatten() before it makes them one row for each sample"
        if len(shape) == 3 and shape[0] == module.in_features:
            return "nn.AdaptiveAvgPool2d(1) and nn.Flatten() before it make them one row for each sample"
        before = f"nn.Flatten() before it makes {flat:,} of them: " if len(shape) > 1 else ""
        return f"{before}it takes {module.in_features:,} features, so it is to be nn.Linear({flat}, {module.out_features})"
    if isinstance(module, _ConvNd):
        room = len(module.kernel_size)
        if got.dim() != room + 2:
            return f"it takes samples of shape [channels, {room} sides]: a data set of images, or nn.Unflatten before it"
        if shape[0] != module.in_channels:
            grey = ", or InputBlock(..., channels=3) repeats a grey image" if (shape[0], module.in_channels) == (1, 3) else ""
            return f"it takes {module.in_channels} channels, so it is to be made for {shape[0]}{grey}"
    if any(text in error for text in SHRUNK):
        return f"{error}; InputBlock(..., size=...) enlarges the images, so that more of them is left"
    return None


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {[*x.shape[1:]]}"
