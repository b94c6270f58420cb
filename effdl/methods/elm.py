"""Extreme learning machines: hidden weights are drawn and stay, the output layer is solved; samples may come in parts."""

import torch
from torch import Tensor

from effdl.archs.chain import BlockChain
from effdl.archs.linear import linear_layers
from effdl.errors import ConfigError
from effdl.least_squares.normal_equations import Sums, summed
from effdl.least_squares.solvers import Ridge
from effdl.methods.closed_form import DTYPES, Carried, ClosedForm, Slot, normal
from effdl.methods.features import Fitted
from effdl.setting import setting
from effdl.training.handle import RunHandle


@setting
class Elm(ClosedForm):
    """Hidden weights and biases are drawn from N(0, 1), the output layer is Z⁺Y (Huang et al. 2004; "random W" of table 7.2).

    Hidden layers depend on no data, so that sums over samples say all that the output layer needs: `drawn`, then `sums` of
    each part of the data, added up, then `solve`, are what `fit` makes of all at once, to rounding.
    """

    @property
    def draws(self) -> tuple[str, ...]:
        return ("hidden weights",)

    def layer(self, slot: Slot, carried: Carried, run: RunHandle) -> Fitted:
        design = slot.below.design
        return slot.fitted(normal(design.features, slot.width, run.seed("weights", slot.index), design.like))

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
        parts = zip(x.split(self.chunk), y.split(self.chunk), strict=True)
        rows = ((self._with_ones(network.blocks(network.input(some))), targets) for some, targets in parts)
        coded = ((z, targets.to(z.dtype)) for z, targets in rows)
        assert isinstance(network.head, torch.nn.Linear)
        return summed(coded, network.head.in_features + self.bias, y.shape[1])

    @torch.no_grad()
    def solve(self, network: BlockChain, sums: Sums) -> None:
        """Write the output layer. Raises ConfigError where the solver needs the features themselves, and FitFailed."""
        if not isinstance(self.solver, Ridge):
            raise ConfigError("method/solver: sums over samples are solved by ridge alone")
        self._write(network.head, self.solver.decision(sums))
