"""Alignment: how near a rule's feedback is to the weights in whose place it stands, and its updates to the true gradient."""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError
from effdl.objectives.objective import at_least_float32
from effdl.probes.probe import Probe
from effdl.setting import setting
from effdl.training.look import Learning, Look
from effdl.training.loop import reduce_loss


@setting
class Alignment(Probe):
    """Of each layer by its name, on the same batch of training samples at each look, before the first epoch too:

    ``weights/<layer>``: the cosine of its feedback matrix with the forward weights (figure 3.2: of B with w₂ᵀ), under several
    linear layers with the product of their weights, see `Rule.stand_ins`; of rules that have feedback of their own.
    ``angle/<block>``: in degrees between the rule's update and the gradient of the loss of the whole network, by automatic
    differentiation; below 90 a small step descends. ``norm/<block>``, ``true_norm/<block>``: the lengths of these two.
    ``angle/all``: of all weights, the head's too.

    Networks are in evaluation mode: normalisation by its running statistics, no dropout.
    """

    begins: ClassVar[bool] = True

    def measure(self, look: Look) -> dict[str, float]:
        if (learning := look.learning) is None:
            return {}
        if (rule := learning.rule).prepares:
            raise ConfigError(
                f"probe=alignment: the rule {type(rule).__name__} makes batches of its own, for which there is no gradient to "
                "compare its updates with; leave the probe out"
            )
        found = {f"weights/{name}": cosine(feedback, weight) for name, (feedback, weight) in rule.stand_ins().items()}
        weights = [p for p in rule.parameters() if p.requires_grad]
        with torch.enable_grad():
            batch = learning.sample()
            update = dict(zip(weights, _update(learning, batch, weights), strict=True))
            truth = dict(zip(weights, _gradient(learning, batch, weights), strict=True))
        for name, block in rule.blocks.named_children():
            own = [p for p in block.parameters() if p in update]
            ours, true = _flat(update[p] for p in own), _flat(truth[p] for p in own)
            found |= {f"angle/{name}": angle(ours, true), f"norm/{name}": float(ours.norm())}
            found[f"true_norm/{name}"] = float(true.norm())
        found["angle/all"] = angle(_flat(update.values()), _flat(truth.values()))
        return found


def cosine(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩ / (‖a‖ ‖b‖) over all entries of two tensors of one shape, in float64; not a number where one is 0."""
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    return float((a @ b) / (a.norm() * b.norm()))


def angle(a: Tensor, b: Tensor) -> float:
    """Between two tensors of one shape, in degrees, from 0 to 180: 2 atan2(‖u − v‖, ‖u + v‖) of the two at length one.

    The arc cosine would make 1e-6 degrees of what is none.
    """
    u, v = (t.detach().double().flatten() / t.detach().double().norm() for t in (a, b))
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))


def _update(learning: Learning, batch: Batch, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """What the rule leaves in ``.grad``; nothing stays there."""
    learning.rule.learn(batch, learning.epoch)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
    for p in weights:
        p.grad = None
    return found


def _gradient(learning: Learning, batch: Batch, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """Of the mean loss of the network that the rule trains."""
    rule = learning.rule
    network = rule.predictor(BlockChain(dict(rule.blocks.named_children()), nn.Identity()))
    with rule.hardware.autocast():
        loss = learning.objective.loss(at_least_float32(network(batch.x)), batch.y)
    found = torch.autograd.grad(reduce_loss(loss, batch.sample_weight), weights, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(weights, found, strict=True)]


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])
