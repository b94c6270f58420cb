"""What layers put out on a fixed sample, in one pass through the network for all probes that ask at a look."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.datasets.split import Split
from effdl.errors import ConfigError
from effdl.objectives.objective import at_least_float32
from effdl.representations.selections import count_selected
from effdl.training.look import Look

Part = Literal["train", "val"]
Pool = Literal["average", "none"]
INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True, slots=True)
class Sample:
    """So many training or validation samples, or all where there are fewer: the same ones at each look of a run.

    Of training samples that are made anew in each epoch, those of the first.
    """

    part: Part = "train"
    count: int = 5000

    def of(self, problem: Problem) -> tuple[Split, Tensor]:
        """Whose, and their positions (n,), rising."""
        split = problem.made(0) if self.part == "train" else problem.val_split
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(problem.seed))
        return split, order[: self.count].sort().values.to(split.y.device)

    def targets(self, problem: Problem) -> Tensor:
        """(n,) classes or (n, K) reals."""
        split, index = self.of(problem)
        return split.y[index]


@dataclass(frozen=True, slots=True)
class View(ABC):
    """What is to be known of some layers on a sample, one tensor each; equal views are made once.

    layers: by their names, see `outputs`. pool: "average" makes of each channel of maps, and of tokens, the mean over places;
    it leaves the network's inputs alone. memory: bytes that all its tensors may take together; layers that do not fit are gone
    through in several passes. who: asks, for people.
    """

    sample: Sample
    layers: tuple[str, ...]
    pool: Pool = "none"
    memory: int = field(default=2**30, compare=False)
    who: str = field(default="probe", compare=False)

    @abstractmethod
    def empty(self, z: Tensor, samples: int) -> Tensor:
        """What `put` fills; z (1, F): features of one sample."""

    @abstractmethod
    def put(self, into: Tensor, start: int, z: Tensor, y: Tensor) -> None:
        """Features (B, F) and targets of the samples from ``start`` on."""

    def features(self, z: Tensor, is_input: bool) -> Tensor:
        """What a layer puts out, (B, ...), as (B, F)."""
        if self.pool == "average" and not is_input and z.dim() > 2:
            z = z.mean(1) if z.dim() == 3 else z.flatten(2).mean(2)
        return z.flatten(1)


@dataclass(frozen=True, slots=True)
class Features(View):
    """The features themselves, (n, F)."""

    def empty(self, z: Tensor, samples: int) -> Tensor:
        return z.new_empty(samples, z.shape[1])

    def put(self, into: Tensor, start: int, z: Tensor, y: Tensor) -> None:
        into[start : start + len(z)] = z


@dataclass(frozen=True, slots=True)
class Selected(View):
    """Of each feature how many samples of each class it selects, (F, classes) in float64, see `representations.selections`."""

    threshold: float = 0.0
    classes: int = 0

    def empty(self, z: Tensor, samples: int) -> Tensor:
        return z.new_zeros(z.shape[1], self.classes, dtype=torch.float64)

    def put(self, into: Tensor, start: int, z: Tensor, y: Tensor) -> None:
        count_selected(into, z, y, self.threshold)


def can_see(look: Look) -> bool:
    """Whether it is known how the blocks are reached from stored samples.

    Raises ConfigError where that depends on batches that a rule makes by itself.
    """
    if (learning := look.learning) is None or learning.problem is None or learning.local is None:
        return False
    if learning.rule.prepares:
        raise ConfigError(
            f"probe: the rule {type(learning.rule).__name__} makes batches of its own, on which what layers put out depends; "
            "leave out probes of layers"
        )
    return bool(learning.below)


def ends(look: Look) -> tuple[str, str]:
    """What "input" and "output" are called where blocks may have such names themselves: "input_" then."""
    taken = {name for name, _ in look.blocks.named_children()} | set(look.learning.names if look.learning else ())
    return _free(INPUT, taken), _free(OUTPUT, taken)


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)


def layers_of(look: Look) -> tuple[str, ...]:
    """Names of what `outputs` gives: "input", the blocks that learn, "output"."""
    first, last = ends(look)
    return (first, *(name for name, _ in look.blocks.named_children()), last)


def outputs(look: Look, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """From stored samples: what the input block puts out, each block that learns, and the network before its output units."""
    assert look.learning is not None
    first, *rest = look.learning.below
    z = first(x)
    yield ends(look)[0], z
    for module in rest:
        z = module(z)
    yield from above(look, z)


def above(look: Look, bottom: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same from what comes into the blocks."""
    assert look.learning is not None and look.learning.local is not None
    z, local = bottom, look.learning.local
    for name, block in look.blocks.named_children():
        z = block(z)
        yield name, z
    head = head_of(look)
    yield ends(look)[1], local(bottom) if head is None else head(z)


