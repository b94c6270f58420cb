"""scikit-learn faces of closed-form methods: fit, predict, clone, search and pickle as any other estimator."""

import numbers
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from effdl.archs.chain import BlockChain
from effdl.archs.mlp import Mlp
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import EffdlError, FitFailed, one_line
from effdl.errors import IllConditionedWarning as IllConditionedWarning
from effdl.least_squares.normal_equations import Sums, condition, condition_bound, summed
from effdl.least_squares.solvers import Lstsq, Pinv, Ridge, Solve
from effdl.methods.closed_form import ClosedForm
from effdl.methods.elm import Elm
from effdl.methods.platonic import Platonic, Projection
from effdl.objectives.losses import LinearMse
from effdl.objectives.simplex import onto_simplex
from effdl.records.run import Run
from effdl.setting import NonNegative, Switch, setting
from effdl.training.hardware import Hardware

Array = NDArray[Any]
CHUNK = 4096  # samples that are predicted at once
FLOATS = [np.float64, np.float32]
OBJECTIVE = LinearMse()
# What effdl's messages call things, and what they are called here.
NAMES = (
    (r"method\.keep_features_mib: (.*); raise it, or take", r"hidden_layer_sizes: \1; narrow the layers, or take"),
    (r"arch\.hidden\b", "hidden_layer_sizes"),
    (r"method/solver=(\w+)", r"solver='\1'"),
    (r"method\.precision=(\w+)", r"precision='\1'"),
    (r"\b(method\.solver|method|arch)\.(?=\w)", ""),
)


@setting
class _Choices:
    """The parameters that no setting of effdl has under the same name, or with the same choices."""

    projection: Literal[Projection, "random_weights"]
    solver: Literal["ridge", "pinv", "lstsq", "solve"]
    precision: Literal["auto", "float32", "float64"]
    l2: NonNegative
    standardise: Switch


