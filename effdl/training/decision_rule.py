"""The rule of deep layer-wise learning: a decision block under the problem's loss; with the two dropouts of thesis §6.6.3."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.tapping import Tapping, of_drawn, tapped
from effdl.archs.trial import tried
from effdl.datasets.batch import Batch, concatenate
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective, at_least_float32
from effdl.training.dense import Dense, written_out
from effdl.training.form import stack_form
from effdl.training.local_loss import Seen
from effdl.training.loop import reduce_loss, switch_mode
from effdl.training.offload import Offload, tensors
from effdl.training.ranks import LEAST_SHARE, bounds, weight_of
from effdl.training.recompute import Recompute
from effdl.training.rule import Rule
from effdl.training.saved import saved_away

Penalty = Callable[[Seen], Tensor]


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


class _GradientNoise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, deviation: float) -> Tensor:
        ctx.deviation = deviation
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        norm = torch.linalg.vector_norm(gradient, dtype=at_least_float32(gradient[:0]).dtype)
        return gradient + torch.randn_like(gradient).mul_(ctx.deviation * norm / gradient.numel() ** 0.5), None


def gradient_noise(z: Tensor, deviation: float) -> Tensor:
    """The identity, to whose gradient Gaussian noise of mean 0 is added, ``deviation`` times as large as the gradient is by its
    root mean square over the batch (§6.6.3: gradient dropout is "closely related to adding Gaussian noise").

    Neelakantan et al. (2015) add it to the gradients of all weights, with a variance that falls over the steps. Here it is
    where gradient dropout is, which changes gradients by √(p / (1 − p)) of the same root mean square, and stays as it is.
    """
    if deviation == 0:
        return z
    same: Tensor = _GradientNoise.apply(z, deviation)
    return same


class DecisionRule(Rule):
    """Descend the loss of a decision block on top of the segment (Algorithm 3, lines 3 to 6).

    With the network's head for a decision block and all blocks for a segment, it is backpropagation.

    Args:
        decision: from the blocks' outputs to the problem's; learns with them.
        gradient_dropout, gradient_noise: probability p of dropout on the gradients that leave the decision block, and noise on
            them, see the functions of these names; its own stay whole.
        input_dropout, input_dropout_decay: dropout on the segment's input and its decay, see `input_dropout_rate`.
        checkpoint: see `Rule`.
        penalty: `Seen` -> (B,), which is added to each sample's loss in training; what a module learns for it, learns too.
        share: by what the decision block's loss is multiplied in training.
        wants_inputs: whether the penalty takes the samples as they are stored, see `Rule`.
        accumulate: parts in which a batch goes forward and back, one after another, before its one update: the gradients of the
            whole batch, but for rounding, and for normalisation and dropouts, which see a part.
        away: where what the backward pass needs lies until then, see `saved_away`; None leaves it on the device.
    """

    scales = True

    def __init__(
        self,
        blocks: nn.Sequential,
        decision: nn.Module,
        objective: Objective,
        *,
        gradient_dropout: float = 0.0,
        gradient_noise: float = 0.0,
        input_dropout: float = 0.0,
        input_dropout_decay: float = 1.0,
        checkpoint: Recompute = False,
        penalty: Penalty | None = None,
        share: float = 1.0,
        wants_inputs: bool = False,
        accumulate: int = 1,
        away: Offload | None = None,
    ) -> None:
        super().__init__(blocks, checkpoint)
        self.away = away
        self.accumulate = accumulate
        self.decision = decision
        self.objective = objective
        self.gradient_dropout, self.gradient_noise = gradient_dropout, gradient_noise
        self.input_dropout, self.input_dropout_decay = input_dropout, input_dropout_decay
        self.penalty, self.share, self.wants_inputs = penalty, share, wants_inputs

    def learn(self, batch: Batch, epoch: int) -> Batch:
        if self.accumulate == 1 or len(batch) < 2 * LEAST_SHARE:
            return super().learn(batch, epoch)
        whole, learned = weight_of(batch), []
        for i in range(self.accumulate):
            start, stop = bounds(len(batch), i, self.accumulate)
            if start < stop:
                part = batch.between(start, stop)
                descended, found = self.descended(part, epoch)
                (descended * (weight_of(part) / whole).to(descended)).backward()
                learned.append(found)
        return concatenate(learned)

    def descended(self, batch: Batch, epoch: int) -> tuple[Tensor, Batch]:
        version = batch.x._version
        x = batch.x.detach()  # whatever made x, no gradient goes below the segment
        p = input_dropout_rate(self.input_dropout, self.input_dropout_decay, epoch)
        if p > 0 and not x.is_floating_point():
            raise ConfigError("method.drop_raw_input: samples are ids, of which none can be dropped; say false")
        with self.hardware.autocast(), saved_away(self.away, lambda: (x, *tensors(self))):
            if isinstance(self.decision, Tapping):
                return self._tapped(self.decision, x, batch)
            if self.penalty is None:
                activations = [self.forward(F.dropout(x, p) if p > 0 else x)]
            else:
                x = F.dropout(x, p) if p > 0 else x
                activations = [x, *self.activations(x)]
            outputs = activations[-1]
            yielded = outputs._version
            logits = self.decision(gradient_noise(gradient_dropout(outputs, self.gradient_dropout), self.gradient_noise))
            loss = self.objective.loss(at_least_float32(logits), batch.y)
            loss = loss if self.share == 1 else self.share * loss
            if self.penalty is not None:
                loss = loss + self.penalty(Seen(activations, logits, batch.y, batch.inputs))
            del activations
        if batch.x._version != version or outputs._version != yielded:
            part = "segment" if batch.x._version != version else "decision block"
            raise ConfigError(f"a {part} must not begin with an in-place operation: it overwrites what the one below yields")
        # What nobody takes is not held through the backward pass.
        put_out = outputs.detach() if self.yields else outputs.new_empty(0)
        return reduce_loss(loss, batch.sample_weight, batch.scale), batch.passed_on(put_out, loss.detach())

    @property
    def _varies(self) -> bool:
        """Whether it does more than to descend the loss."""
        dropouts = self.gradient_dropout > 0 or self.gradient_noise > 0 or self.input_dropout > 0
        return dropouts or self.penalty is not None or self.share != 1

    @property
    def _moves(self) -> bool:
        return self.away is not None and self.away.moves

    def dense(self) -> Dense | None:
        if self._varies or self.checkpoint or self.accumulate > 1 or self._moves:
            return None
        return written_out(self.blocks, self.decision, self.objective, lambda place, error, delta, above: delta @ above)

    def stack_key(self, epoch: int) -> Hashable | None:
        by_itself = self._varies or self.yields or self.checkpoint or self.accumulate > 1 or self._moves
        if by_itself or self._compiled or self.hardware.precision == "bf16":
            return None
        form = stack_form(self.blocks, self.decision)
        return None if form is None else (form, self.objective)

    def _tapped(self, head: Tapping, x: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """The same where the head looks at several blocks, under the loss alone."""
        assert not self._varies
        maps = tapped(head, self.activations(x))
        logits, y = of_drawn(head, maps, batch.y)
        loss = self.objective.loss(at_least_float32(logits), y)
        put_out = maps[-1].detach() if self.yields else x.new_empty(0)
        return reduce_loss(loss, batch.sample_weight, batch.scale), batch.passed_on(put_out, loss.detach())

    def check(self, outputs: Tensor, wanted: int) -> None:
        if isinstance(self.decision, Tapping):  # which its architecture made for the problem, and of several blocks
            return
        check_outputs(self.decision, outputs, wanted)

    def predictor(self, chain: BlockChain) -> BlockChain:
        return chain.with_head(self.decision)


def check_outputs(decision: nn.Module, outputs: Tensor, wanted: int) -> None:
    """Raise a ConfigError where a head or decision block does not make so many outputs of what its blocks put out."""
    restore, name = switch_mode(decision, False), type(decision).__name__
    with torch.no_grad():
        found = tuple(tried(f"the head or decision block {name}", decision, outputs, "what comes out of the blocks").shape)
    restore()
    if found != (len(outputs), wanted):
        shape = ", ".join(["N", *map(str, found[1:])])
        flat = ", before which nn.Flatten() makes one row of each sample" if len(found) > 2 else ""
        raise ConfigError(
            f"the head or decision block {name} gives outputs of the shape [{shape}], the problem "
            f"needs [N, {wanted}]: let it end with a layer of {wanted}{flat}"
        )
