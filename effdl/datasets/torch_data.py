"""Data as people have them in Python: arrays x and y, or torch's Datasets and DataLoaders of such pairs, as splits."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from effdl.datasets.batch import Batch
from effdl.datasets.moments import Moments, moments
from effdl.datasets.split import Samples, Split
from effdl.datasets.waiting import watched
from effdl.errors import DataError, one_line
from effdl.rng import seed_for

SOME = 32  # samples that tell whether they are others when they are asked for again
CHUNK = 64  # samples that are read at once where nothing else says how many
MOST_BYTES = 2**32  # of a data set that is kept in memory
FORMS = "pass (x, y) as tensors or arrays, a Dataset of such pairs, or a DataLoader of one"


class Pairs(Protocol):
    """A map-style torch Dataset of (x, y)."""

    def __getitem__(self, position: int) -> Any: ...

    def __len__(self) -> int: ...


def as_split(data: Any, where: str, dtype: torch.dtype, may_change: bool = True, most_bytes: int = MOST_BYTES) -> Split:
    """What a learner asks for, of what a user has.

    A Dataset that gives the same each time is read once, where it fits. One whose samples are others when they are asked for
    again, as random transforms make them, is read anew in each epoch, from seeds of its own. Of a DataLoader, the Dataset, the
    workers and what makes batches are taken; the order is the learner's own.

    Args:
        data: a Split, (x, y), a Dataset, or a DataLoader. x (N, *input); y (N,) class indices, (N,) or (N, K) reals.
        where: what to call it in an error.
        dtype: of samples and targets that are real numbers.
        may_change: else samples that vary are read as one fixed draw of them.
        most_bytes: up to which a Dataset lies in memory.

    Raises:
        DataError: it is none of these, or has samples of which no batch can be made.
    """
    workers, collate = 0, default_collate
    if isinstance(data, DataLoader):
        workers, collate, data = data.num_workers, data.collate_fn, _dataset_of(data, where)
    if isinstance(data, Split):
        return data
    if isinstance(data, TensorDataset) and collate is default_collate:
        data = data.tensors
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in data):
        x, y = (_cast(torch.as_tensor(part), dtype) for part in data)
        return Samples(x, _column(y))
    if isinstance(data, IterableDataset) or not (callable(getattr(data, "__getitem__", None)) and hasattr(data, "__len__")):
        raise DataError(f"{where}: {type(data).__name__} has no samples by position: {FORMS}")
    if not len(data):
        raise DataError(f"{where}: there are no samples")
    return _read(Read(data, where, dtype, workers, collate), may_change, most_bytes)


def batch_size_of(data: Any) -> int | None:
    """A DataLoader's, None where nothing says one."""
    return data.batch_size if isinstance(data, DataLoader) else None