class _LeastSquaresNetwork(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: parameters, and a network fitted by effdl's methods on the CPU."""

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        *,
        activation: str = "relu",
        projection: str = "random",
        tries: int = 1,
        alpha: float = 1.0,
        beta: float = 10.0,
        ema: float | None = 0.2,
        pca: str = "correlation",
        importance: str = "targets",
        solver: str = "ridge",
        l2: float = 0.01,
        precision: str = "auto",
        standardise: bool = True,
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.projection = projection
        self.tries = tries
        self.alpha = alpha
        self.beta = beta
        self.ema = ema
        self.pca = pca
        self.importance = importance
        self.solver = solver
        self.l2 = l2
        self.precision = precision
        self.standardise = standardise
        self.random_state = random_state

    def _learn(self, x: Array, y: Array, outputs: int) -> None:
        """x (m, n); y (m,) class indices or (m, outputs) reals."""
        with _in_sklearns_words():
            method, network, run = self._begin(x, y, outputs)
            data = Samples(_tensor(x), _tensor(y))
            if self.standardise:
                network.input.fit(data.x)  # type: ignore[operator]
            problem = Problem(data, data.take(data.y.new_empty(0).long()), OBJECTIVE, outputs=outputs, batch_size=len(x))
            fitted = method.fit(problem, network, run)
            assert isinstance(fitted, BlockChain)
            self.network_, self._sums = fitted, None
            if isinstance(method, Elm) and self._why_at_once() is None:  # so that partial_fit can go on from here
                self._sums = method.sums(fitted, data.x, self._coded(data.y, outputs))
        self._warn_if_ill_conditioned(data.x)

    def _learn_more(self, x: Array, y: Array, outputs: int) -> None:
        """The same of one part of the samples; what was there before counts as if all came at once."""
        with _in_sklearns_words():
            method, network, run = self._begin(x, y, outputs)
            assert isinstance(method, Elm), "partial_fit is there for random weights alone"
            before = self._begun()
            if before is None:
                self.network_ = method.drawn(network, run)
            part = method.sums(self.network_, _tensor(x), self._coded(_tensor(y), outputs))
            sums = part if before is None else before + part
            method.solve(self.network_, sums)
            self._sums = sums
        self._warn_if_ill_conditioned(_tensor(x))

    def _begun(self) -> Sums | None:
        """The sums of samples so far, None before the first."""
        sums: Sums | None = getattr(self, "_sums", None)
        return sums

    def _begin(self, x: Array, y: Array, outputs: int) -> tuple[ClosedForm, BlockChain, Run]:
        """The checked method, the network before it, and the run that they are for."""
        hidden = np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=object)).tolist()
        arch = Mlp(hidden=tuple(_plain(width) for width in hidden), activation=_plain(self.activation))
        method = self._method("float32" if x.dtype == np.float32 else "float64")
        kind: Literal["classes", "vectors"] = "classes" if y.dtype == np.int64 else "vectors"
        facts = Facts((x.shape[1],), kind, outputs, len(x), 0, 0, len(x))
        method.check(facts, arch.facts(facts), Hardware())
        with torch.random.fork_rng(devices=[]):  # weights that are overwritten must not move the user's generator
            network = arch.build(facts)
        return method, network, Run.in_memory(seed=self._seed())

    def _method(self, of_data: Literal["float32", "float64"]) -> ClosedForm:
        """The method that the parameters name; of_data: the precision of the data."""
        given = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        choices = _Choices(**{name: given[name] for name in _Choices.__dataclass_fields__})
        penalised = {"ridge": Ridge, "solve": Solve}.get(choices.solver)
        solver = penalised(l2=choices.l2) if penalised else Pinv() if choices.solver == "pinv" else Lstsq()
        precision = of_data if choices.precision == "auto" else choices.precision
        scales = {name: given[name] for name in ("tries", "alpha", "beta", "ema", "pca", "importance")}
        if choices.projection != "random_weights":
            return Platonic(projection=choices.projection, solver=solver, precision=precision, **scales)
        if Platonic(**scales).tries > 1:
            raise ValueError("method.tries: only random projections are tried, random_weights are drawn once")
        return Elm(solver=solver, precision=precision)

    def _seed(self) -> int:
        """An int is the seed of effdl's runs, as in `run.py seed=0`; else one is drawn."""
        random = check_random_state(self.random_state)
        whole = isinstance(self.random_state, numbers.Integral)
        return int(self.random_state if whole else random.randint(np.iinfo(np.int32).max))

    def _why_at_once(self) -> str | None:
        """Why samples cannot come in parts; None where they can."""
        if self.projection != "random_weights":
            return (
                f"no partial_fit: with projection={self.projection!r} hidden layers depend on the data, so a second pass is "
                "needed; it is there with projection='random_weights', standardise=False and solver='ridge'"
            )
        if self.standardise:
            return "no partial_fit: mean and deviation depend on all the data; take standardise=False and scale before"
        if self.solver != "ridge":
            return f"no partial_fit: solver={self.solver!r} takes all features at once; solver='ridge' takes sums over samples"
        return None

    def _coded(self, y: Tensor, outputs: int) -> Tensor:
        return OBJECTIVE.targets_of(y, y.new_empty(0, outputs, dtype=torch.float64))

    @torch.no_grad()
    def _outputs(self, X: Any) -> Tensor:  # noqa: N803
        """(m, outputs) in the network's precision."""
        check_is_fitted(self, "network_")
        x = _tensor(validate_data(self, X, reset=False, dtype=FLOATS))
        return torch.cat([self.network_(rows) for rows in x.split(CHUNK)])

    def _warn_if_ill_conditioned(self, x: Tensor) -> None:
        """pinv and lstsq square no system, and leave out by bounds of their own what they cannot tell from 0."""
        if self.solver not in ("ridge", "solve"):
            return
        dtype = next(self.network_.parameters()).dtype
        most = 1 / torch.finfo(dtype).eps
        if (found := self._condition(x, most)) <= most:
            return
        remedies = ["precision='float64'"] if dtype == torch.float32 else []
        remedies += ["a larger l2"] + (["solver='ridge'"] if self.solver != "ridge" else [])
        warnings.warn(
            f"the output layer's system has condition number {found:.0e}, {str(dtype).removeprefix('torch.')} holds up to "
            f"{most:.0e}: its weights may be far from those that l2={self.l2} asks for; try {' or '.join(remedies)}",
            IllConditionedWarning,
            stacklevel=4,  # the line that called fit or partial_fit
        )

    @torch.no_grad()
    def _condition(self, x: Tensor, most: float) -> float:
        """Of the output layer's system; by a Gram matrix only where its bound leaves open whether it is over ``most``."""
        l2 = float(self.l2)  # settings take "0.1" for 0.1
        if (sums := self._begun()) is not None:
            bound = condition_bound(sums.gram.diagonal(), l2)
            return bound if bound <= most else condition(sums.gram, l2)
        z = self.network_.blocks(self.network_.input(x))
        z = torch.cat([z.new_ones(len(z), 1), z], 1)
        z = z.T if self.solver == "ridge" and len(z) < z.shape[1] else z  # ridge takes the smaller of the two systems
        bound = condition_bound(torch.linalg.vector_norm(z, dim=0).square(), l2)
        return bound if bound <= most else condition(summed([(z, z[:, :0])], z.shape[1], 0).gram, l2)


