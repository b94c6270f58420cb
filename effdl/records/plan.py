"""What a Spec would cost, without training it: bytes counted on fake tensors, seconds of a few real steps, by segment."""

import gc
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from effdl import config
from effdl.archs.chain import Arch, BlockChain
from effdl.costs.outline import unchanged
from effdl.costs.segments import segment_costs
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Split
from effdl.datasets.waiting import say
from effdl.errors import EffdlError
from effdl.records.alternatives import Held, alternatives, remedy, unkept
from effdl.records.carry import build_network, open_problem, open_run
from effdl.records.report import Silent, Track, untracked
from effdl.training.engine import Engine
from effdl.training.handle import KINDS, SegmentCost
from effdl.training.hardware import Hardware, restoring

Notes = dict[str, Any]
_known: dict[Any, Notes] = {}
DEVICE = "on the device"


@dataclass(frozen=True)
class Cost:
    """What one run takes. Bytes are peaks; shares: of full backprop's.

    by_kind: what the step's peak is made of. segments: what each segment takes. beside: what a user might choose
    instead, see `alternatives`. trained: of each segment its decision block and what is recomputed, where a memory budget chose
    them. remedy: a setting that may make the step smaller, and what the run takes with it.
    seconds: of the whole run with its measurements on the test split, None where they were not asked for. lies: where layers
    and learners that wait lie, in words. recomputed: of each of segments that learn at once the blocks, from 1, that a memory
    budget recomputes. probes: names of those that look at the run, whose seconds are in none of these.
    """

    peak_bytes: int
    resident_bytes: int
    segment_bytes: list[int]
    by_kind: dict[str, int]
    segments: list[SegmentCost]
    beside: dict[str, Held]
    blocks: list[str]
    trained: list[Notes] | None = None
    remedy: tuple[str, Held] | None = None
    seconds: float | None = None
    segment_seconds: list[float] | None = None
    lies: str = DEVICE
    recomputed: list[list[int]] | None = None
    probes: tuple[str, ...] = ()

    @property
    def backprop_bytes(self) -> int:
        return self.beside["backprop"].step

    @property
    def share(self) -> float:
        return self.peak_bytes / self.backprop_bytes

    @property
    def resident_share(self) -> float:
        return self.resident_bytes / self.beside["backprop"].resident

    @property
    def state_bytes(self) -> list[int]:
        """Of each segment's learner while it waits for its next turn."""
        return [one.state_bytes for one in self.segments]

    def to_json(self) -> dict[str, object]:
        """By the keys of a run's summary."""
        times = {"time/estimate_s": self.seconds, "time/segment_estimate_s": self.segment_seconds}
        return {
            "arch/blocks": self.blocks,
            **({"segment/choices": self.trained} if self.trained else {}),
            **({"segment/recomputed": self.recomputed} if self.recomputed else {}),
            "memory/accounted_peak_bytes": self.peak_bytes,
            "memory/resident_peak_bytes": self.resident_bytes,
            "memory/share_of_backprop": self.share,
            "memory/resident_share_of_backprop": self.resident_share,
            **({"memory/waiting_state_bytes": self.state_bytes} if any(self.state_bytes) else {}),
            "memory/segment_peak_bytes": self.segment_bytes,
            "memory/segment_share_of_backprop": [peak / self.backprop_bytes for peak in self.segment_bytes],
            **{f"memory/peak_{kind}_bytes": count for kind, count in self.by_kind.items()},
            **{f"memory/{name}_peak_bytes": held.step for name, held in self.beside.items()},
            **{f"memory/{name}_resident_peak_bytes": held.resident for name, held in self.beside.items()},
            **{key: value for key, value in times.items() if value is not None},
        }


class _Waiting(Silent):
    """Says what people wait for, and no more."""

    def say(self, text: str) -> None:
        say(text)


def cost(
    spec: config.Spec,
    threads: int | None = None,
    timed: bool = False,
    track: Track = untracked,
    rows: Collection[str] | None = None,
) -> Cost | None:
    """Plan a Spec; None where its method does not say what it will cost.

    Args:
        threads: CPU threads where the Spec leaves them open, one in a sweep.
        timed: measure seconds too, for which the data are read.
        track: (items, what, how many) -> the items, showing how far it is.
        rows: what of `beside` to count, "backprop" always being among it; by default all, and a remedy too.

    Raises:
        EffdlError: no data, or a combination that cannot run.
    """
    if spec.method.fits_least_squares:
        return None  # its memory and time are not counted yet, and trying would be the run itself
    asked = {name: row for name, row in alternatives(spec).items() if rows is None or name == "backprop" or name in rows}
    counted = dict[str, Notes]()
    for name, row in track({"accounted": spec, **asked}.items(), "counting", len(asked) + 1):
        counted[name] = _notes(_rehearse if timed and row is spec else _count, row, threads)
        if not counted[name]:
            return None
    records = getattr(spec.method, "record_at", None) is not None and spec.method.store != "disk"
    lays = getattr(spec.method, "keep_features_on", "memory") != "memory"
    # Recordings in memory need the bound that features have; and with less of it more features lie on disk, if they may
    notes, keeps = counted["accounted"], getattr(spec.method, "keep_features_mib", 0) > 0 and not records and not lays
    trained, recomputed = notes.get("segment/choices"), notes.get("segment/recomputed")
    budget = trained is not None or recomputed is not None  # within which more need not be saved
    change = remedy(spec, notes["segments"]) if rows is None and not budget else None
    return Cost(
        *_held(notes),
        notes["memory/segment_peak_bytes"],
        {kind: notes[f"memory/peak_{kind}_bytes"] for kind in KINDS},
        notes["segments"],
        {name: _held(counted[name]) for name in asked} | (_unkept(counted) if keeps else {}),
        notes["blocks"],
        trained,
        (change[0], _held(_notes(_count, change[1], threads))) if change else None,
        notes["time/estimate_s"] if timed else None,
        notes["time/segment_estimate_s"] if timed else None,
        _lies(spec),
        recomputed,
        tuple(probe.snake_name() for probe in spec.probe),
    )


