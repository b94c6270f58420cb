"""What closed-form methods share: layers found bottom-up by algebra, each on the features below, and a linear head."""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.linear import LinearLayer, linear_layers
from effdl.datasets.problem import Facts, Problem, Samples
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.objectives.objective import Objective, decide
from effdl.setting import Count, NonNegative, Switch, setting
from effdl.training.design import Design, Rows
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.least_squares import Fit, Pinv, Solver

DTYPES = {"float32": torch.float32, "float64": torch.float64}
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Features:
    """What a layer gets: Z (m, n) and coded targets Y (m, k), gone through by rows, and least squares on them.

    biased: the first column of Z is of ones.
    """

    design: Design
    solver: Solver
    biased: bool

    @cached_property
    def fit(self) -> Fit:
        """Worked out when it is first asked for: rules without targets never do."""
        return self.solver.factorise(self.design)

    @cached_property
    def errors(self) -> Tensor:
        """(m,) squared errors ‖y_j − ŷ_j‖² of the linear layer that comes closest to the targets."""
        decision = self.fit.decision
        return torch.cat([(y - z @ decision).square().sum(1) for z, y in self.design.rows()])

    @cached_property
    def distance(self) -> float:
        """The least squares distance (1/m)‖Y − ZZ⁺Y‖²_F (eq. 5.3)."""
        return self.errors.double().mean().item()

    @property
    def width(self) -> int:
        """Features without the column of ones."""
        return self.design.features - self.biased

    def plain(self, z: Tensor) -> Tensor:
        """Rows of Z without the column of ones."""
        return z[:, 1:] if self.biased else z

    def unbiased(self, w: Tensor) -> Tensor:
        """Weights (width, t) as weights (n, t), their bias 0."""
        return torch.cat([w.new_zeros(1, w.shape[1]), w]) if self.biased else w

    @property
    def least(self) -> float:
        """What the distance is at least."""
        return 0.0

    def judged(self) -> "Features":
        """As one of several to choose from; solvers that sum over rows judge as they fit."""
        return self if self.solver.by_rows else Judged(self.design, self.solver, self.biased)


class Judged(Features):
    """One of several tries, of which R of a QR decomposition of [Z | Y] says all: losers cost no more.

    The distance is that of the solver's own fit, cut-offs and penalties included, but of R: `Design.reduced`. If the try wins,
    the fit serves the layer above; it solves for mixtures of Z and Y alone.
    """

    @cached_property
    def reduced(self) -> Design:
        return self.design.reduced()

    @cached_property
    def fit(self) -> Fit:
        return self.solver.factorise(self.reduced)

    @cached_property
    def distance(self) -> float:
        z, y = self.reduced.whole()
        return self._mean(y - z @ self.fit.decision)

    @property
    def least(self) -> float:
        """With neither cut-offs nor penalties: what Y has outside of Z's columns."""
        return self._mean(self.reduced.whole()[1][self.design.features :])

    def _mean(self, left: Tensor) -> float:
        return left.double().square().sum().item() / self.design.samples

    def judged(self) -> Features:
        return self


Fitted = tuple[Tensor, Features]  # a layer's weights, and what they make of the features below


@dataclass(frozen=True)
class Place:
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

    takes_optimizer: ClassVar[bool] = False
    fits_least_squares: ClassVar[bool] = True
    saves_memory: ClassVar[str] = "method/solver=ridge with a smaller method.keep_features_mib, or narrower layers"

    solver: Solver = Pinv()
    bias: Switch = True
    precision: Literal["float32", "float64"] = "float32"
    chunk: Count = 4096
    keep_features_mib: NonNegative = 4096.0

    @abstractmethod
    def layer(self, place: Place, memory: Memory, run: RunHandle) -> Fitted:
        """A layer's weights and features. memory: what a rule keeps from one layer to the next."""

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        name = type(self).__name__
        if not arch.linear:
            raise ConfigError(f"arch: {name} fits linear layers alone, take arch=mlp")
        if hardware.precision != "float32" or hardware.compile:
            raise ConfigError(f"hardware: {name} takes precision=float32 without compile; method.precision=float64 is finer")
        widest = max(math.prod(problem.input_shape), *arch.linear) + self.bias
        if not self.solver.by_rows and not self._fits(problem.train, widest):
            raise ConfigError(
                f"method.keep_features_mib: two layers of {problem.train:,} samples of {widest:,} features take "
                f"{2 * self._bytes(problem.train, widest) / 2**20:,.0f} MiB, and {type(self.solver).__name__} needs a layer's "
                "at once; raise it, or take method/solver=ridge, which goes through them in chunks"
            )

    @torch.no_grad()
    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        """The layers from the bottom up. ``time/fit_cpu_s`` is what they took of the CPU, without data, tests and records."""
        started = time.process_time()
        network = self.network(model, problem.facts, problem.objective, {})
        layers, data = linear_layers(network), problem.train_tensors()
        between = [layer.before for layer in layers[1:]] + [nn.Sequential()]
        below = self._inputs(nn.Sequential(network.input, layers[0].before), data, problem)
        memory: Memory = {}
        lowest = math.inf
        for i, layer in enumerate(run.watch(layers, len(layers), "fitting layers")):
            w, above = self.layer(self._place(i, layer, below, between[i]), memory, run)
            if i:  # not before: a solver may work its decision out beside the layer above
                run.record(i - 1, 0, train_lsd=below.distance)
                lowest = min(lowest, below.distance)
            self._write(layer.linear, w)
            below = above
        self._write(network.head, below.fit.decision)
        run.note(time_fit_cpu_s=time.process_time() - started)
        run.record(len(layers) - 1, 0, train_lsd=below.distance)
        run.note(train_lowest_lsd=min(lowest, below.distance))  # of all layers: figure 7.6
        self._note(below, data.y, run)
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

    def _place(self, index: int, layer: LinearLayer, below: Features, between: nn.Module) -> Place:
        change = nn.Sequential(layer.after, between)

        def above(w: Tensor) -> Features:
            width = w.shape[1] + self.bias
            hold = self._fits(below.design.samples, width)
            return self._features(below.design.changed(lambda z: self._with_ones(change(z @ w)), width, hold))

        return Place(index, below, layer.linear.out_features, above, lambda: self._read(layer.linear))

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

    def _note(self, top: Features, labels: Tensor, run: RunHandle) -> None:
        """Training numbers of the whole network: the mean squared error an output, and for classes the accuracy."""
        run.note(train_mse=top.distance / top.design.targets)
        if not labels.is_floating_point():
            decided = torch.cat([decide(z @ top.fit.decision) for z, _ in top.design.rows()])
            run.note(train_acc=(decided == labels).double().mean().item())


def closest(made: Iterable[Fitted]) -> Fitted:
    """Of several, the one whose features have the least distance from the targets, the earlier of equals.

    A single one is not judged. After several, the fit below the next layer is of `Judged` features, and knows mixtures of them
    and their targets alone.
    """
    made = iter(made)
    weights, best = next(made)
    for w, above in made:
        best, rival = best.judged(), above.judged()
        if rival.least >= best.distance:
            continue
        if rival.distance < best.distance:
            weights, best = w, rival
    return weights, best


def normal(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """(rows, columns) from N(0, 1), in the dtype and on the device of another tensor."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=like.dtype).to(like.device)