class PlatonicClassifier(ClassifierMixin, _LeastSquaresNetwork):  # type: ignore[misc]
    """A multi-layer perceptron fitted layer by layer by least squares, without gradients (chapter 7), for classes.

    hidden_layer_sizes: widths of the hidden layers, each ≥ 1; an int is one layer. activation: as in `Mlp`.
    projection, tries, alpha, beta, ema, pca, importance: as in `Platonic`, or projection "random_weights": hidden weights are
        drawn and stay (`Elm`), which needs none of the others.
    solver: "ridge" and "solve" with the penalty l2 ≥ 0, "pinv" and "lstsq" without; see `least_squares.solvers`.
    precision: of weights and algebra; "auto" takes float32 for data in float32, else float64.
    standardise: inputs to mean 0 and deviation 1 (`InputBlock`), and a regressor's targets, inside the network.
    random_state: an int is the seed of effdl's own runs; a RandomState or None draws one.

    network_: the fitted `BlockChain`, which takes raw inputs (m, n) and gives what `predict` decides by.
    classes_, n_features_in_, feature_names_in_: as in scikit-learn.

    Raises ValueError in one line that names the parameter or what is wrong with the data; LinAlgError, which is one too,
    where a system cannot be solved. Warns with IllConditionedWarning where the output layer's system, ZᵀZ + λI with its
    diagonal scaled to ones, has a condition number over 1/eps of the precision. Runs on the CPU.
    """

    def fit(self, X: Any, y: Any) -> "PlatonicClassifier":  # noqa: N803
        """X (m, n) reals; y (m,) labels of any kind, of two classes or more."""
        X, y = validate_data(self, X, y, dtype=FLOATS)  # noqa: N806
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        self._learn(X, indices.astype(np.int64), self._num_classes())
        return self

    @property
    def partial_fit(self) -> Callable[..., "PlatonicClassifier"]:
        """partial_fit(X, y, classes=None): learn more samples, as if they and all before had come at once, to rounding.

        There only where that is exact: projection="random_weights", standardise=False, solver="ridge"; else an
        AttributeError says why. classes: all labels, needed in the first call. After `fit` it goes on from there. Each call
        solves the output layer anew: O(n³) for n hidden units, whatever the number of samples so far.
        """
        if (reason := self._why_at_once()) is not None:
            raise AttributeError(reason)
        return self._partial_fit

    def _partial_fit(self, X: Any, y: Any, classes: Any = None) -> "PlatonicClassifier":  # noqa: N803
        first = self._begun() is None
        X, y = validate_data(self, X, y, dtype=FLOATS, reset=first)  # noqa: N806
        check_classification_targets(y)
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit: all labels that are to come")
        if first:
            self.classes_ = np.unique(classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes={classes!r} are not those of the first call, {self.classes_!r}")
        self._num_classes()
        if unknown := sorted(set(y.tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"y has the label {unknown[0]!r}, which is none of the classes {self.classes_.tolist()}")
        self._learn_more(X, np.searchsorted(self.classes_, y).astype(np.int64), self._num_classes())
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """(m,) labels: the class with the largest output."""
        chosen = LinearMse().decide(self._outputs(X)).numpy()
        labels: Array = self.classes_[chosen]
        return labels

    def decision_function(self, X: Any) -> Array:  # noqa: N803
        """The linear outputs (m, k), which least squares draws to 1 at the class and 0 elsewhere; of two classes the
        difference (m,) of the second and the first, positive where the second is predicted.
        """
        outputs: Array = self._outputs(X).numpy()
        return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """(m, k) probabilities: the point of the probability simplex that is closest to the linear outputs.

        Least squares on 0 and 1 estimates the classes' probabilities themselves, so outputs that are probabilities stay as
        they are, where a softmax would flatten them. They may be exactly 0 or 1, and are not calibrated
        (`sklearn.calibration` does that). The largest is that of the predicted class.
        """
        return onto_simplex(self._outputs(X).double()).numpy()

    def _num_classes(self) -> int:
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_.tolist()}: a classifier needs two or more classes")
        return len(self.classes_)


class PlatonicRegressor(RegressorMixin, _LeastSquaresNetwork):  # type: ignore[misc]
    """A multi-layer perceptron fitted layer by layer by least squares, without gradients (chapter 7), for real targets.

    Parameters, errors and warnings as in `PlatonicClassifier`. standardise scales targets too, since βY is weighed against the
    features; the head is scaled back, so that ``network_`` and `predict` speak in the targets' own units.

    n_outputs_: the number of targets.
    """

    def fit(self, X: Any, y: Any) -> "PlatonicRegressor":  # noqa: N803
        """X (m, n) and y (m,) or (m, k), reals."""
        x, targets = self._checked(X, y, first=True)
        mean, std = np.zeros(self.n_outputs_), np.ones(self.n_outputs_)
        if self.standardise:
            mean, std = targets.mean(0), targets.std(0)
            std = np.where(std > np.finfo(np.float64).eps * np.abs(mean), std, 1.0)  # one that never varies has 1
        self._learn(x, (targets - mean) / std, self.n_outputs_)
        with torch.no_grad():
            head: Any = self.network_.head
            head.weight.copy_(head.weight * torch.from_numpy(std)[:, None])
            head.bias.copy_(head.bias * torch.from_numpy(std) + torch.from_numpy(mean))
        return self

    @property
    def partial_fit(self) -> Callable[..., "PlatonicRegressor"]:
        """partial_fit(X, y): learn more samples, as if they and all before had come at once; see `PlatonicClassifier`."""
        if (reason := self._why_at_once()) is not None:
            raise AttributeError(reason)
        return self._partial_fit

    def _partial_fit(self, X: Any, y: Any) -> "PlatonicRegressor":  # noqa: N803
        self._learn_more(*self._checked(X, y, first=self._begun() is None), self.n_outputs_)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """(m,) or (m, k) as the targets were, in the network's precision."""
        outputs: Array = self._outputs(X).numpy()
        return outputs[:, 0] if self._one_dimensional else outputs

    def _checked(self, X: Any, y: Any, first: bool) -> tuple[Array, Array]:  # noqa: N803
        """(m, n), (m, k)"""
        x, y = validate_data(self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True, reset=first)
        targets = np.asarray(y, dtype=np.float64).reshape(len(x), -1)
        if first:
            self.n_outputs_, self._one_dimensional = targets.shape[1], y.ndim == 1
        elif targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {targets.shape[1]} targets, but had {self.n_outputs_} in the first call to partial_fit")
        return x, targets

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _tensor(a: Array) -> Tensor:
    """Shares memory where torch can: not with what is read-only or runs backwards."""
    return torch.from_numpy(np.require(a, requirements=["C", "W"]))


def _plain(value: Any) -> Any:
    """A NumPy scalar, as searches put in, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def _in_sklearns_words() -> Iterator[None]:
    """Errors of effdl and of its settings as a ValueError of one line, with the names that parameters have here."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        said = str(first["msg"]).removeprefix("Value error, ")
        path = ".".join(str(part) for part in first["loc"]).replace("hidden", "hidden_layer_sizes")
        raise ValueError(_renamed(f"{path}: {said}, got {first['input']!r}" if path else said)) from None
    except FitFailed as error:
        raise np.linalg.LinAlgError(_renamed(one_line(error))) from None
    except (EffdlError, ValueError) as error:
        raise ValueError(_renamed(" ".join(str(error).split()))) from None


def _renamed(text: str) -> str:
    for theirs, ours in NAMES:
        text = re.sub(theirs, ours, text)
    return text
