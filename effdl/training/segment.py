"""SegmentState: consecutive blocks that learn together by a local loss; with the two dropouts of thesis §6.6.3."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from effdl.archs.chain import BlockChain
from effdl.archs.trial import tried
from effdl.datasets.problem import Batch
from effdl.errors import ConfigError, Diverged, EffdlError, FitFailed
from effdl.objectives.objective import Objective, at_least_float32
from effdl.training.compiled import Compiled
from effdl.training.loop import reduce_loss, switch_mode, train_epoch
from effdl.training.optim import Schedule, set_epoch
from effdl.training.ranks import Ranks


def input_dropout_rate(initial: float, decay: float, epoch: int) -> float:
    """Forward dropout in ``epoch``, from 0 in each segment: p₀ · decay^e (§6.6.3; table 6.3: p₀ 0.8, decay 0.95)."""
    return initial * decay**epoch


class _GradientDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, p: float) -> Tensor:
        ctx.p = p
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return F.dropout(gradients[0], ctx.p), None


def gradient_dropout(z: Tensor, p: float) -> Tensor:
    """The identity, whose gradient is mask/(1 − p) times what arrives, mask ~ Bernoulli(1 − p) (§6.6.3).

    The thesis does not say whether it scales ("grad noise"); inverted scaling keeps the gradient's mean. The mask is drawn
    in the backward pass, so the forward pass is the same bits with and without it.
    """
    if p == 0:
        return z
    same: Tensor = _GradientDropout.apply(z, p)
    return same


class LocalLoss(nn.Module, ABC):
    """What a segment minimises; its own parameters learn with the segment."""

    @abstractmethod
    def forward(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Loss of each sample: the segment's outputs and their batch -> (B,)."""

    def check(self, outputs: Tensor, wanted: int) -> None:
        """Raise a ConfigError where it does not go with a segment's outputs, or with so many outputs of the problem."""
        return

    @abstractmethod
    def predictor(self, chain: BlockChain) -> nn.Module:
        """The network from the chain's inputs to logits that is evaluated; the chain ends with the segment's last block."""


class DecisionLoss(LocalLoss):
    """The default local loss: a decision block on top of the segment, and the problem's objective.

    gradient_dropout: probability p of dropout on the gradients that leave the decision block; its own stay whole.
    """

    def __init__(self, decision: nn.Module, objective: Objective, gradient_dropout: float = 0.0) -> None:
        super().__init__()
        self.decision = decision
        self.objective = objective
        self.gradient_dropout = gradient_dropout

    def forward(self, outputs: Tensor, batch: Batch) -> Tensor:
        logits = self.decision(gradient_dropout(outputs, self.gradient_dropout))
        return self.objective.loss(at_least_float32(logits), batch.y)

    def check(self, outputs: Tensor, wanted: int) -> None:
        restore, name = switch_mode(self.decision, False), type(self.decision).__name__
        with torch.no_grad():
            found = tuple(
                tried(f"the head or decision block {name}", self.decision, outputs, "what comes out of the blocks").shape
            )
        restore()
        if found != (len(outputs), wanted):
            shape = ", ".join(["N", *map(str, found[1:])])
            flat = ", before which nn.Flatten() makes one row of each sample" if len(found) > 2 else ""
            raise ConfigError(
                f"the head or decision block {name} gives outputs of the shape [{shape}], the problem "
                f"needs [N, {wanted}]: let it end with a layer of {wanted}{flat}"
            )

    def predictor(self, chain: BlockChain) -> BlockChain:
        return chain.with_head(self.decision)


