"""What closed-form methods share: layers found bottom-up by algebra, each on the features below, and a linear head."""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.linear import LinearLayer, linear_layers
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.least_squares.design import Design, Rows
from effdl.least_squares.solvers import Pinv, Solver
from effdl.methods.features import Features, Fitted
from effdl.methods.method import Method
from effdl.objectives.objective import Objective, kind_of
from effdl.setting import Count, NonNegative, Switch, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware

DTYPES = {"float32": torch.float32, "float64": torch.float64}
Carried = dict[str, Tensor]


@dataclass(frozen=True)
class Slot:
    """Where weights are wanted.

    index: the layer's, from 0. width: its units. above: weights (n, width), the row of the bias first where there is one ->
    what they and the activation make of the features below. start: the weights that the layer has until then.
    """

    index: int
    below: Features
    width: int
    above: Callable[[Tensor], Features]
    start: Callable[[], Tensor]

    def fitted(self, w: Tensor) -> Fitted:
        return w, self.above(w)


@setting
class ClosedForm(Method):
    """A method that finds each layer by algebra on all training samples.

    solver: of the least squares problems. bias: a column of ones beside the features, as in figure 7.3; where the solver
    penalises weights, it penalises biases too. precision: of data, weights and algebra.
    chunk: samples that are gone through at once. keep_features_mib: a layer's features stay in memory where they fit this
    bound; else each pass through the samples makes them anew out of the layers below, which ``solver=ridge`` alone can do.
    """

    takes: ClassVar[frozenset[str]] = frozenset()
    fits_least_squares: ClassVar[bool] = True
    saves_memory: ClassVar[str] = "method/solver=ridge with a smaller method.keep_features_mib, or narrower layers"

    solver: Solver = Pinv()
    bias: Switch = True
    precision: Literal["float32", "float64"] = "float32"
    chunk: Count = 4096
    keep_features_mib: NonNegative = 4096.0

    @property
    def draws(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def layer(self, slot: Slot, carried: Carried, run: RunHandle) -> Fitted:
        """A layer's weights and features. carried: what a rule keeps from one layer to the next."""

    def found(self, units: int) -> int:
        """How many units are found for a layer of so many."""
        return units

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        name = type(self).__name__
        if not arch.linear:
            raise ConfigError(f"arch: {name} fits linear layers alone, take arch=mlp")
        if not arch.biases:
            raise ConfigError(f"arch.bias: {name} writes a column of ones into the biases; leave them in")
        if hardware.precision != "float32" or hardware.compile:
            raise ConfigError(f"hardware: {name} takes precision=float32 without compile; method.precision=float64 is finer")
        self._check_memory(problem, arch.linear, hardware)

    def _check_memory(self, problem: Facts, widths: Sequence[int], hardware: Hardware) -> None:
        """Raise a ConfigError where features or square matrices of layers of these widths are more than may lie in memory."""
        widest = max(math.prod(problem.input_shape), *map(self.found, widths)) + self.bias
        if not self.solver.by_rows and not self._fits(problem.train, widest):
            raise ConfigError(
                f"method.keep_features_mib: two layers of {problem.train:,} samples of {widest:,} features take "
                f"{2 * self._bytes(problem.train, widest) / 2**20:,.0f} MiB, and {type(self.solver).__name__} needs a layer's "
                "at once; raise it, or take method/solver=ridge, which goes through them in chunks"
            )
        taken = self.solver.memory(problem.train, widest, DTYPES[self.precision].itemsize)
        if taken and taken > (there := hardware.memory()):
            raise ConfigError(
                f"arch.hidden: square matrices of {widest:,} features and {problem.train:,} samples take "
                f"{taken / 2**30:,.1f} GiB in {type(self.solver).__name__}, of {there / 2**30:,.1f} GiB on this machine; "
                "narrow the layers"
            )

    @torch.no_grad()
    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        """The layers from the bottom up. ``time/fit_cpu_s`` is what they and their distances took of the CPU, and what shows
        and records them; without the data and what is measured of the whole network."""
        network = self.network(model, problem.facts, problem.objective, {})
        layers, data = linear_layers(network), problem.train_tensors()
        between = [layer.before for layer in layers[1:]] + [nn.Sequential()]
        below = self._inputs(nn.Sequential(network.input, layers[0].before), data, problem)
        carried: Carried = {}
        lowest, started = math.inf, time.process_time()
        for i, layer in enumerate(run.watch(layers, len(layers), "fitting layers")):
            w, above = self.layer(self._slot(i, layer, below, between[i]), carried, run)
            if i:  # not before: a solver may work its decision out beside the layer above
                run.record(i - 1, 0, {"train/lsd": below.distance})
                lowest = min(lowest, below.distance)
            self._write(layer.linear, w)
            below = above
        self._write(network.head, below.fit.decision)
        run.note({"time/fit_cpu_s": time.process_time() - started})
        run.record(len(layers) - 1, 0, {"train/lsd": below.distance})
        run.note({"train/lowest_lsd": min(lowest, below.distance)})  # of all layers: figure 7.6
        self._note(below, data.y, problem.objective, run)
        return network

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, object]) -> BlockChain:
        return model.to(DTYPES[self.precision]).eval()

    def _inputs(self, before: nn.Module, data: Samples, problem: Problem) -> Features:
        """The first layer's: inputs as the network's input block makes them, targets as the objective codes them."""
        like = torch.empty(0, problem.outputs, dtype=DTYPES[self.precision], device=data.y.device)

        def rows() -> Iterator[Rows]:
            for x, y in zip(data.x.split(self.chunk), data.y.split(self.chunk), strict=True):
                coded = problem.objective.coded(y, like)
                assert coded is not None, "checked by fits_least_squares"
                yield self._with_ones(before(x)), coded

        width = math.prod(problem.input_shape) + self.bias
        design = Design(rows, len(data), width, problem.outputs, like)
        return self._features(design.kept() if self._fits(len(data), width) else design)

    def _slot(self, index: int, layer: LinearLayer, below: Features, between: nn.Module) -> Slot:
        change = nn.Sequential(layer.after, between)

        def above(w: Tensor) -> Features:
            width = w.shape[1] + self.bias
            hold = self._fits(below.design.samples, width)
            return self._features(below.design.changed(lambda z: self._with_ones(change(z @ w)), width, hold))

        return Slot(index, below, layer.linear.out_features, above, lambda: self._read(layer.linear))

    def _features(self, design: Design) -> Features:
        return Features(design, self.solver, self.bias)

    def _with_ones(self, z: Tensor) -> Tensor:
        return torch.cat([z.new_ones(len(z), 1), z], 1) if self.bias else z

    def _bytes(self, samples: int, width: int) -> int:
        return samples * width * DTYPES[self.precision].itemsize

    def _fits(self, samples: int, width: int) -> bool:
        """Whether two layers of that width may lie in memory."""
        return 2 * self._bytes(samples, width) <= self.keep_features_mib * 2**20

    def _write(self, linear: nn.Module, w: Tensor) -> None:
        """Weights (n, width) into a linear layer, the first row as its bias."""
        assert isinstance(linear, nn.Linear)
        linear.weight.copy_((w[1:] if self.bias else w).T)
        if linear.bias is not None:
            linear.bias.copy_(w[0] if self.bias else torch.zeros_like(linear.bias))

    def _read(self, linear: nn.Linear) -> Tensor:
        """The weights (n, width) of a linear layer, its bias as the first row."""
        return torch.cat([linear.bias[None], linear.weight.T]) if self.bias else linear.weight.T.clone()

    def _note(self, top: Features, labels: Tensor, objective: Objective, run: RunHandle) -> None:
        """Training numbers of the whole network: the mean squared error an output, and for classes the accuracy."""
        run.note({"train/mse": top.distance / top.design.targets})
        if kind_of(labels) == "classes":
            decided = torch.cat([objective.decide(z @ top.fit.decision) for z, _ in top.design.rows()])
            run.note({"train/acc": (decided == labels).double().mean().item()})


def normal(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """(rows, columns) from N(0, 1), in the dtype and on the device of another tensor."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=like.dtype).to(like.device)
