"""What closed-form methods share: layers found bottom-up by algebra, each on the features below, and a linear head."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.linear import linear_layers
from effdl.datasets.problem import Facts, Problem
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.objectives.objective import Objective, decide
from effdl.setting import Switch, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.least_squares import Fit, Pinv, Solver

DTYPES = {"float32": torch.float32, "float64": torch.float64}
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Features:
    """What a layer gets: z (m, n), y (m, k) the coded targets; fit: least squares on z, worked out once for all targets.

    biased: the first column of z is of ones.
    """

    z: Tensor
    y: Tensor
    fit: Fit
    biased: bool

    @cached_property
    def decision(self) -> Tensor:
        """Z⁺Y (n, k): the linear layer that comes closest to the targets."""
        return self.fit(self.y)

    @cached_property
    def errors(self) -> Tensor:
        """(m,) squared errors ‖y_j − ŷ_j‖² of the decision."""
        return (self.y - self.z @ self.decision).square().sum(1)

    @cached_property
    def distance(self) -> float:
        """The least squares distance (1/m)‖Y − ZZ⁺Y‖²_F (eq. 5.3)."""
        return self.errors.double().mean().item()

    @property
    def plain(self) -> Tensor:
        """z without its column of ones."""
        return self.z[:, 1:] if self.biased else self.z


@setting
class ClosedForm(Method):
    """A method that finds each layer by algebra on all training samples at once, in memory.

    solver: of the least squares problems. bias: a column of ones beside the features, as in figure 7.3; where the solver
    penalises weights, it penalises biases too. precision: of data, weights and algebra.
    """

    takes_optimizer: ClassVar[bool] = False
    fits_least_squares: ClassVar[bool] = True

    solver: Solver = Pinv()
    bias: Switch = True
    precision: Literal["float32", "float64"] = "float32"

    @abstractmethod
    def candidates(self, layer: int, below: Features, width: int, memory: Memory, run: RunHandle) -> Iterator[Tensor]:
        """Weights (n, width) for a layer on the features below, the row of the bias first where there is one.

        Of several the one on whose outputs the targets are closest (`Features.distance`) is taken, the earlier of equals.
        memory: what a rule keeps from one layer to the next.
        """

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        name = type(self).__name__
        if arch.linear is None:
            raise ConfigError(f"arch: {name} fits linear layers alone, take arch=mlp")
        if hardware.precision != "float32" or hardware.compile:
            raise ConfigError(f"hardware: {name} takes precision=float32 without compile; method.precision=float64 is finer")

    @torch.no_grad()
    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        network = self.network(model, None, problem.objective, {})
        layers, data = linear_layers(network), problem.train_tensors()
        between = [layer.before for layer in layers[1:]] + [nn.Sequential()]
        z = layers[0].before(network.input(data.x))
        y = problem.objective.coded(data.y, z.new_empty(0, problem.outputs))
        assert y is not None, "checked by fits_least_squares"
        below, labels = self._features(z, y), data.y
        del z, data
        memory: Memory = {}
        for i, layer in enumerate(run.watch(layers, len(layers), "fitting layers")):
            best: tuple[Tensor, Features] | None = None
            for w in self.candidates(i, below, layer.linear.out_features, memory, run):
                made = self._features(between[i](layer.after(below.z @ w)), below.y)
                if best is None or made.distance < best[1].distance:
                    best = w, made
            assert best is not None, "a layer has at least one candidate"
            self._write(layer.linear, best[0])
            below = best[1]
            run.record(i, 0, train_lsd=below.distance)
        self._write(network.head, below.decision)
        self._note(below, labels, run)
        return network

    def network(
        self, model: BlockChain, problem: Facts | None, objective: Objective, notes: Mapping[str, object]
    ) -> BlockChain:
        return model.to(DTYPES[self.precision]).eval()

    def _features(self, z: Tensor, y: Tensor) -> Features:
        z = torch.cat([z.new_ones(len(z), 1), z], 1) if self.bias else z
        return Features(z, y, self.solver.factorise(z), self.bias)

    def _write(self, linear: nn.Module, w: Tensor) -> None:
        """Weights (n, width) into a linear layer, the first row as its bias."""
        assert isinstance(linear, nn.Linear)
        linear.weight.copy_((w[1:] if self.bias else w).T)
        if linear.bias is not None:
            linear.bias.copy_(w[0] if self.bias else torch.zeros_like(linear.bias))

    def _note(self, top: Features, labels: Tensor, run: RunHandle) -> None:
        """Training numbers of the whole network: the mean squared error an output, and for classes the accuracy."""
        run.note(train_mse=top.distance / top.y.shape[1])
        if not labels.is_floating_point():
            run.note(train_acc=(decide(top.z @ top.decision) == labels).double().mean().item())
