"""The tangent kernel's regime by a network of finite width: gated linear units with frozen gates (Demirbilek §1.3.1)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.linear import LinearLayer, linear_layers
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.methods.lazy import Lazy, check_linear, like
from effdl.objectives.objective import Objective
from effdl.setting import setting
from effdl.training.hardware import Hardware

Gate = Literal["relu", "sigmoid"]


def gates(a: Tensor, gate: Gate) -> Tensor:
    """What is let through of each unit, by inputs a (B, width) of frozen ones: ReLU's derivative 1[a > 0], or σ(a)."""
    return (a > 0).to(a.dtype) if gate == "relu" else a.sigmoid()


@setting
class Ntk(Lazy):
    """h_l = g_l ⊙ (W_l h_{l−1} + b_l): the W, b and the head learn, the gates g are functions of x alone, and stay.

    A ReLU network is that, h = 1[Wx > 0] ⊙ Wx, with gates that move with W. With frozen ones it is linear in each layer's
    weights, as a network is in the tangent kernel's regime, where weights hardly move (§1.3; Daniely and Malach 2020). All
    layers' gates are those of a frozen ReLU network beside it.

    gate: "relu", 1[a > 0], as §1.3.1 says ("we decoupled the gating from the linearity of the ReLU"); the author's program has
        "sigmoid", σ(a), as torch's gated linear unit (method=ntk_sigmoid).
    gate_weights: of the network that gates. "drawn": an untrained copy of the layers, as the text says, drawn as torch draws
        layers, U(±1/√fan_in). "initial": the very weights that training starts from; with gate=relu outputs and their
        derivatives by weights are then those of the ReLU network at the start, and so is the empirical tangent kernel.
    """

    gate: Gate = "relu"
    gate_weights: Literal["drawn", "initial"] = "drawn"

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        check_linear(type(self).__name__, arch)

    def chain(self, model: BlockChain) -> BlockChain:
        """Two blocks: one of the gates, beside which it passes x on, and one of all linear layers, which learns."""
        layers = linear_layers(model)
        for name, layer in zip(model.names, layers, strict=True):
            _check_gated(name, layer)
        linear = [layer.linear for layer in layers]
        blocks = {
            "gates": Gates([self._frozen(layer) for layer in linear], self.gate),
            "linear": GatedLayers(linear),
        }
        return BlockChain(blocks, model.head, model.input)

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> BlockChain:
        return self.chain(model)

    def _frozen(self, layer: nn.Linear) -> nn.Linear:
        if self.gate_weights == "initial":
            return like(layer, layer)
        return like(layer, nn.Linear(layer.in_features, layer.out_features, layer.bias is not None))


class Gates(nn.Module):
    """x (B, ...) -> x and the gates of all layers side by side, (B, features + widths), by a ReLU network of these layers."""

    stacks = True

    def __init__(self, layers: Sequence[nn.Linear], gate: Gate) -> None:
        super().__init__()
        self.layers, self.gate = nn.ModuleList(layers), gate

    def forward(self, x: Tensor) -> Tensor:
        z = x = x.flatten(1)
        found = [x]
        for i, layer in enumerate(self.layers):
            a = layer(z if i == 0 else z.relu())
            found.append(gates(a, self.gate))
            z = a
        return torch.cat(found, 1)


class GatedLayers(nn.Module):
    """What `Gates` puts out -> the last layer's h (B, width)."""

    stacks = True

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor
        h, *found = z.split(self.sizes, 1)
        for layer, gate in zip(self.layers, found, strict=True):
            h = gate * layer(h)
        return h


def _check_gated(name: str, layer: LinearLayer) -> None:
    behind = [type(module).__name__ for module in layer.after]
    if behind != ["ReLU"]:
        raise ConfigError(
            f"arch: block {name} has {', '.join(behind) or 'nothing'} behind its linear layer, and gates take the place of a "
            "ReLU: arch.activation=relu"
        )
