"""Ridge regression on the inputs themselves and on a kernel, by scikit-learn: what a closed form has to beat (ours)."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.objectives.objective import Objective, kind_of
from effdl.setting import NonNegative, Positive, setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware

LAYER = "blocks.linear1.1"  # of arch=linear
MOST_SAMPLES = 10_000  # a kernel matrix of 0.8 GB in float64, and as much to factorise it


@setting
class Shallow(Method):
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
class RidgeRegression(Shallow):
    """Linear regression with penalty ``l2`` on the weights, its intercept free (scikit-learn's Ridge)."""

    l2: NonNegative = 1.0

    def regress(self, x: Any, y: Any) -> dict[str, Tensor]:
        from sklearn.linear_model import Ridge

        found = Ridge(alpha=self.l2).fit(x, y)
        coefficients = torch.from_numpy(found.coef_).reshape(y.shape[1], -1)
        return {f"{LAYER}.weight": coefficients, f"{LAYER}.bias": torch.as_tensor(found.intercept_).reshape(-1)}


@setting
class KernelRidge(Shallow):
    """Ridge regression with the Gaussian kernel exp(−γ‖x − x'‖²) (scikit-learn's KernelRidge), on at most 10,000 samples.

    l2: the penalty. gamma: γ; null is one over the number of features, as scikit-learn has it.
    """

    l2: Positive = 1.0
    gamma: Positive | None = None

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        if problem.train > MOST_SAMPLES:
            raise ConfigError(
                f"dataset.train_limit: the kernel matrix of {problem.train:,} samples takes {8e-9 * problem.train**2:,.1f} GB "
                f"in float64; kernel ridge takes at most {MOST_SAMPLES:,}: dataset.train_limit={MOST_SAMPLES}"
            )

    def regress(self, x: Any, y: Any) -> dict[str, Tensor]:
        from sklearn.kernel_ridge import KernelRidge as Theirs

        found = Theirs(alpha=self.l2, kernel="rbf", gamma=self.gamma).fit(x, y)
        weights = torch.from_numpy(found.dual_coef_).reshape(len(x), -1).T
        return {"blocks.0.support": torch.from_numpy(x), "head.weight": weights}

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, object]) -> BlockChain:
        features = torch.Size(problem.input_shape).numel()
        gamma = self.gamma if self.gamma is not None else 1 / features
        kernel = GaussianKernel(problem.train, features, gamma)
        head = nn.Linear(problem.train, problem.outputs, bias=False)
        device = next(model.parameters()).device
        return (
            BlockChain(
                [
                    kernel,
                ],
                head,
                model.input,
            )
            .double()
            .eval()
            .to(device)
        )


class GaussianKernel(nn.Module):
    """x (B, ...) -> exp(−γ‖x − s_j‖²) for each support vector s_j, (B, m)."""

    def __init__(self, samples: int, features: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.support = nn.Parameter(torch.empty(samples, features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (-self.gamma * torch.cdist(x.flatten(1), self.support).square()).exp()