class SegmentState:
    """A segment in training: blocks, local loss, optimizer, schedule and epoch count.

    Args:
        blocks: the modules that learn, called in order.
        local_loss: what they minimise.
        optimizer: over the parameters of both.
        seed: (epoch, step) -> seed of the global generator for that step.
        epochs: how many epochs the schedule spans.
        schedule: learning rate by epoch, constant where None.
        input_dropout: epoch -> dropout probability on the segment's input.
        checkpoint: recompute each block in the backward pass instead of keeping its activations.
        autocast: context of each forward pass and its loss, such as mixed precision.
        ranks: processes that train it together, each on its own part of every batch.
        yields: give away what the blocks put out. Where nobody takes it, it need not be held through the backward pass, which
            saves 7% of the peak in CNN-4, 4% in VGG-13 (table 6.1); the batches then come out with x of shape (0,).
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        local_loss: LocalLoss,
        optimizer: torch.optim.Optimizer,
        *,
        seed: Callable[[int, int], int],
        epochs: int = 1,
        schedule: Schedule | None = None,
        input_dropout: Callable[[int], float] = lambda epoch: 0.0,
        checkpoint: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        ranks: Ranks | None = None,
        yields: bool = True,
    ) -> None:
        self.blocks, self.local_loss, self.optimizer = blocks, local_loss, optimizer
        self.seed, self.epochs, self.schedule = seed, epochs, schedule
        self.input_dropout, self.checkpoint, self.autocast = input_dropout, checkpoint, autocast
        self.ranks, self.yields = ranks or Ranks(), yields
        self._compiled: list[Compiled] | None = None
        self.epoch = 0

    @property
    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.blocks, self.local_loss])

    def train_epoch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Learn from one epoch of batches and yield what the blocks put out, detached, as they learn.

        What comes out is the training forward pass: from before the batch's own update, batch normalisation in training
        mode, dropouts inside (§6.2.2, §6.8.3). The epoch counts when the iterator is drained. Of several processes each yields
        the outputs of its own part.
        """
        epoch = self.epoch
        set_epoch(self.optimizer, self.schedule, epoch, self.epochs)
        restore = switch_mode(self.modules, True)
        try:
            step, exchange = (self.step, None) if self.ranks.alone else (self._part, self._exchange)
            yield from train_epoch(batches, step, self.optimizer, lambda step: self.seed(epoch, step), exchange)
            self.ranks.synchronise(self.modules)
        finally:
            restore()
        self.epoch = epoch + 1

    def step(self, batch: Batch) -> Batch:
        """Forward, local loss and backward for one batch; gradients stay in ``.grad``."""
        version = batch.x._version
        x = batch.x.detach()  # whatever made x, no gradient goes below the segment
        p = self.input_dropout(self.epoch)
        if p > 0 and not x.is_floating_point():
            raise ConfigError("method.drop_raw_input: samples are ids, of which none can be dropped; say false")
        with self.autocast():
            outputs = self.forward(F.dropout(x, p) if p > 0 else x)
            yielded = outputs._version
            loss = self.local_loss(outputs, batch)
        if batch.x._version != version or outputs._version != yielded:
            part = "segment" if batch.x._version != version else "decision block"
            raise ConfigError(f"a {part} must not begin with an in-place operation: it overwrites what the one below yields")
        put_out = outputs.detach() if self.yields else outputs.new_empty(0)
        del outputs  # else held through the backward pass
        reduce_loss(loss, batch.sample_weight).backward()
        return batch.passed_on(put_out, loss.detach())

    def _part(self, batch: Batch) -> Batch:
        """A step on one rank's part; what a single rank meets there is no end that all could record."""
        try:
            return self.step(batch)
        except (Diverged, FitFailed) as error:
            raise EffdlError(str(error)) from error

    def _exchange(self, batch: Batch) -> None:
        self.ranks.exchange((p for group in self.optimizer.param_groups for p in group["params"]), batch)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            call = self._compiled[i] if self._compiled else block
            x = checkpointed(block, x, call) if self.checkpoint else call(x)
        return x

    def compile(self) -> None:
        """From now on call the blocks as torch.compile makes them; the modules stay what they are."""
        self._compiled = [Compiled(block) for block in self.blocks]

    def state_dict(self) -> dict[str, Any]:
        return {
            "blocks": self.blocks.state_dict(),
            "local_loss": self.local_loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.blocks.load_state_dict(state["blocks"])
        self.local_loss.load_state_dict(state["local_loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


def checkpointed(block: nn.Module, x: Tensor, call: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """block(x) whose activations are recomputed in the backward pass (Chen et al. 2016), dropout masks and all.

    call: the block as it is called, compiled for example.
    """
    out: Tensor = checkpoint(call or block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), still_statistics(block)))
    return out


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Within, training-mode normalisation leaves its running statistics alone: a recomputation would count twice."""
    norms = [m for m in module.modules() if isinstance(m, _NormBase)]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
