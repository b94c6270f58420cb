"""Measuring on the test split: its features at the frozen prefix are kept, and no network is measured twice."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Batch, Split
from effdl.objectives.objective import Objective
from effdl.training.form import OWN, is_plain
from effdl.training.loop import evaluate, switch_mode

Numbers = dict[str, float | None]
Key = tuple[Any, ...] | None  # of a network, step by step; None where it cannot be told from all others


class Measure:
    """The test split: measured for the record, shown to nobody.

    Inputs are read anew each time, so that a split larger than memory never lies there whole. Features are kept batch by batch,
    just as the whole network would have made them, so that all numbers are the whole network's, bit for bit. Their bytes do not
    count as training memory: a user who does not watch the test split while training never has them.
    """

    def __init__(self, samples: Split, objective: Objective, batch_size: int) -> None:
        self._samples, self._objective, self._batch_size = samples, objective, batch_size
        self._known: dict[tuple[Any, ...], Numbers] = {}
        self._frozen: list[nn.Module] = []
        self._frozen_key: Key = ()
        self._limit_bytes = 0
        self.release()

    @property
    def batches(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    @property
    def kept_bytes(self) -> int:
        return sum(batch.x.nbytes for batch in self._kept or ())

    def fits(self, sample_bytes: float, kept_bytes: float) -> bool:
        """Whether features of this size may be kept while ``kept_bytes`` are there, for a moment both."""
        return len(self._samples) * sample_bytes + kept_bytes <= self._limit_bytes

    def release(self) -> None:
        """Keep no features any longer."""
        self._kept: list[Batch] | None = None
        self._pending = list(self._frozen)
        self._ahead: tuple[Key, list[Tensor]] | None = None

    def freeze(self, *modules: nn.Module, keep_bytes: int) -> None:
        """See `RunHandle.freeze`. Outputs of these modules that the last measurement kept are not computed again."""
        self._limit_bytes = keep_bytes
        frozen, ahead = key_of(*modules), self._ahead
        self._frozen += modules
        self._frozen_key = joined(self._frozen_key, frozen)
        self._pending += modules
        self._ahead = None
        if ahead is not None and frozen is not None and ahead[0] == frozen:
            self._kept = self._beside_targets(ahead[1])
            self._pending = []

    def above(self, model: nn.Module, last: bool) -> Numbers:
        """The numbers of ``model``, which stands on what is frozen. last: its blocks have learned and may be frozen next."""
        restore = switch_mode(nn.ModuleList([*self._pending, model]), False)  # nothing may learn from the test split
        try:
            self._raise_kept()
            if not last:
                return self._numbers(model, map(self._feed, self._stored()))
            key = joined(self._frozen_key, key_of(model))
            numbers = self._remembering_blocks(model)
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
        return self._numbers(network, self._stored())

    def _raise_kept(self) -> None:
        """Bring what is kept up to where the frozen modules end, if it fits."""
        if self._pending and len(self._samples) and self.fits(self._feed(self._first()).x.nbytes, self.kept_bytes):
            self._kept, self._pending = [self._feed(batch) for batch in self._stored()], []

    def _stored(self) -> Iterable[Batch]:
        """What lies below the pending modules: kept features, else inputs."""
        return self._samples.batches(self._batch_size) if self._kept is None else self._kept

    def _first(self) -> Batch:
        """The first sample of what is stored."""
        first = torch.zeros(1, dtype=torch.long)
        return next(self._samples.gather([first])) if self._kept is None else self._kept[0].take(first)

    def _beside_targets(self, features: list[Tensor]) -> list[Batch]:
        """Batches of features with the targets that belong to them."""
        targets = self._samples.y.split(self._batch_size)
        index = torch.arange(len(self._samples), device=self._samples.y.device).split(self._batch_size)
        return [Batch(*parts) for parts in zip(features, targets, index, strict=True)]

    @torch.no_grad()
    def _feed(self, batch: Batch) -> Batch:
        x = batch.x
        for module in self._pending:
            x = module(x)
        return replace(batch, x=x)

    def _remembering_blocks(self, model: nn.Module) -> Numbers:
        """Measure, and hold on to what the blocks put out on the way, where it fits: most likely they are frozen next."""
        if type(model) is not BlockChain or (key := key_of(model.input, model.blocks)) is None:
            return self._numbers(model, map(self._feed, self._stored()))
        outputs: list[tuple[Tensor, int]] = []

        def hold(module: nn.Module, args: Any, out: Tensor) -> None:
            if self.fits(out.untyped_storage().nbytes() / len(out), self.kept_bytes):
                outputs.append((out, out._version))

        handle = model.blocks.register_forward_hook(hold)
        try:
            numbers = self._numbers(model, map(self._feed, self._stored()))
        finally:
            handle.remove()
        whole = len(outputs) == self.batches and all(out._version == v for out, v in outputs)  # the head overwrote none
        self._ahead = (key, [out for out, _ in outputs]) if whole else None
        return numbers

    def _numbers(self, model: nn.Module, batches: Iterable[Batch]) -> Numbers:
        """A number that is not finite is None: it must not stop a run, which would tell of the test split; JSON has none."""
        return {f"test/{k}": finite(v) for k, v in evaluate(model, batches, self._objective).items()}


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
