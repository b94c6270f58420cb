"""A communication hook of torch's DistributedDataParallel: gradients as packets, and what one loses goes with the next.

    model = DistributedDataParallel(network)
    model.register_comm_hook(HookState(network), hook)

Error feedback (Seide et al. 2014; Karimireddy et al. 2019): of each weight, what was sent until now differs from the sum of its
gradients by what the last packet lost, no more.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]

from effdl.compression.content import AUTO
from effdl.compression.packet import LEAST, decode, encode
from effdl.compression.packing import packed_bytes
from effdl.compression.quantisation import FLOATS, MOST_BITS
from effdl.compression.sparse import largest, spread

LENGTH = 8  # bytes that say how long a packet is


class HookState:
    """What the hook goes by, and what it remembers; each process has its own.

    Pickled it leaves the network behind: `bind` it again. ``state_dict`` is of one process too, and a run that goes on gives
    each its own back.

    Args:
        network: inside DistributedDataParallel, whose names and weights are those of the gradients.
        bits: N of each gradient of at least 256 entries; smaller ones go as they are.
        coder: see `encode`.
        share: of each gradient's entries those of largest magnitude, over 0, to 1; None sends all.
        group: of processes, by default all.

    ``sent``: bytes that this process gave to the others, packets filled up to the longest one and the 8 before each.
    """

    def __init__(
        self, network: nn.Module, bits: int = 8, coder: str = AUTO, share: float | None = None, group: Any = None
    ) -> None:
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"the share that is sent is over 0 and at most 1, not {share}")
        if not 1 <= bits <= MOST_BITS:
            raise ValueError(f"gradients are quantised to 1 to {MOST_BITS} bits, not {bits}")
        encode({}, bits, coder)  # raises for a coder that is none
        self.bits, self.coder, self.share, self.group = bits, coder, share, group
        self.lost: dict[str, Tensor] = {}
        self.sent = 0
        self.bind(network)

    def bind(self, network: nn.Module) -> "HookState":
        """From now on it is of this network."""
        self._names = {id(p): name for name, p in network.named_parameters()}
        return self

    def name(self, parameter: Tensor) -> str:
        if (name := self._names.get(id(parameter))) is None:
            raise ValueError("the hook's state is of another network: state.bind(network)")
        return name

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": {}, "group": None}

    def state_dict(self) -> dict[str, Any]:
        return {"lost": dict(self.lost), "sent": self.sent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where it is of another network."""
        if strange := state["lost"].keys() - set(self._names.values()):
            raise ValueError(f"the hook's state has {min(strange)}, which the network has not")
        self.lost, self.sent = dict(state["lost"]), int(state["sent"])

    def write(self, gradients: Mapping[str, Tensor]) -> bytes:
        """The packet of gradients and of what was lost before; what this one loses is remembered."""
        due = {name: g + self.lost[name].to(g) if name in self.lost else g for name, g in gradients.items()}
        sent, bits = dict[str, Tensor](), dict[str, int]()
        for name, tensor in due.items():
            values = tensor
            if self.share is not None and tensor.numel() >= LEAST:
                sent[f"{name}@"], values = largest(tensor, self.share)
            sent[name] = values
            if tensor.dtype in FLOATS and values.numel() >= LEAST and bool(values.isfinite().all()):
                bits[name] = self.bits
        packet = encode(sent, bits, self.coder)
        for name, found in self.read(packet, gradients).items():
            lost = due[name] - found
            self.lost[name] = torch.where(lost.isfinite(), lost, 0)  # an overflow is no error to make up for
        return packet

    def read(self, packet: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients of a packet. Raises ValueError where it is damaged, or of others than ``like``."""
        found = decode(packet)
        if {name.removesuffix("@") for name in found} != like.keys():
            raise ValueError("packet: of other gradients")
        read = dict[str, Tensor]()
        for name, tensor in like.items():
            if (places := found.get(f"{name}@")) is not None:
                read[name] = spread(places, found[name], tensor)
            elif found[name].shape == tensor.shape:
                read[name] = found[name].to(tensor)
            else:
                raise ValueError("packet: a gradient of another shape")
        return read

    def most(self, like: Mapping[str, Tensor]) -> int:
        """Bytes that a packet of such gradients can have, about."""
        return sum(2 * g.nbytes + packed_bytes(g.numel(), 8) + 1024 + 2 * len(name) for name, g in like.items()) + 1024


def hook(state: HookState, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of all processes' gradients, as their packets have them, worked out alike by each.

    It waits for the others where it is called, so that packets do not go beside the backward pass; how long is the process
    group's time-out.

    Raises:
        ValueError: a packet came damaged; backward() raises it as a RuntimeError of the same line.

    >>> network = torch.nn.parallel.DistributedDataParallel(model)  # doctest: +SKIP
    >>> network.register_comm_hook(HookState(model, bits=8), hook)  # doctest: +SKIP
    """
    gradients = {state.name(p): g for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True)}
    packet = state.write(gradients)
    total: dict[str, Tensor] = {}
    for rank, one in enumerate(_gathered(packet, state, gradients)):
        try:
            read = state.read(one, gradients)
        except ValueError as error:
            raise ValueError(f"what rank {rank} sent came damaged ({error})") from None
        total = {name: total[name] + g if total else g for name, g in read.items()}
    size = distributed.get_world_size(state.group)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(torch.cat([total[name].reshape(-1) / size for name in gradients]).to(bucket.buffer()))
    return done


def _gathered(packet: bytes, state: HookState, gradients: Mapping[str, Tensor]) -> list[bytes]:
    """The packets of all, by rank."""
    group, size = state.group, distributed.get_world_size(state.group)
    only_gpus = "gloo" not in str(distributed.get_backend_config(group)).lower()
    device = next(iter(gradients.values())).device if only_gpus else torch.device("cpu")
    lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(size)]
    distributed.all_gather(lengths, torch.tensor([len(packet)], device=device), group=group)
    longest = int(torch.cat(lengths).max())
    if not 0 < longest <= state.most(gradients):
        raise ValueError(f"a rank would send {longest} bytes, more than such gradients can have")
    ours = torch.zeros(longest, dtype=torch.uint8)
    ours[: len(packet)] = torch.frombuffer(bytearray(packet), dtype=torch.uint8)
    found = [torch.empty(longest, dtype=torch.uint8, device=device) for _ in range(size)]
    distributed.all_gather(found, ours.to(device), group=group)
    state.sent += (size - 1) * (LENGTH + longest)
    return [one[: int(length)].cpu().numpy().tobytes() for one, length in zip(found, lengths, strict=True)]
