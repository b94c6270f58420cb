"""Measuring on the test split: its features at the frozen prefix are kept, and no network is measured twice, unless the
samples are made anew for each measurement."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.batch import Batch
from effdl.datasets.split import Split
from effdl.objectives.objective import Objective
from effdl.training.company import Company
from effdl.training.features import NOTHING, Stack, Through
from effdl.training.form import OWN, is_plain
from effdl.training.loop import switch_mode
from effdl.training.stacked import Evaluation

Numbers = dict[str, float | None]
Key = tuple[Any, ...] | None  # of a network, step by step; None where it cannot be told from all others


class Measure:
    """The test split: measured for the record, shown to nobody.

    Inputs are read anew each time, so that a split larger than memory never lies there whole. Features are kept batch by batch,
    just as the whole network would have made them, so that all numbers are the whole network's, bit for bit. Their bytes do not
    count as training memory: a user who does not watch the test split while training never has them.
    """

    def __init__(self, samples: Split, objective: Objective, batch_size: int, company: Company | None = None) -> None:
        self._company = company or Company()
        self._stored, self._objective, self._batch_size = samples, objective, batch_size
        self._begin(samples)

    def _begin(self, samples: Split) -> None:
        self._samples = samples
        self._known: dict[tuple[Any, ...], Numbers] = {}
        self._through: Through[Split | _Batches] = Through([samples], 0, _passed, self._in_batches)
        self._told: tuple[Stack, Key] = NOTHING, ()  # what was looked through last, and its key
        self._ahead: tuple[Stack, Key, list[Tensor]] | None = None  # blocks by their key, and what they put out

    @property
    def changes(self) -> bool:
        """Whether each measurement has samples of its own."""
        return self._stored.changes

    def renew(self, number: int, seed: int) -> None:
        """Before a measurement: samples that are made anew are others now, and nothing counts that was kept of the last ones.

        number, seed: as in `Split.epoch`. They depend on the place in the run, so that one that was cut off measures the same.
        """
        if self.changes:
            self._begin(self._stored.epoch(number, seed))

    @property
    def samples(self) -> int:
        return len(self._samples)

    @property
    def batches(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    @property
    def kept_bytes(self) -> int:
        return self._through.kept_bytes

    def _fits(self, sample_bytes: float) -> bool:
        """Whether features of this size may be kept beside those that are, for a moment both."""
        return len(self._samples) * sample_bytes + self._through.kept_bytes <= self._through.limit_bytes

    def release(self) -> None:
        """Keep no features any longer."""
        self._through.forget()
        self._ahead = None

    def above(self, model: nn.Module, last: bool, below: Stack | None, keep_bytes: int) -> Numbers:
        """The numbers of ``model``, which stands on ``below``; see `RunHandle.test`."""
        below, self._through.limit_bytes = below or NOTHING, -1 if self.changes else keep_bytes
        self._through.look(below)
        # Nothing may learn from the test split, of what is called: modules below kept features are not, however many there are.
        restore = switch_mode(nn.ModuleList([*self._through.pending, model]), False)
        try:
            self._keep(below)
            if not last:
                return self._numbers(model, self._fed())
            key = joined(self._key(below), key_of(model))
            numbers = self._remembering_blocks(model, below)
        finally:
            restore()
        if key is not None:
            self._known[key] = numbers
        return numbers

    def whole(self, network: nn.Module) -> Numbers:
        """Numbers of a network from stored inputs to logits, measured unless this very one was."""
        self.release()
        key = key_of(network) if self._known else None
        if key is not None and key in self._known:
            return self._known[key]
        return self._numbers(network, self._samples.batches(self._batch_size))

    def _keep(self, below: Stack) -> None:
        """Keep what these modules put out; what the last measurement kept on its way is taken where it is theirs."""
        if (ahead := self._ahead) is not None and self._is_of(below, *ahead[:2]):
            self._through.put([_Batches(self._samples, ahead[2])], _bytes(ahead[2]))
        elif len(below) and len(self._samples):
            self._through.keep()
        self._ahead = None

    def _is_of(self, below: Stack, lower: Stack, blocks: Key) -> bool:
        """Whether these modules are those, and blocks of that key on top."""
        return len(below) > len(lower) == lower.shared(below) and key_of(*below.modules[len(lower) :]) == blocks

    def _key(self, below: Stack) -> Key:
        """Of these modules, of which those that were looked through before are not read again."""
        told, key = self._told
        known = len(told) if told.shared(below) == len(told) else 0
        self._told = below, joined(key if known else (), key_of(*below.modules[known:]))
        return self._told[1]

    def _fed(self) -> Iterator[Batch]:
        (stored,) = self._through.splits
        return (batch.passed_on(self._through.features(batch.x)) for batch in stored.batches(self._batch_size))

    def _in_batches(self, stored: "Split | _Batches", features: Callable[[Tensor], Tensor]) -> "tuple[_Batches, int]":
        made = [features(batch.x) for batch in stored.batches(self._batch_size)]
        return _Batches(self._samples, made), _bytes(made)

    def _remembering_blocks(self, model: nn.Module, below: Stack) -> Numbers:
        """Measure, and hold on to what the blocks put out on the way, where it fits: most likely they are next."""
        alone = not self._company.shares(self._asked(model, ()))  # a network to which somebody listens is in no stack
        if not alone or type(model) is not BlockChain or (key := key_of(model.input, model.blocks)) is None:
            return self._numbers(model, self._fed())
        outputs: list[tuple[Tensor, int]] = []

        def hold(module: nn.Module, args: Any, out: Tensor) -> None:
            if self._fits(out.untyped_storage().nbytes() / len(out)):
                outputs.append((out, out._version))

        handle = model.blocks.register_forward_hook(hold)
        try:
            numbers = self._numbers(model, self._fed())
        finally:
            handle.remove()
        whole = len(outputs) == self.batches and all(out._version == v for out, v in outputs)  # the head overwrote none
        self._ahead = (below, key, [out for out, _ in outputs]) if whole else None
        return numbers

    def _numbers(self, model: nn.Module, batches: Iterable[Batch]) -> Numbers:
        """A number that is not finite is None: it must not stop a run, which would tell of the test split; JSON has none."""
        (found,) = self._company.ask(self._asked(model, batches))
        return {f"test/{k}": finite(v) for k, v in found.items()}

    def _asked(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        return Evaluation([(nn.Identity(), model)], batches, self._objective, (len(self._samples), self._batch_size))


@dataclass(frozen=True, slots=True)
class _Batches:
    """Features of a split, batch by batch as they were made."""

    samples: Split
    features: list[Tensor]

    def __len__(self) -> int:
        return len(self.samples)

    def first(self) -> Tensor:
        return self.features[0][:1]

    def batches(self, size: int) -> Iterator[Batch]:
        """Of the size in which they were made, with the targets that belong to them; labels may be stored as bytes."""
        targets = (y if y.is_floating_point() else y.long() for y in self.samples.y.split(size))
        index = torch.arange(len(self.samples), device=self.samples.y.device).split(size)
        return (Batch(*parts) for parts in zip(self.features, targets, index, strict=True))


def _bytes(features: list[Tensor]) -> int:
    return sum(part.nbytes for part in features)


@torch.no_grad()
def _passed(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def key_of(*modules: nn.Module) -> Key:
    """A key for what these modules compute one after another in eval mode: equal keys, equal numbers. None if it has none.

    Chains and sequences count as their steps, so that a network has the same key, whatever parts it is handed over in. A step
    is described by the classes, plain attributes and tensors of all its modules. Anything else that could change what it
    computes (a hook, a function or object kept as an attribute) makes it one that cannot be told.
    """
    key: Key = ()
    for module in modules:
        if type(module) is BlockChain and not _peculiar(module):
            part = key_of(module.input, module.blocks, module.head)
        elif type(module) is nn.Sequential and not _peculiar(module):
            part = key_of(*module)
        elif type(module) is nn.Identity and not _peculiar(module):
            part = ()
        else:
            part = _step(module)
        key = joined(key, part)
    return key


def joined(one: Key, other: Key) -> Key:
    return None if one is None or other is None else (*one, *other)


def _step(module: nn.Module) -> Key:
    sha, classes = hashlib.sha256(), []
    for name, part in module.named_modules(remove_duplicate=False):
        own = {k: v for k, v in vars(part).items() if k not in OWN and k != "training"}
        if not is_plain(own):
            return None
        classes.append(type(part))
        sha.update(repr((name, sorted(own.items()))).encode())
        for key, tensor in [*part._parameters.items(), *part._buffers.items()]:
            sha.update(repr((key, tensor is None or (tensor.dtype, tensor.shape, tensor.stride(), tensor.device))).encode())
            if tensor is not None:
                sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return ((sha.hexdigest(), *classes),)


def _peculiar(container: nn.Module) -> bool:
    """Whether a chain or sequence does more than to call its parts."""
    return any(bool(v) for k, v in vars(container).items() if k not in OWN and k != "training")
