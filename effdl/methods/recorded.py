"""Which segments of a training are recorded: at layers that a user names, at all, or at the narrowest (§6.2.2)."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError, disk_errors
from effdl.setting import Count
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.recording import BESIDE, Where
from effdl.training.segments import SegmentPlan
from effdl.training.sources import share_left

Layers = Literal["all", "auto"] | Annotated[tuple[Count, ...], Field(min_length=1)] | None
RecordAt = Annotated[Layers, BeforeValidator(lambda value: (value,) if type(value) is int else value)]

SHARE = 0.5  # of free memory that recordings may take where they are laid by themselves: steps need the rest


def check_recording(hardware: Hardware, permute: bool, overlap: int) -> None:
    """Raise a ConfigError for runs in which no layer can be recorded; the arguments are `Segmentwise`'s."""
    if hardware.processes not in (1, "auto"):
        raise ConfigError("method.record_at: of several processes each would record its part alone: train in one process")
    if permute:
        raise ConfigError("method.record_at: in a random order the layer below has often not learned: set method.permute=false")
    if overlap:
        raise ConfigError("method.record_at: segments that overlap begin below what is recorded: set method.overlap=0")


def check_layers(record_at: RecordAt, spans: Sequence[tuple[int, int]]) -> None:
    """Raise a ConfigError for layers at whose end no segment ends, or above which there is none.

    spans: blocks [start, stop) of each segment.
    """
    ends = [stop for _, stop in spans[:-1]]
    if not ends:
        raise ConfigError("method.record_at: there is one segment alone, and nobody above it to learn from what it puts out")
    for layer in record_at if isinstance(record_at, tuple) else ():
        if layer not in ends:
            named = str(ends[0]) if len(ends) == 1 else f"one of {', '.join(map(str, ends))}"
            raise ConfigError(f"method.record_at: no segment below another one ends with layer {layer}: take {named}")


def check_ends(record_at: RecordAt, parts: int, blocks: int) -> None:
    """Raise a ConfigError for layers at whose ends a chain of so many blocks cannot be cut into so many partitions."""
    layers = sorted(set(record_at)) if isinstance(record_at, tuple) else []
    if layers and layers[-1] >= blocks:
        raise ConfigError(
            f"method.record_at: layer {layers[-1]} has none above it that would learn from that: take a lower one"
        )
    if len(layers) >= parts:
        raise ConfigError(
            f"method.record_at: of {parts} partitions {parts - 1} end below another one, and {len(layers)} layers are named: "
            "name fewer, or raise method.partitions"
        )


@dataclass(frozen=True, slots=True)
class Room:
    """How many bytes there are for recordings: in memory so many, on disk what is free there.

    may_fill: whether the training goes on where there is no more. is_outline: whether it is only planned, for any disk.
    """

    limit_bytes: int
    run: RunHandle
    may_fill: bool = False
    is_outline: bool = False

    def bytes(self, store: Where) -> float:
        """On disk what a run has recorded already is room too: it goes on, or writes that again. A run that goes on without a
        recording need not have room for it."""
        if store != "disk":
            return self.limit_bytes
        if self.is_outline or self.may_fill:
            return math.inf
        folder = self.run.folder("recorded")
        with disk_errors(folder):
            return shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.glob("*.epoch"))

    def settled(self, needed: int) -> Where:
        """Where so many bytes lie that nobody gave a place: on the device where they are within the bound and take no more
        than `SHARE` of what is free there, else on the host by the same rule, else on disk."""
        hardware = self.run.hardware
        places: dict[Where, Hardware] = {"device": hardware}
        if hardware.device != "cpu":
            places["host"] = replace(hardware, device="cpu")
        for place, memory in places.items():
            if needed <= min(self.limit_bytes, SHARE * memory.free_memory()):
                return place
        return "disk"


def remedy(store: Where) -> str:
    """What else can be done where there is no room."""
    less = "record at a narrower layer, or train for fewer epochs"
    return less if store == "disk" else f"raise method.keep_features_mib, set method.store=disk, or {less}"


def recorded(
    record_at: RecordAt,
    store: Where | Literal["auto"],
    plans: Sequence[SegmentPlan],
    epochs: Sequence[int],
    problem: Problem,
    model: BlockChain,
    room: Room,
) -> tuple[frozenset[int], Where]:
    """The segments to be recorded, and where that lies.

    Args:
        epochs: of each segment in a turn.

    Raises:
        ConfigError: there is no room for what is to be recorded.
    """
    if record_at is None:
        return frozenset(), "device" if store == "auto" else store
    check_layers(record_at, [(plan.start, plan.stop) for plan in plans])
    sizes = recorded_bytes(plans, epochs, problem, model, room.run, every=record_at == "all")
    if record_at == "auto":
        wanted = [min(range(len(sizes)), key=sizes.__getitem__)]
    elif record_at == "all":
        wanted = list(range(len(sizes)))
    else:
        wanted = [i for i, plan in enumerate(plans) if plan.stop in record_at]
    # One that is made lies beside the one below that it is made from.
    most, at = max((sizes[i] + (sizes[wanted[n - 1]] if n else 0), i) for n, i in enumerate(wanted))
    place: Where = room.run.decide("data/recorded_on", lambda: room.settled(most)) if store == "auto" else store
    free = room.bytes(place)
    if most > free:
        raise ConfigError(
            f"method.record_at: {most / 2**20:,.1f} MiB would be recorded up to layer {plans[at].stop}, and there is room for "
            f"{free / 2**20:,.1f} MiB: {remedy(place)}"
        )
    layers = ", ".join(str(plans[i].stop) for i in wanted) if len(wanted) < len(sizes) else f"1 to {plans[wanted[-1]].stop}"
    said = {"device": "in memory", "host": "in the host's memory", "disk": "on disk"}[place]
    room.run.say(f"recorded: what layer{'s' * (len(wanted) > 1)} {layers} put out, up to {most / 2**20:,.1f} MiB {said}")
    return frozenset(wanted), place


def recorded_bytes(
    plans: Sequence[SegmentPlan],
    epochs: Sequence[int],
    problem: Problem,
    model: BlockChain,
    run: RunHandle,
    every: bool = False,
) -> list[int]:
    """Of each segment but the last what its outputs come to in a turn, should nothing be stored in fewer bits.

    every: whether all of them are recorded, so that a filter may drop more and more; else the most that it is.
    """
    shapes, itemsize = model.shapes(problem.input_shape), next(model.parameters()).element_size()
    return [
        turn
        * math.ceil(share_left(run.filter, i if every else 0) * problem.num_train)
        * (math.prod(shapes[plan.stop - 1]) * itemsize + BESIDE)
        for i, (plan, turn) in enumerate(zip(plans[:-1], epochs, strict=False))
    ]
