"""Averaging: processes make steps of their own, and every so many their weights are averaged, through packets.

Local SGD (Stich 2019); with an outer step by Nesterov's momentum it is DiLoCo (Douillard et al. 2023).
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from effdl.compression.quantisation import MOST_BITS
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError, EffdlError
from effdl.setting import Count, Positive, Probability, setting
from effdl.training.hardware import Hardware
from effdl.training.ranks import AGAIN, SWAP_HEAD, Ranks
from effdl.training.rule import Rule
from effdl.training.sync import Seed, Sync, Syncing
from effdl.training.wire import Form, Wire

Bits = Annotated[int, Field(strict=True, ge=1, le=MOST_BITS)]


@setting
class Averaging(Sync):
    """Each process takes its own steps on its part of every batch; every so many, and at the end of each epoch, all go on from
    one set of weights, worked out in float64 in the order of ranks. Buffers are rank 0's at the ends of epochs.

    ``sync/bytes/<rank>`` records what a rank sent to the others in an epoch, ``sync/bytes`` all of them: packets and the 8
    bytes before each, without the transport's framing, and without what goes beside them (losses, buffers, checkpoints).

    every: steps between averages.
    outer: "mean" goes on from the mean of all weights; "nesterov" takes the way from there to where the last average was for a
        gradient, by which an outer optimizer steps, with ``outer_lr`` and ``outer_momentum`` (0.7 and 0.9 in DiLoCo).
    form: of what is sent: "tensors" as they are, without a packet; "lossless", "float16", "bfloat16", or a coder of quantised
        matrices: "plain", "huffman", "ans", "zstd" or "auto", see `compression.encode`.
    bits: N of quantised ones; null chooses by their entropy (Algorithm 1).
    sends: what a form that loses something holds: "changes" since the last average, with what the packets before lost of them
        (error feedback), or "weights".
    timeout_s: how long an exchange may take before a process counts as hung.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"timeout_s"})
    has_parts: ClassVar[bool] = True

    every: Count = 10
    outer: Literal["mean", "nesterov"] = "mean"
    outer_lr: Positive = 0.7
    outer_momentum: Probability = 0.9
    form: Form = "lossless"
    bits: Bits | None = None
    sends: Literal["changes", "weights"] = "changes"
    timeout_s: Positive = 600.0

    def check(self, hardware: Hardware) -> None:
        if self.bits is not None and not Wire(self.form).quantises:
            raise ConfigError(f"sync.bits: sync.form={self.form} quantises nothing; plain, huffman, ans, zstd and auto do")

    def begin(self, rule: Rule, optimizer: torch.optim.Optimizer, ranks: Ranks, seed: Seed) -> Syncing:
        return _Averaging(self, rule, optimizer, ranks)


class _Averaging(Syncing):
    def __init__(self, how: Averaging, rule: Rule, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        super().__init__(rule, ranks)
        self.how, self.optimizer, self.wire = how, optimizer, Wire(how.form, how.bits)
        self._of_changes = how.sends == "changes" and not self.wire.is_exact
        self._lost: dict[str, Tensor] = {}  # by this rank's packets
        self._momentum: dict[str, Tensor] = {}  # of the outer steps
        self._last: dict[str, Tensor] = {}  # where all began
        self._steps = self._sent = 0

    @property
    def _weights(self) -> dict[str, nn.Parameter]:
        return averaged(self.rule)

    def begin_epoch(self) -> None:
        self.ranks.agree(lambda: None)  # rank 0 may have measured for long, which is no time of an exchange
        self._remember()

    def exchange(self, parameters: Iterable[nn.Parameter], batch: Batch) -> None:
        return  # steps are each process's own

    def updated(self) -> None:
        self._steps += 1
        if self._steps == self.how.every:
            self._average()

    def end_epoch(self, epoch: int) -> None:
        if self._steps:
            self._average()
        self.ranks.synchronise(self.rule, weights=False)
        of_each = self.ranks.total(torch.eye(self.ranks.size, dtype=torch.long)[self.ranks.rank] * self._sent)
        self.told = {"sync/bytes": float(of_each.sum()), **{f"sync/bytes/{r}": float(n) for r, n in enumerate(of_each)}}
        self._sent, self._last = 0, {}

    @torch.no_grad()
    def _average(self) -> None:
        ours = {name: p.detach() for name, p in self._weights.items()}
        if self._of_changes:
            ours = {name: w - self._last[name] + self._lost.get(name, 0) for name, w in ours.items()}
        packet = self.wire.write(ours)
        packets = [packet] if self.ranks.alone else self.ranks.swap(packet, self.how.timeout_s, self.wire.most(ours))
        self._sent += (self.ranks.size - 1) * (len(packet) + SWAP_HEAD)
        read = [self._read(rank, one, ours) for rank, one in enumerate(packets)]
        if self._of_changes:
            self._lost = {name: ours[name] - one for name, one in read[self.ranks.rank].items()}
        for name, p in self._weights.items():
            p.copy_(self._stepped(name, mean([one[name] for one in read])))
        self._steps = 0
        self._remember()

    def _read(self, rank: int, packet: bytes, like: dict[str, Tensor]) -> dict[str, Tensor]:
        try:
            return self.wire.read(packet, like)
        except ValueError as error:
            raise EffdlError(f"what {self.ranks.who(rank)} sent came damaged ({error}); {AGAIN}") from None

    def _stepped(self, name: str, found: Tensor) -> Tensor:
        """Where to go on, from the mean of what was sent; in float64."""
        if not self._of_changes and self.how.outer == "mean":
            return found
        last = self._last[name].double()
        if self.how.outer == "mean":
            return last + found
        gradient = -found if self._of_changes else last - found
        momentum = self._momentum.get(name, torch.zeros_like(gradient)) * self.how.outer_momentum + gradient
        self._momentum[name] = momentum
        return last - self.how.outer_lr * (gradient + self.how.outer_momentum * momentum)

    def _remember(self) -> None:
        if self._of_changes or self.how.outer == "nesterov":
            self._last = {name: p.detach().clone() for name, p in self._weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Of all ranks on rank 0."""
        ours = {"optimizer": self.optimizer.state_dict(), "lost": self._lost}
        parts = self.ranks.gather(tree_map(lambda t: t.cpu() if isinstance(t, Tensor) else t, ours))
        return {"momentum": dict(self._momentum), "parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["parts"]) != self.ranks.size:
            raise ValueError(f"a checkpoint of {len(state['parts'])} processes")
        part, weights = state["parts"][self.ranks.rank], self._weights
        if state["momentum"].keys() - weights.keys() or part["lost"].keys() - weights.keys():
            raise ValueError("of other weights")
        self.optimizer.load_state_dict(part["optimizer"])
        self._lost, self._momentum = (
            {name: tensor.to(weights[name].device) for name, tensor in one.items()} for one in (part["lost"], state["momentum"])
        )


def averaged(rule: Rule) -> dict[str, nn.Parameter]:
    """What is sent of a rule: the weights that learn."""
    return {name: p for name, p in rule.named_parameters() if p.requires_grad}


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """In float64, summed up in their order: the same on every rank; of a single one it is this, bit for bit."""
    total = tensors[0].double()
    for tensor in tensors[1:]:
        total = total + tensor.double()
    return total / len(tensors)
