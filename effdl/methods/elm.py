"""Extreme learning machines: hidden weights are drawn and stay, the output layer is solved; samples may come in parts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from effdl.archs.chain import BlockChain
from effdl.archs.linear import linear_layers
from effdl.errors import ConfigError
from effdl.methods.closed_form import DTYPES, ClosedForm, Features, Memory
from effdl.setting import setting
from effdl.training.handle import RunHandle
from effdl.training.least_squares import Ridge, gram

CHUNK = 4096  # samples whose features are in memory at once


@dataclass(frozen=True)
class Sums:
    """What the output layer needs of all samples so far, on features Z with a column of ones and coded targets Y.

    gram: ZᵀZ (n, n), its upper triangle, with something else below. product: ZᵀY (n, k).
    """

    gram: Tensor
    product: Tensor

    def __add__(self, other: Self) -> "Sums":
        return Sums(self.gram + other.gram, self.product + other.product)


@setting
class Elm(ClosedForm):
    """Hidden weights and biases are drawn from N(0, 1), the output layer is Z⁺Y (Huang, Zhu and Siew 2006, ours beside §7).

    Hidden layers depend on no data, so that sums over samples say all that the output layer needs: `drawn`, then `sums` of
    each part of the data, added up, then `solve`, are what `fit` makes of all at once, to rounding.
    """

    def candidates(self, layer: int, below: Features, width: int, memory: Memory, run: RunHandle) -> Iterator[Tensor]:
        yield normal(below.z.shape[1], width, run.seed("weights", layer), below.z)

    @torch.no_grad()
    def drawn(self, model: BlockChain, run: RunHandle) -> BlockChain:
        """The network that `fit` returns, but for its head, from no data."""
        network = model.to(DTYPES[self.precision]).eval()
        for i, layer in enumerate(linear_layers(network)):
            rows = layer.linear.in_features + self.bias
            self._write(layer.linear, normal(rows, layer.linear.out_features, run.seed("weights", i), layer.linear.weight))
        return network

    @torch.no_grad()
    def sums(self, network: BlockChain, x: Tensor, y: Tensor) -> Sums:
        """Over samples x (m, *input) with coded targets y (m, k)."""
        total: Sums | None = None
        for rows, targets in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            z = network.blocks(network.input(rows))
            z = torch.cat([z.new_ones(len(z), 1), z], 1) if self.bias else z
            part = Sums(gram(z, CHUNK), z.T @ targets.to(z.dtype))
            total = part if total is None else total + part
        assert total is not None, "there is at least one sample"
        return total

    @torch.no_grad()
    def solve(self, network: BlockChain, sums: Sums) -> None:
        """Write the output layer. Raises ConfigError where the solver needs the features themselves, and FitFailed."""
        if not isinstance(self.solver, Ridge):
            raise ConfigError("method/solver: sums over samples are solved by ridge alone")
        self._write(network.head, self.solver.of_gram(sums.gram)(sums.product))


def normal(rows: int, width: int, seed: int, like: Tensor) -> Tensor:
    """(rows, width) drawn from N(0, 1), the same on every device."""
    draw = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)
    return draw.to(like.device)
