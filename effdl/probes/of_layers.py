"""What probes of representations share: which layers, on which samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.probes.probe import Probe
from effdl.probes.sample import Features, Part, Pool, Sample, View, can_see, layers_of, seen
from effdl.setting import Count, setting
from effdl.training.look import Look

Meter = Callable[[str, Tensor], Sequence[float]]


@setting
class OfSample(Probe, ABC):
    """A measurement on samples that are the same at each look, before the first epoch too.

    split: whether they are training ("train") or validation samples ("val"). samples: how many, at most.
    memory_mib: MiB for what is kept of them, that which other probes share included. What does not fit together is worked out
    in more passes, which changes no number; a single layer has to fit.
    """

    begins: ClassVar[bool] = True
    not_identity: ClassVar[frozenset[str]] = frozenset({"memory_mib"})

    split: Part = "train"
    samples: Count = 5000
    memory_mib: Count = 1024

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        name = self.snake_name()
        if self.split == "val" and problem.val < 1:
            raise ConfigError(f"probe.{name}.split: there are no validation samples; dataset.val_size=1000, or split=train")

    @property
    def sample(self) -> Sample:
        return Sample(self.split, self.samples)

    @property
    def places(self) -> dict[str, Any]:
        """What all its views have."""
        return {"memory": self.memory_mib * 2**20, "who": f"probe.{self.snake_name()}"}

    def counted(self, problem: Facts) -> int:
        """How many samples it will see."""
        return min(self.samples, problem.train if self.split == "train" else problem.val)


@setting
class LayerView(OfSample, ABC):
    """A measurement of what each layer puts out: the blocks that have just learned; "output", the network before its output
    units; and once, at the first look, "input", what the input block puts out.

    layers: only these of them, by their names; null: all. A layer is measured with the segment that it learns in.
    pool: "average" takes of each channel of maps, and of tokens, the mean over places; "none" every place of every channel. The
    input always counts with all its places.
    """

    layers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    pool: Pool = "average"

    def named(self, look: Look) -> tuple[str, ...]:
        """The layers of a look that are measured. Raises ConfigError for layers that the network does not have."""
        assert look.learning is not None
        learning, shown = look.learning, layers_of(look)
        known = (shown[0], *(learning.names or shown[1:-1]), shown[-1])
        if unknown := [name for name in self.layers or () if name not in known]:
            raise ConfigError(
                f"probe.{self.snake_name()}.layers: there is no layer {unknown[0]!r}; there are {', '.join(known)}"
            )
        first = learning.epoch == min(self.at or (0,)) and len(learning.below) == 1
        here = shown if first else shown[1:]
        return tuple(name for name in here if self.layers is None or name in self.layers)

    def view(self, look: Look) -> View:
        """Of these layers what it measures; by default their features."""
        return Features(self.sample, self.named(look), self.pool, **self.places)

    def asks(self, look: Look) -> Sequence[View]:
        return [self.view(look)] if can_see(look) else []


@setting
class OfLayers(LayerView, ABC):
    """Numbers of each layer, of the same kinds for all."""

    def measure(self, look: Look) -> Mapping[str, Any]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        found: dict[str, float] = {}
        meter = self.meter(look, self.sample.targets(look.learning.problem))
        for layer, z in seen(look, self.view(look)):
            numbers = meter(layer, z) if bool(torch.isfinite(z).all()) else [float("nan")] * len(self.kinds())
            found |= {f"{kind}/{layer}": number for kind, number in zip(self.kinds(), numbers, strict=True)}
        return found

    @abstractmethod
    def kinds(self) -> Sequence[str]:
        """What is measured of each layer: "5" of the probe k_redundancy is recorded as ``k_redundancy/5/<layer>``."""

    @abstractmethod
    def meter(self, look: Look, y: Tensor) -> Meter:
        """From a layer and its view to a number for each of `kinds`; y: targets of the samples. No layer with NaN is shown."""


def check_classes(probe: Probe, problem: Facts) -> None:
    """Raise a ConfigError unless targets are classes."""
    if problem.targets != "classes":
        raise ConfigError(
            f"probe={probe.snake_name()}: is of classes, and these targets are {problem.targets}; leave the probe out"
        )
