"""Ranks: processes that train one network together, each on its part of every batch (synchronous data parallelism)."""

import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from effdl import torchrun
from effdl.datasets.batch import Batch
from effdl.errors import EffdlError, one_line

T = TypeVar("T")
Total = Callable[[Tensor], object]  # sums a tensor over all processes, in place

BUCKET_BYTES = 4 * 2**20
SWAP_HEAD = 8  # bytes that say how long a packet is
AGAIN = "the same command goes on where this one stopped"
LEAST_SHARE = 2  # batch normalisation cannot take one sample


class Ranks:
    """What the processes of a run say to one another; ``Ranks()`` is a lone process, which has nothing to say.

    All ranks walk through the same batches in the same order, and each steps on its part (`share`); before the update the
    gradients become those of the whole batch (`exchange`), so that all make the same update. What depends on clocks or files
    is rank 0's to decide (`agree`). Normalisation takes the statistics of a rank's own part, as in torch's
    DistributedDataParallel; running statistics are rank 0's (`synchronise`).

    Args:
        rank, size: of this process, and how many there are; a torch.distributed process group is open where several.
        processes: (machine, process id) of each, to tell which one is gone.
    """

    def __init__(self, rank: int = 0, size: int = 1, processes: Sequence[tuple[str, int]] = ()) -> None:
        self.rank, self.size, self.processes = rank, size, processes

    @property
    def alone(self) -> bool:
        return self.size == 1

    def share(self, batch: Batch) -> Batch:
        """This rank's part of a batch: consecutive samples, perhaps none, see `bounds`."""
        return batch if self.alone else batch._map(self.part)

    def part(self, samples: Tensor) -> Tensor:
        """This rank's part of what is known of a batch's samples, (B, ...)."""
        start, stop = bounds(len(samples), self.rank, self.size)
        return samples[start:stop]

    def exchange(self, parameters: Iterable[nn.Parameter], batch: Batch) -> None:
        """Replace the gradients of this rank's mean loss by those of the whole batch's; see `exchange`.

        batch: this rank's part, on which the gradients were computed.
        """
        if not self.alone:
            exchange(list(parameters), weight_of(batch), len(batch) > 0, self._sum)

    def total(self, values: Tensor) -> Tensor:
        """Sums over all ranks of what each has, elementwise."""
        if self.alone:
            return values
        summed = values.clone()
        self._sum(summed)
        return summed

    def agree(self, decide: Callable[[], T]) -> T:
        """Rank 0's answer, on all ranks; the others do not ask. An EffdlError that it meets is raised on all."""
        if self.alone:
            return decide()
        answer: T | None = None
        error: EffdlError | None = None
        if self.rank == 0:
            try:
                answer = decide()
            except EffdlError as met:
                error = met
        answer, error = self._broadcast((answer, error))
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]

    def synchronise(self, module: nn.Module, weights: bool = True) -> None:
        """Weights and buffers become rank 0's; buffers alone where ``weights`` are those of all already."""
        if not self.alone:
            with torch.no_grad():
                for tensor in (*(module.parameters() if weights else ()), *module.buffers()):
                    dense = tensor.detach().contiguous()
                    self._send(dense)
                    tensor.copy_(dense)

    def swap(self, packet: bytes, timeout_s: float, most: int) -> list[bytes]:
        """Everybody's packet, by rank, each sent from each to each (`SWAP_HEAD` bytes before it), in the machine's memory.

        Args:
            timeout_s: how long this rank waits for the others, in all.
            most: bytes that a packet can have.

        Raises:
            EffdlError: one did not answer in time, or would send more.
        """
        found, until = [packet] * self.size, time.monotonic() + timeout_s
        others = [rank for rank in range(self.size) if rank != self.rank]
        length, content = torch.tensor([len(packet)]), torch.frombuffer(bytearray(packet), dtype=torch.uint8)
        with self._together():
            sent = [(rank, distributed.isend(length, rank, tag=0)) for rank in others]
            waiting = list[tuple[int, Tensor, Any]]()
            for rank in others:
                self._wait(distributed.irecv(theirs := torch.zeros(1, dtype=torch.long), rank, tag=0), rank, until, timeout_s)
                if not 0 < int(theirs) <= most:
                    raise EffdlError(f"{self.who(rank)} would send {int(theirs)} bytes, of {most} at most; {AGAIN}")
                room = torch.empty(int(theirs), dtype=torch.uint8)
                waiting.append((rank, room, distributed.irecv(room, rank, tag=1)))
            # Asked for before ours goes out: gloo would put the asking behind it, and the two ways would take turns
            sent += [(rank, distributed.isend(content, rank, tag=1)) for rank in others]
            for rank, room, work in waiting:
                self._wait(work, rank, until, timeout_s)
                found[rank] = room.numpy().tobytes()
            for rank, work in sent:
                self._wait(work, rank, until, timeout_s)
        return found

    def _wait(self, work: Any, rank: int, until: float, timeout_s: float) -> None:
        try:
            work.wait(timedelta(seconds=max(0.001, until - time.monotonic())))
        except RuntimeError as error:
            if time.monotonic() < until:  # its connection is closed
                raise
            raise EffdlError(
                f"{self.who(rank)} has not answered within sync.timeout_s={timeout_s:g} seconds of an exchange; {AGAIN}"
            ) from error

    def who(self, rank: int) -> str:
        """A rank as errors name it."""
        return f"rank {rank} (process {self.processes[rank][1]})" if self.processes else f"rank {rank}"

    def gather(self, value: T) -> list[T]:
        """What each rank has, by rank, on rank 0; elsewhere nothing. Pickled, between processes of one run."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        with self._together():
            distributed.gather_object(value, found if self.rank == 0 else None, dst=0)
        return found if self.rank == 0 else []

    def _sum(self, values: Tensor) -> None:
        with self._together():
            distributed.all_reduce(values)

    def _send(self, values: Tensor) -> None:
        """Fill with what rank 0 has."""
        with self._together():
            distributed.broadcast(values, src=0)

    def _broadcast(self, value: T) -> T:
        """Rank 0's value; pickled, between processes of one run."""
        data = pickle.dumps(value) if self.rank == 0 else b""
        length = torch.tensor([len(data)])
        self._send(length)
        content = torch.frombuffer(bytearray(data or int(length)), dtype=torch.uint8)
        self._send(content)
        received: T = pickle.loads(content.numpy().tobytes()) if self.rank else value
        return received

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Within, an error means that another process is gone, and this one goes too."""
        try:
            yield
        except RuntimeError as error:
            torchrun.part(self.processes, one_line(error)[:200])
            raise


def bounds(samples: int, rank: int, size: int) -> tuple[int, int]:
    """Where a rank's part of a batch begins and ends: parts follow one another and differ by at most one sample.

    No part has a single sample, which batch normalisation could not take: where there are fewer than two for each, the last
    ranks get none.
    """
    sharing = max(1, min(size, samples // LEAST_SHARE))
    at = min(rank, sharing)
    return samples * at // sharing, samples * min(at + 1, sharing) // sharing


def weight_of(batch: Batch) -> Tensor:
    """The weight of a part's mean loss in that of the whole batch: the sum of its samples' weights."""
    if batch.sample_weight is None:
        return torch.tensor(float(len(batch)), dtype=torch.float64)
    return batch.sample_weight.sum()


def exchange(parameters: Sequence[nn.Parameter], weight: Tensor, stepped: bool, total: Total) -> None:
    """Put Σ_r w_r g_r / Σ_r w_r in the place of this rank's gradients g_r, those of the mean loss of a part of weight w_r.

    Gradients travel in few buckets, one sum each, after the backward pass (not beside it, as DistributedDataParallel's do),
    in float32 at least. A parameter that got no gradient has none afterwards.

    Args:
        stepped: whether this rank had samples; with none its gradients are missing, and it takes those of the others.
        total: sums a tensor over all ranks, in place.
    """
    with torch.no_grad():
        for bucket in buckets(parameters, BUCKET_BYTES):
            like = torch.empty(0, dtype=torch.promote_types(bucket[0].dtype, torch.float32), device=bucket[0].device)
            w = weight.to(like)
            given = [p.grad is not None for p in bucket]
            parts = [like.new_zeros(p.numel()) if p.grad is None else p.grad.flatten().to(like.dtype) for p in bucket]
            gradients = torch.cat(parts) * w
            gradients = torch.where(w != 0, gradients, torch.zeros_like(gradients))  # a mean over no weight is no number
            flat = torch.cat([gradients, w.view(1), like.new_tensor(given)])
            total(flat)
            sizes = [p.numel() for p in bucket]
            mean = (flat[: sum(sizes)] / flat[sum(sizes)]).split(sizes)
            if not stepped:
                given = (flat[sum(sizes) + 1 :] > 0).tolist()
            for p, part, has in zip(bucket, mean, given, strict=True):
                if has and p.grad is None:
                    p.grad = torch.empty_like(p)
                if has and p.grad is not None:
                    p.grad.copy_(part.view_as(p))


def buckets(parameters: Sequence[nn.Parameter], most: int) -> Iterator[list[nn.Parameter]]:
    """The parameters that learn, in order, in runs of one type and device and of at most so many bytes (or a single one)."""
    bucket: list[nn.Parameter] = []
    for p in parameters:
        if not p.requires_grad:
            continue
        full = bucket and sum(b.nbytes for b in bucket) + p.nbytes > most
        if bucket and (full or p.dtype != bucket[0].dtype or p.device != bucket[0].device):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


@contextmanager
def joined(processes: int, device: str) -> Iterator[Ranks]:
    """The ranks of a run of so many processes, this one among them, for as long as it takes.

    device: "cuda" gives each a GPU of its own.
    """
    if processes == 1:
        yield Ranks()
        return
    here = torchrun.place()
    assert here.size == processes, "checked before"
    if device == "cuda":
        torch.cuda.set_device(here.local_rank)
    nccl = device == "cuda" and distributed.is_nccl_available()
    # A rank that ends is noticed by its closed connections and by torchrun; a long epoch is no reason to give up.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=timedelta(days=7))
    found: list[tuple[str, int]] = [("", 0)] * processes
    distributed.all_gather_object(found, (os.uname().nodename, os.getpid()))
    torchrun.watch(found)
    yield Ranks(here.rank, here.size, found)
    distributed.destroy_process_group()  # not after an error: it would wait for the others