def head_of(look: Look) -> nn.Module | None:
    """What makes logits of what the blocks put out; None where that is not told apart from the blocks."""
    local = look.learning.local if look.learning else None
    return local.head if isinstance(local, BlockChain) and list(local.blocks) == list(look.blocks) else None


def share(look: Look, views: Sequence[View]) -> None:
    """Make what all these will ask for, in one pass for each sample, and keep it at the look, where memory allows."""
    if not can_see(look):
        return
    for sample in dict.fromkeys(view.sample for view in views):
        asked = [view for view in dict.fromkeys(views) if view.sample == sample and view not in look.kept]
        held = sum(tensor.nbytes for made in look.kept.values() for tensor in made.values())
        if not asked:
            continue
        needed = sum(sum(sizes.values()) for sizes in _bytes(look, asked).values())
        if held + needed <= min(view.memory for view in asked):
            for view, made in _passed(look, asked).items():
                look.kept[view] = made


def seen(look: Look, view: View) -> Iterator[tuple[str, Tensor]]:
    """Layer by layer, from the bottom up, what a view has of it: as `share` made it, or in passes of its own.

    Raises:
        ConfigError: a single layer takes more than the view's memory.
    """
    if view in look.kept:
        yield from look.kept[view].items()
        return
    for group in groups(_bytes(look, [view])[view], view.memory, view.who, view.sample.count, f"{view.who}.pool=average, "):
        part = replace(view, layers=tuple(group))
        yield from _passed(look, [part])[part].items()


def groups(sizes: Mapping[str, int], memory: int, who: str, samples: int, or_else: str = "") -> Iterator[list[str]]:
    """Layers in their order, as many at a time as fit in so many bytes together. sizes: bytes of each.

    Raises a ConfigError for a single layer that takes more. who: the probe's key; or_else: a setting of it that takes less.
    """
    group, taken = list[str](), 0
    for name, size in sizes.items():
        if size > memory:
            raise ConfigError(
                f"{who}.memory_mib: layer {name} of {samples:,} samples takes {round(size / 2**20):,} MiB, more than "
                f"{round(memory / 2**20):,}; fewer {who}.samples, {or_else}or more memory_mib"
            )
        if group and taken + size > memory:
            yield group
            group, taken = [], 0
        group, taken = [*group, name], taken + size
    if group:
        yield group


def _bytes(look: Look, views: Sequence[View]) -> dict[View, dict[str, int]]:
    """Of each layer's tensor in views of one sample, found out by the first of it."""
    assert look.learning is not None and look.learning.problem is not None
    split, index = views[0].sample.of(look.learning.problem)
    found = {view: dict[str, int]() for view in views}
    with look.learning.rule.hardware.autocast():
        for name, z in outputs(look, next(split.gather([index[:1]])).x):
            for view in (one for one in views if name in one.layers):
                form = view.features(at_least_float32(z), name == ends(look)[0]).to("meta")
                found[view][name] = view.empty(form, len(index)).nbytes
    return found


def _passed(look: Look, views: Sequence[View]) -> dict[View, dict[str, Tensor]]:
    """One pass of a sample for views of it; layers that none of them asks for are gone through, not kept."""
    assert look.learning is not None and look.learning.problem is not None
    problem, found = look.learning.problem, {view: dict[str, Tensor]() for view in views}
    split, index = views[0].sample.of(problem)
    last = [name for name in layers_of(look) if any(name in view.layers for view in views)][-1]
    start = 0
    for batch in split.gather(index.split(problem.batch_size)):
        with look.learning.rule.hardware.autocast():
            for name, z in outputs(look, batch.x):
                for view in (one for one in views if name in one.layers):
                    features = view.features(at_least_float32(z), name == ends(look)[0])
                    if name not in found[view]:
                        found[view][name] = view.empty(features[:1], len(index))
                    view.put(found[view][name], start, features, batch.y)
                if name == last:
                    break
        start += len(batch)
    return found
