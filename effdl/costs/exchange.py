"""What an exchange of weights takes (`training.averaging`), and how much faster a form of packets makes it.

n workers have a full-duplex link of r bits a second each. All write their packets of B bytes, in e seconds; then each sends its
own to all others, and gets theirs (`Ranks.swap`); then each reads all n, in d seconds each, and takes their mean, in m seconds
each. Nothing of this is done beside anything else, so an exchange takes

    T = e + L + (n − 1) · (B + h) · max(8 φ / r, 1 / c) + n · (d + m)

where L seconds pass until processes that wait for one another are awake, whatever they send, h bytes say how long a packet is,
φ is what frames of the transport have beside their content, and c bytes a second are as many as a worker's processor moves
whatever the link. Where workers make K steps of s seconds in between, a form that takes T is
(K s + T₀) / (K s + T) times as fast as one that takes T₀, and T / (K s + T) of the time are exchanges. With c out of the way
both take as long on a link of

    r = 8 φ (n − 1) (B₀ − B) / (e + n d − e₀ − n d₀)
"""

import math
import statistics
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from effdl.costs.rehearsal import usual
from effdl.training.averaging import mean
from effdl.training.ranks import SWAP_HEAD
from effdl.training.wire import Wire

FRAMED = 1538 / 1448  # bytes on an Ethernet link for those of TCP's content, at 1,500 bytes a frame
BUDGET_S = 0.1  # of each measure
PROBE_BYTES, PROBES, EMPTY_PROBES = 32 * 2**20, 3, 15  # so large that L counts for nothing


@dataclass(frozen=True)
class Coded:
    """A form of packets, as it was measured on one machine: bytes of one packet, seconds to write one and to read one."""

    packet_bytes: int
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Exchange:
    """Workers, their links, and their steps in between.

    Args:
        workers: n, from 2.
        link: r in bits a second, of each worker's own link, as much both ways at once.
        own: c in bytes a second; infinite where the link is all that counts.
        latency_s: L.
        mean_s: m, of one packet of the n.
        every, step_s: K, and s.
    """

    workers: int
    link: float
    own: float = math.inf
    latency_s: float = 0.0
    mean_s: float = 0.0
    every: int = 1
    step_s: float = 0.0

    def transfer_s(self, packet_bytes: int) -> float:
        """How long all packets take on their way, L included."""
        return self.latency_s + (self.workers - 1) * (packet_bytes + SWAP_HEAD) * max(8 * FRAMED / self.link, 1 / self.own)

    def coding_s(self, form: Coded) -> float:
        return form.encode_s + self.workers * form.decode_s

    def seconds(self, form: Coded) -> float:
        """T."""
        return self.coding_s(form) + self.transfer_s(form.packet_bytes) + self.workers * self.mean_s

    def share(self, form: Coded) -> float:
        """Of a worker's time, what goes into exchanges."""
        taken = self.seconds(form)
        return taken / (self.every * self.step_s + taken)

    def times_as_fast(self, form: Coded, than: Coded) -> float:
        """Steps and exchanges together, over those by another form."""
        steps = self.every * self.step_s
        return (steps + self.seconds(than)) / (steps + self.seconds(form))

    def break_even(self, form: Coded, than: Coded) -> float:
        """The link, in bits a second, on which both forms take as long: shorter packets pay on slower ones.

        0 where they are no shorter, or pay on no link; infinite where they pay on all.
        """
        saved, added = than.packet_bytes - form.packet_bytes, self.coding_s(form) - self.coding_s(than)
        if saved <= 0:
            return 0.0
        return 8 * FRAMED * (self.workers - 1) * saved / added if added > 0 else math.inf


def measured(wire: Wire, tensors: Mapping[str, Tensor], budget: float = BUDGET_S) -> Coded:
    """A form on these tensors, here and now. Raises ValueError where its package is not installed."""
    device, packet = next(iter(tensors.values())).device, wire.write(tensors)
    encode_s = usual(lambda: wire.write(tensors), device, budget)
    return Coded(len(packet), encode_s, usual(lambda: wire.read(packet, tensors), device, budget))


def mean_seconds(tensors: Mapping[str, Tensor], budget: float = BUDGET_S) -> float:
    """m, as `mean` of several takes it."""
    several = 4
    device = next(iter(tensors.values())).device
    return usual(lambda: [mean([tensor] * several) for tensor in tensors.values()], device, budget) / several


@dataclass(frozen=True)
class Loopback:
    """What two workers on this machine take to send to each other: c of large packets, and L, which an empty one takes."""

    bytes_per_s: float = math.inf
    latency_s: float = 0.0


def loopback() -> Loopback:
    """Of two ends of this machine's loopback that send to each other by gloo, at once, here and now.

    Nothing is taken for slow where it cannot be told.
    """
    c10d: Any = distributed  # which is not all in its stubs
    store, taken = c10d.HashStore(), dict[int, tuple[float, float]]()

    def end(rank: int) -> None:
        how = c10d.ProcessGroupGloo._Options()
        how._devices, how._timeout = [c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")], timedelta(seconds=60)
        group = c10d.ProcessGroupGloo(store, rank, 2, how)

        def swapped(size: int) -> float:
            ours, theirs = (torch.ones(size, dtype=torch.uint8) for _ in range(2))
            begun = time.perf_counter()
            sent = group.send([ours.clone()], 1 - rank, 0)
            group.recv([theirs], 1 - rank, 0).wait()
            sent.wait()
            theirs.numpy().tobytes()  # as a packet is taken over
            return time.perf_counter() - begun

        swapped(PROBE_BYTES)  # finds buffers to be made
        large = [swapped(PROBE_BYTES) for _ in range(PROBES)]
        empty = [swapped(SWAP_HEAD) + swapped(1) for _ in range(EMPTY_PROBES)]  # how long it is, and then it
        taken[rank] = sum(large) / PROBES, statistics.median(empty)

    def tried(rank: int) -> None:
        with suppress(RuntimeError):  # where there is no loopback, or nothing comes through
            end(rank)

    ends = [threading.Thread(target=tried, args=(rank,), daemon=True) for rank in range(2)]
    for one in ends:
        one.start()
    for one in ends:
        one.join()
    if len(taken) < 2:
        return Loopback()
    large_s, empty_s = (max(times) for times in zip(*taken.values(), strict=True))
    return Loopback(PROBE_BYTES / large_s, empty_s)
