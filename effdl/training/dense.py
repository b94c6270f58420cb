"""A step through linear layers and activations written out: no graph but the loss's, and products in the place of gradients.

scripts/bench_feedback.py measures such steps beside autograd's, and beside the products that no step can do without.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.classifier import Classifier
from effdl.archs.linear import linear_layer
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective, at_least_float32
from effdl.training.loop import reduce_loss
from effdl.training.products import Product

aten = torch.ops.aten


class Activation(NamedTuple):
    """made: h = f(a), which may overwrite a. slope: (δ, h) -> δ ⊙ f′(a), from what was put out alone."""

    made: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS: Mapping[type[nn.Module], Activation] = {
    nn.ReLU: Activation(torch.relu_, lambda delta, h: aten.threshold_backward(delta, h, 0)),
    nn.Tanh: Activation(torch.tanh_, lambda delta, h: aten.tanh_backward(delta, h)),
    nn.Sigmoid: Activation(torch.sigmoid_, lambda delta, h: aten.sigmoid_backward(delta, h)),
    nn.Identity: Activation(lambda a: a, lambda delta, h: delta),
}


# (a block's place, the error e (B, K) of the logits, δ (B, its width) of the layer above before the activation, that layer's
# weights) -> δ of what the block puts out
Back = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Dense:
    """Blocks h ← f(W h + b) under a linear head; what goes back to a block's output is the rule's to say.

    back: see `Back`. activations: of each block.
    """

    layers: Sequence[nn.Linear]
    activations: Sequence[Activation]
    head: nn.Linear
    objective: Objective
    back: Back

    def learn(self, batch: Batch, waiting: dict[Tensor, list[Product]], yields: bool) -> Batch:
        """As `Rule.learn`, but gradients of weights are left as products, ``waiting`` by weight."""
        inputs = [batch.x.detach().flatten(1)]
        with torch.no_grad():
            for layer, active in zip(self.layers, self.activations, strict=True):
                inputs.append(active.made(F.linear(inputs[-1], layer.weight, layer.bias)))
            logits = F.linear(inputs[-1], self.head.weight, self.head.bias)
        loss = self.objective.loss(at_least_float32(logits.requires_grad_()), batch.y)
        reduce_loss(loss, batch.sample_weight, batch.scale).backward()
        assert logits.grad is not None
        with torch.no_grad():
            delta = error = logits.grad
            above = self.head
            _leave(above, delta, inputs[-1], waiting)
            for place in range(len(self.layers) - 1, -1, -1):
                back = self.back(place, error, delta, above.weight)
                delta, above = self.activations[place].slope(back, inputs[place + 1]), self.layers[place]
                _leave(above, delta, inputs[place], waiting)
        put_out = inputs[-1] if yields else delta.new_empty(0)
        return batch.passed_on(put_out, loss.detach())


def _leave(layer: nn.Linear, delta: Tensor, x: Tensor, waiting: dict[Tensor, list[Product]]) -> None:
    """∂L/∂W = δᵀ x, as a product, and ∂L/∂b = Σ δ."""
    waiting.setdefault(layer.weight, []).append((delta, x))
    if layer.bias is not None:
        layer.bias.grad = delta.sum(0)


def written_out(blocks: nn.Sequential, head: nn.Module, objective: Objective, back: Back) -> Dense | None:
    """The step of a rule whose blocks are linear layers, all of which learn, each with an activation of `ACTIVATIONS` behind it
    or none, under a head or decision block of one linear layer; None for others, and where somebody listens to modules."""
    if not blocks or (last := _only_layer(head)) is None or not _is_plain(blocks, head):
        return None
    layers, activations = list[nn.Linear](), list[Activation]()
    for name, block in blocks.named_children():
        try:
            layer = linear_layer(name, block)
        except ConfigError:
            return None
        behind = [part for part in layer.after if type(part) is not nn.Identity] or [nn.Identity()]
        if any(type(part) not in (nn.Flatten, nn.Identity) for part in layer.before) or len(behind) > 1:
            return None
        if type(layer.linear) is not nn.Linear or (active := ACTIVATIONS.get(type(behind[0]))) is None:
            return None
        layers.append(layer.linear)
        activations.append(active)
    return Dense(layers, activations, last, objective, back)


def _only_layer(head: nn.Module) -> nn.Linear | None:
    """The linear layer that is all that a head does; None where it does more, as to maps and tokens."""
    if type(head) is Classifier and head.flat and len(head.layers) == 1:
        head = head.layers[0]
    return head if type(head) is nn.Linear else None


def _is_plain(*modules: nn.Module) -> bool:
    """Whether all their parameters learn, each in one place, and nobody hooked into a part."""
    parts = [part for module in modules for part in module.modules()]
    weights = [p for part in parts for p in part._parameters.values() if p is not None]
    hooked = any(getattr(part, name) for part in parts for name in HOOKS) or any("forward" in vars(part) for part in parts)
    return not hooked and all(p.requires_grad for p in weights) and len(weights) == len(set(map(id, weights)))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
