"""Only the head learns, on features that are given or drawn: random features, and the control for what blocks learn."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.linear import LinearLayer, linear_layers
from effdl.archs.mlp import ACTIVATIONS
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.lazy import Lazy, check_linear, like
from effdl.objectives.objective import Objective
from effdl.setting import setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware


@setting
class Shallow(Lazy):
    """Train the head alone; the blocks of any network stay as they were drawn, or as arch.weights gives them.

    Normalisation among them takes the statistics that it begins with. The two fields below are of linear layers alone.

    weights: of hidden layers. "initial" leaves them; "gaussian" draws them from N(0, s²), s = √(6 / (fan_in + fan_out)), with
        zero biases; in the author's program s is √(6 / (784k + 512)), which we take for a standard deviation.
    activation: what stands behind hidden layers. "own" leaves it; "relu", and "identity" for linear features, are put in the
        place of what the network has (§1.3.2).
    """

    weights: Literal["initial", "gaussian"] = "initial"
    activation: Literal["own", "relu", "identity"] = "own"

    @property
    def _as_given(self) -> bool:
        return self.weights == "initial" and self.activation == "own"

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        if not self._as_given:
            check_linear(type(self).__name__, arch)

    def chain(self, model: BlockChain) -> BlockChain:
        """The network with its head as the last block, which alone learns."""
        if next(model.head.parameters(), None) is None:
            raise ConfigError(
                f"arch: the head ({type(model.head).__name__}) has no weights, and nothing else would learn; take a network "
                "with a linear head, such as arch=mlp"
            )
        made = self._featured(model)
        blocks = dict(made.blocks.named_children())
        return BlockChain({**blocks, _another("head", blocks): made.head}, nn.Identity(), made.input)

    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        """The network with its head where it was."""
        trained = super().fit(problem, model, run)
        assert isinstance(trained, BlockChain)
        *blocks, (_, head) = trained.blocks.named_children()
        return BlockChain(dict(blocks), head, trained.input).eval()

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> BlockChain:
        return self._featured(model)

    def _featured(self, model: BlockChain) -> BlockChain:
        """The network with features as asked for. Raises ConfigError for a block that is no linear layer with an activation."""
        if self._as_given:
            return model
        named = zip(model.blocks.named_children(), linear_layers(model), strict=True)
        blocks = {name: self._changed(name, block, layer) for (name, block), layer in named}
        return BlockChain(blocks, model.head, model.input)

    def _changed(self, name: str, block: nn.Module, layer: LinearLayer) -> nn.Module:
        """A block of the same form, whose parts have the same names."""
        changes: dict[nn.Module, nn.Module] = {}
        if self.weights == "gaussian":
            changes[layer.linear] = like(layer.linear, gaussian(layer.linear))
        if self.activation == "own":
            return _with(block, changes)
        if len(layer.after) > 1:
            raise ConfigError(
                f"arch: block {name} has more than an activation behind its linear layer "
                f"({', '.join(type(module).__name__ for module in layer.after)}), of which "
                f"method.activation={self.activation} could replace any; method.activation=own leaves them"
            )
        active = ACTIVATIONS[self.activation]()
        if not len(layer.after):
            return nn.Sequential(_with(block, changes), active)
        return _with(block, {**changes, layer.after[0]: active})


def _with(module: nn.Module, changes: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Nested sequences with these parts in the place of those; all others are the same objects."""
    if isinstance(module, nn.Sequential):
        return nn.Sequential(
            OrderedDict((name, _with(part, changes)) for name, part in module._modules.items() if part is not None)
        )
    return changes.get(module, module)


@torch.no_grad()
def gaussian(layer: nn.Linear) -> nn.Linear:
    """A layer of the same form, on the CPU, of weights N(0, 6 / (fan_in + fan_out)) and zero biases."""
    made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    nn.init.normal_(made.weight, std=math.sqrt(6 / (layer.in_features + layer.out_features)))
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def _another(name: str, names: Mapping[str, Any]) -> str:
    """The name, or one like it that is none of these."""
    return name if name not in names else _another(f"{name}_", names)