def _lies(spec: config.Spec) -> str:
    where = getattr(spec.method, "offload", None)
    if where == "host" and spec.hardware.device == "cpu":
        return f"{DEVICE}: the host is a CPU's device, and nothing moves; method.offload=disk frees memory"
    return {"host": "on the host", "disk": "on disk"}.get(str(where), DEVICE)


def _unkept(counted: dict[str, Notes]) -> dict[str, Held]:
    """The run and full backprop, should they keep no outputs."""
    rows = {"unkept": counted["accounted"], "backprop_unkept": counted["backprop"]}
    return {name: unkept(notes["segments"]) for name, notes in rows.items()}


def _held(notes: Notes) -> Held:
    return Held(notes["memory/accounted_peak_bytes"], notes["memory/resident_peak_bytes"])


def _notes(how: Callable[[config.Spec, int | None], Notes], spec: config.Spec, threads: int | None) -> Notes:
    """The notes of a run that stops where it knows its cost, which is the same for all seeds and for data of one form; {} where
    it ended without a word."""
    alike = (how, spec.dataset.facts(), replace(spec, dataset=None, seed=0, logger=None), threads)
    if alike not in _known:
        with restoring():  # a lone run that follows takes all cores
            _known[alike] = how(spec, threads)
    return _known[alike]


def _count(spec: config.Spec, threads: int | None) -> Notes:
    """On fake tensors, from the data's facts alone; by real steps where a method or network must see numbers."""
    from effdl.costs.fake import by_stock

    if not torch.cuda.is_available():  # then a GPU's bytes are counted without one
        if spec.hardware.device == "cuda" and getattr(spec.method, "offload", None) == "host":  # there it leaves the device
            spec = replace(spec, method=replace(spec.method, offload="disk"))
        spec = replace(spec, hardware=replace(spec.hardware, device="cpu"))
    device = spec.hardware.open(threads)
    for tensors in (nullcontext, by_stock):
        try:
            with tensors():
                return _on_fakes(spec, device, tensors is by_stock)
        except EffdlError:
            raise
        except Exception:  # fake tensors have many ways to say that they hold no numbers; real steps say what is really wrong
            continue
    return _rehearse(spec, threads)


def _on_fakes(spec: config.Spec, device: torch.device, stock: bool) -> Notes:
    from effdl.costs.fake import fakes

    facts = spec.dataset.facts()
    network = _outline(spec.arch, facts, replace(spec.hardware, precision="float32"), stock)
    with fakes():
        problem = Problem.outline(facts, spec.objective, augment=unchanged if spec.augment is not None else None)
        return _told(spec, problem.to(device), network, None)


def _rehearse(spec: config.Spec, threads: int | None) -> Notes:
    """A few real steps on the data."""
    device = spec.hardware.open(threads)
    train, test = spec.dataset.load()
    problem = open_problem(spec, train, test, device)
    return _told(spec, problem, build_network(spec, problem, device), test.to(device))


def _told(spec: config.Spec, problem: Problem, network: BlockChain, test: Split | None) -> Notes:
    """What a run notes of its cost before its first step; {} where its method trains nothing that could be told beforehand."""
    network, run = spec.method.chain(network), open_run(spec, test, reporter=_Waiting())
    if (training := spec.method.training(problem, network, run)) is None:
        return {}
    costs = segment_costs(Engine(training, problem, network, run))
    run.expect(costs, training.keep_bytes)
    return {**run.notes, "segments": costs, "blocks": network.names}


@lru_cache(maxsize=8)
def _outline(arch: Arch, facts: Facts, hardware: Hardware, stock: bool) -> BlockChain:
    """A network of fake tensors. Not every library's can be built of them, so a real one is copied, and dropped.

    What there is before and after is kept from the garbage collector, which would look through it again and again, for a fifth
    of a count's time.
    """
    from effdl.costs.fake import Undrawn, fakes

    gc.freeze()
    with Undrawn():
        network = arch.build(facts)
    # Placed as fake tensors: real ones would be copied where their layout changes
    outline = fakes().copy(network, lambda tensor: hardware.placed(tensor, torch.device(hardware.device)))
    del network
    gc.collect()
    gc.freeze()
    return outline