class Read(Split):
    """Samples that a Dataset makes whenever they are asked for.

    seed: from which it draws what it draws, by Python's, NumPy's and torch's generators, which are then as they were before.
    """

    def __init__(self, dataset: Pairs, where: str, dtype: torch.dtype, workers: int, collate: Callable[[Any], Any]) -> None:
        self.dataset, self.where, self.dtype, self.workers, self.collate = dataset, where, dtype, workers, collate
        self.positions = torch.arange(len(dataset))
        self.seed, self.device, self.varies = 0, torch.device("cpu"), False
        x, self.y = next(self._pairs([self.positions[:1]]))
        self.shape = tuple(x.shape[1:])

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def changes(self) -> bool:
        return self.varies

    def epoch(self, number: int, seed: int) -> "Split":
        if not self.varies:
            return self
        made = copy(self)
        made.seed = seed
        return made

    def take(self, index: Tensor) -> "Read":
        made = copy(self)
        made.positions, made.y = self.positions[index.cpu()], self.y[index.to(self.y.device)]
        return made

    def to(self, device: torch.device) -> "Read":
        made = copy(self)
        made.device, made.y = device, self.y.to(device)
        return made

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        pairs = self._pairs([self.positions[index.cpu()] for index in indices])
        for index in indices:
            yield Batch(next(pairs)[0].to(self.device), self.y[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        return self.gather(torch.arange(len(self), device=self.y.device).split(size) if len(self) else [])

    def moments(self, by_pixel: bool = False) -> Moments:
        return moments((batch.x for batch in self.batches(CHUNK)), by_pixel)

    def reading_seconds(self, samples: int) -> float:
        start, some = time.perf_counter(), self.positions[:SOME]
        next(self._pairs([some]))
        return (time.perf_counter() - start) / len(some) * samples / max(1, self.workers)

    def tensors(self) -> Samples:
        return Samples(torch.cat([batch.x for batch in self.batches(CHUNK)]), self.y)

    def _pairs(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples and targets at these places of the Dataset, on the CPU, part by part."""
        workers = self.workers if len(parts) > 1 else 0
        loader: DataLoader[Any] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=[part.tolist() for part in parts],
            num_workers=workers,
            collate_fn=self.collate,
            generator=torch.Generator().manual_seed(self.seed),  # from which workers get their seeds
        )
        found = iter(loader)
        for number in range(len(parts)):
            with drawing(seed_for(self.seed, "read", number)) if workers == 0 else drawing(None):
                made = self._made(found)
            yield made

    def _made(self, found: Iterator[Any]) -> tuple[Tensor, Tensor]:
        try:
            pair = next(found)
        except Exception as error:  # of the user's own code, or of batches that cannot be made
            raise DataError(
                f"{self.where}: its samples cannot be read as batches of tensors ({one_line(error)[:160]})"
            ) from error
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
            raise DataError(
                f"{self.where}: a sample is to be a pair (x, y) of what becomes tensors, not {_kind(pair)}: {FORMS}"
            )
        return _cast(pair[0], self.dtype), _cast(pair[1], self.dtype)


@contextmanager
def drawing(seed: int | None) -> Iterator[None]:
    """Within, Python's, NumPy's and torch's generators on the CPU begin with this seed; afterwards they are as before."""
    if seed is None:
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _read(split: Read, may_change: bool, most_bytes: int) -> Split:
    """The split with all its targets; whole in memory where its samples stay the same and fit."""
    some = split.positions[:SOME]
    first = next(split._pairs([some]))[0]
    split.varies = may_change and not torch.equal(first, next(_seeded(split, 1)._pairs([some]))[0])
    keep = not split.varies and first[0].numel() * first.element_size() * len(split.positions) <= most_bytes
    parts = split.positions.split(CHUNK)
    doing = f"reading {len(split.positions):,} samples"
    whole = first.new_empty(len(split.positions) if keep else 0, *split.shape)
    ys = []
    for place, (x, y) in zip(parts, watched(split._pairs(parts), len(parts), doing), strict=True):
        if tuple(x.shape[1:]) != split.shape:
            raise DataError(
                f"{split.where}: samples have several shapes, {[*split.shape]} and {[*x.shape[1:]]}: make them alike"
            )
        if keep:
            whole[place[0] : place[-1] + 1] = x
        ys.append(y)
    split.y = _column(torch.cat(ys))
    return Samples(whole, split.y) if keep else split


def _seeded(split: Read, seed: int) -> Read:
    made = copy(split)
    made.seed = seed
    return made


def _dataset_of(loader: "DataLoader[Any]", where: str) -> Any:
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset
    if loader.batch_sampler is None:
        raise DataError(
            f"{where}: the DataLoader makes no batches, and batches are made here: pass a Dataset of single samples"
        )
    sampler = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    if not isinstance(sampler, RandomSampler | SequentialSampler) or getattr(sampler, "replacement", False):
        raise DataError(
            f"{where}: the DataLoader draws by a {type(sampler).__name__}, and here each epoch has every sample once, "
            "in an order of its own: pass the Dataset of those that are to train"
        )
    return loader.dataset


def _column(y: Tensor) -> Tensor:
    """Real targets of a single output as (N, 1); all others as they are."""
    return y[:, None] if y.dim() == 1 and y.is_floating_point() else y


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _kind(pair: Any) -> str:
    if isinstance(pair, tuple | list):
        return f"a {type(pair).__name__} of {', '.join(type(part).__name__ for part in pair)}"
    return f"a {type(pair).__name__}"
