"""Weights of a network so small that it can be drawn, and the feedback in their place (Demirbilek, figures 1.1 and 1.2)."""

import math
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.probes.probe import Probe
from effdl.setting import setting
from effdl.training.look import Look

MOST = 4096  # entries of a matrix


@setting
class Weights(Probe):
    """Each row of each layer's matrix, point by point: ``linear1/0`` has what comes into the first unit of block linear1, a
    number an input, and ``linear1/bias`` what is added to all units, where there are biases; before the first epoch too.

    ``feedback/<layer>/<output>``: rows of what the rule's backward pass takes in the place of weights, see `Rule.stand_ins`.
    """

    begins: ClassVar[bool] = True

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        if not arch.linear:
            raise ConfigError("probe=weights: is of networks of linear layers; take arch=mlp, or leave the probe out")
        widths = (math.prod(problem.input_shape), *arch.linear, problem.outputs)
        if (largest := max(a * b for a, b in pairwise(widths))) > MOST:
            raise ConfigError(
                f"probe=weights: a layer of {largest:,} weights is more than can be drawn, {MOST:,}; a smaller arch.hidden, or "
                "leave the probe out"
            )

    def measure(self, look: Look) -> dict[str, list[float]]:
        if (learning := look.learning) is None:
            return {}
        layers: dict[str, nn.Module] = dict(look.blocks.named_children())
        if isinstance(learning.local, BlockChain):
            layers["head"] = learning.local.head
        found: dict[str, list[float]] = {}
        for name, layer in layers.items():
            for part in layer.modules():
                own = dict(part.named_parameters(recurse=False))
                for matrix in (weight for weight in own.values() if weight.dim() == 2):
                    found |= rows(name, matrix) | ({f"{name}/bias": own["bias"].tolist()} if "bias" in own else {})
        for name, (feedback, _) in learning.rule.stand_ins().items():
            if feedback.dim() == 2:
                found |= rows(f"feedback/{name}", feedback)
        return found


def rows(name: str, matrix: Tensor) -> dict[str, list[float]]:
    """Of a matrix, each under the matrix's name and its own number."""
    return {f"{name}/{i}": row.tolist() for i, row in enumerate(matrix.detach())}
