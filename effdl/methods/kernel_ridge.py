"""Ridge regression on the inputs themselves and on a kernel, by scikit-learn: what a closed form has to beat (ours)."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.infinite_width import wide_kernels
from effdl.methods.method import Method
from effdl.objectives.objective import Objective, kind_of
from effdl.setting import Count, NonNegative, Positive, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware

LAYER = "blocks.linear1.1"  # of arch=linear
MOST_SAMPLES = 10_000  # a kernel matrix of 0.8 GB in float64, and as much to factorise it
ROWS = 512  # of a kernel matrix that are worked out at once
Kernel = Callable[[Tensor, Tensor], Tensor]  # x (m, n) and s (k, n) -> (m, k)


@setting
class Regression(Method):
    """A method of scikit-learn without hidden layers: on standardised inputs and coded targets, in float64."""

    takes: ClassVar[frozenset[str]] = frozenset()
    fits_least_squares: ClassVar[bool] = True
    saves_memory: ClassVar[str] = "a smaller dataset.train_limit"

    @property
    def draws(self) -> tuple[str, ...]:
        return ()

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        if arch.linear != ():
            raise ConfigError(f"arch: {type(self).__name__} has no hidden layers, take arch=linear")
        if hardware.precision != "float32" or hardware.compile:
            raise ConfigError(f"hardware: {type(self).__name__} works in float64 on the CPU, say hardware=cpu")

    @abstractmethod
    def regress(self, x: Any, y: Any) -> dict[str, Tensor]:
        """NumPy arrays x (m, n) and y (m, k) -> what the network's parameters become, by name."""

    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        data = problem.train_tensors()
        network = self.network(model, problem.facts, problem.objective, {})
        like = torch.empty(0, problem.outputs, dtype=torch.float64, device=data.y.device)
        with torch.no_grad():
            x, y = network.input(data.x).flatten(1), problem.objective.coded(data.y, like)
            assert y is not None, "checked by fits_least_squares"
            state = self.regress(x.cpu().numpy(), y.cpu().numpy())
            network.load_state_dict({**network.state_dict(), **state})
            outputs = torch.cat([network(batch.x) for batch in data.batches(problem.batch_size)])
        distance = (outputs - y).square().sum(1).mean().item()
        run.record(0, 0, {"train/lsd": distance})
        run.note({"train/mse": distance / problem.outputs})
        if kind_of(data.y) == "classes":
            run.note({"train/acc": (problem.objective.decide(outputs) == data.y).double().mean().item()})
        return network

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, object]) -> BlockChain:
        return model.double().eval()


@setting
class RidgeRegression(Regression):
    """Linear regression with penalty ``l2`` on the weights, its intercept free (scikit-learn's Ridge)."""

    l2: NonNegative = 1.0

    def regress(self, x: Any, y: Any) -> dict[str, Tensor]:
        from sklearn.linear_model import Ridge

        found = Ridge(alpha=self.l2).fit(x, y)
        coefficients = torch.from_numpy(found.coef_).reshape(y.shape[1], -1)
        return {f"{LAYER}.weight": coefficients, f"{LAYER}.bias": torch.as_tensor(found.intercept_).reshape(-1)}


@setting
class Dual(Regression):
    """Ridge regression with a kernel: a weight for each training sample, of which there are at most 10,000.

    l2: the penalty.
    """

    l2: Positive = 1.0

    @abstractmethod
    def kernel(self, features: int) -> Kernel:
        """Of samples with so many features."""

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        if problem.train > MOST_SAMPLES:
            raise ConfigError(
                f"dataset.train_limit: the kernel matrix of {problem.train:,} samples takes {8e-9 * problem.train**2:,.1f} GB "
                f"in float64; kernel ridge takes at most {MOST_SAMPLES:,}: dataset.train_limit={MOST_SAMPLES}"
            )

    @abstractmethod
    def fitted(self, x: Any, y: Any) -> Any:
        """NumPy arrays x (m, n) and y (m, k) -> scikit-learn's fitted KernelRidge."""

    def regress(self, x: Any, y: Any) -> dict[str, Tensor]:
        weights = torch.from_numpy(self.fitted(x, y).dual_coef_).reshape(len(x), -1).T
        return {"blocks.0.support": torch.from_numpy(x), "head.weight": weights}

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, object]) -> BlockChain:
        features = torch.Size(problem.input_shape).numel()
        block = Supported(problem.train, features, self.kernel(features))
        head = nn.Linear(problem.train, problem.outputs, bias=False)
        return BlockChain([block], head, model.input).double().eval().to(next(model.parameters()).device)


@setting
class KernelRidge(Dual):
    """Ridge regression with the Gaussian kernel exp(−γ‖x − x'‖²) (scikit-learn's KernelRidge), on at most 10,000 samples.

    l2: the penalty. gamma: γ; null is one over the number of features, as scikit-learn has it.
    """

    gamma: Positive | None = None

    def kernel(self, features: int) -> Kernel:
        return partial(gaussian, gamma=self.gamma if self.gamma is not None else 1 / features)

    def fitted(self, x: Any, y: Any) -> Any:
        from sklearn.kernel_ridge import KernelRidge as Theirs

        return Theirs(alpha=self.l2, kernel="rbf", gamma=self.gamma).fit(x, y)


@setting
class NtkRidge(Dual):
    """Ridge regression with the kernel of an infinitely wide ReLU network, on at most 10,000 samples: a yardstick for lazy
    methods, whose networks it is the limit of (Jacot et al. 2018; Arora et al. 2019), see `infinite_width.wide_kernels`.

    l2: the penalty; next to nothing gives what gradient flow on the squared error ends in, from outputs of zero. 0.01 did
        about as well on validation samples of MNIST, 4,000 for training, and 1 less.
    kernel_of: "ntk", where all layers learn; "nngp", where the last alone does.
    depth: hidden layers. weight_variance: σ_w², such as 2 (He's, which keeps the scale of what passes); bias_variance: σ_b², 0
        for networks without biases, as the thesis's are.
    """

    l2: Positive = 0.01
    kernel_of: Literal["ntk", "nngp"] = "ntk"
    depth: Count = 1
    weight_variance: Positive = 2.0
    bias_variance: NonNegative = 0.0

    def kernel(self, features: int) -> Kernel:
        def kernel(x: Tensor, s: Tensor) -> Tensor:
            nngp, tangent = wide_kernels(x, s, self.depth, self.weight_variance, self.bias_variance)
            return tangent if self.kernel_of == "ntk" else nngp

        return kernel

    def fitted(self, x: Any, y: Any) -> Any:
        from sklearn.kernel_ridge import KernelRidge as Theirs

        samples, kernel = torch.from_numpy(x), self.kernel(x.shape[1])
        gram = samples.new_empty(len(x), len(x))
        for rows, some in zip(gram.split(ROWS), samples.split(ROWS), strict=True):
            rows.copy_(kernel(some, samples))
        return Theirs(alpha=self.l2, kernel="precomputed").fit(gram.numpy(), y)


def gaussian(x: Tensor, s: Tensor, gamma: float) -> Tensor:
    """exp(−γ‖x_i − s_j‖²), (m, n) and (k, n) -> (m, k)."""
    return (-gamma * torch.cdist(x, s).square()).exp()


class Supported(nn.Module):
    """x (B, ...) -> its kernel with each support vector s_j, (B, m)."""

    def __init__(self, samples: int, features: int, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.support = nn.Parameter(torch.empty(samples, features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x.flatten(1), self.support)
