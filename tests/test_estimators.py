"""The scikit-learn estimators: their contract, and answers that do not come from them."""

import pickle
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from command import environment
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from effdl.archs.mlp import Mlp
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.estimators import IllConditionedWarning, PlatonicClassifier, PlatonicRegressor
from effdl.least_squares.solvers import Ridge as OurRidge
from effdl.methods.platonic import Platonic
from effdl.objectives.losses import LinearMse
from effdl.records.run import Run

IN_PARTS = {"projection": "random_weights", "standardise": False}
ESTIMATORS = [
    PlatonicClassifier(),
    PlatonicRegressor(),
    PlatonicClassifier(**IN_PARTS),
    PlatonicRegressor(**IN_PARTS),
    PlatonicClassifier(hidden_layer_sizes=(30, 20), activation="tanh", solver="pinv", tries=3),
    PlatonicRegressor(hidden_layer_sizes=(30, 20), activation="celu", solver="lstsq"),
    PlatonicClassifier(hidden_layer_sizes=3, projection="platonic_pca", solver="solve"),
    PlatonicRegressor(hidden_layer_sizes=2, projection="weighted_platonic_pca"),
    PlatonicClassifier(hidden_layer_sizes=(8,), projection="sorted_pca"),
    PlatonicClassifier(hidden_layer_sizes=(8, 2), projection="deterministic"),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    """Without one expected failure; the array API's check, which is skipped here, has a process of its own below."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", IllConditionedWarning)
        check(estimator)


def numbers(targets: int | None = 2, samples: int = 240, features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(samples, features))
    y = np.tanh(x @ random.normal(size=(features, targets or 1))) + 0.1 * random.normal(size=(samples, targets or 1))
    return x, y if targets else y[:, 0]


def digits(samples: int = 600) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x[:samples], y[:samples]


@pytest.mark.parametrize("sizes", [(1, 239), (200, 40), (7,) * 34 + (2,), (80, 80, 80)])
@pytest.mark.parametrize("hidden", [(50,), (40, 30), (300,)])
def test_parts_give_what_all_at_once_gives(sizes: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    x, y = numbers()
    whole = PlatonicRegressor(hidden, **IN_PARTS, l2=0.3, random_state=3).fit(x, y)
    parts = PlatonicRegressor(hidden, **IN_PARTS, l2=0.3, random_state=3)
    for chunk in np.split(np.arange(len(x)), np.cumsum(sizes)[:-1]):
        parts.partial_fit(x[chunk], y[chunk])
    np.testing.assert_allclose(parts.predict(x), whole.predict(x), rtol=1e-8, atol=1e-8)


def test_parts_of_digits_go_on_after_fit_and_after_pickling_and_know_classes_that_come_later() -> None:
    x, y = digits()
    order = np.argsort(y, kind="stable")  # the last classes come last
    whole = PlatonicClassifier((80,), **IN_PARTS, random_state=0).fit(x, y)
    parts = PlatonicClassifier((80,), **IN_PARTS, random_state=0)
    parts.partial_fit(x[order[:100]], y[order[:100]], classes=range(10))
    parts = pickle.loads(pickle.dumps(parts))
    parts.partial_fit(x[order[100:]], y[order[100:]])
    went_on = PlatonicClassifier((80,), **IN_PARTS, random_state=0).fit(x[:300], y[:300]).partial_fit(x[300:], y[300:])
    for found in (parts, went_on):
        np.testing.assert_allclose(found.decision_function(x), whole.decision_function(x), rtol=1e-8, atol=1e-8)
        assert (found.predict(x) == whole.predict(x)).all() and found.score(x, y) > 0.9
    again = went_on.fit(x[:300], y[:300])  # starts anew
    np.testing.assert_allclose(
        again.decision_function(x), clone(again).fit(x[:300], y[:300]).decision_function(x), rtol=1e-12, atol=1e-12
    )


def test_parts_are_ridge_regression_on_drawn_features() -> None:
    """scikit-learn's own, on features that NumPy makes of the weights, which are normal."""
    x, y = numbers()
    made = PlatonicRegressor((400,), **IN_PARTS, l2=0.7, activation="tanh", random_state=1)
    for rows in np.split(np.arange(len(x)), 6):
        made.partial_fit(x[rows], y[rows])
    weights = {name: value.numpy() for name, value in made.network_.blocks.state_dict().items()}
    w, b = (next(v for k, v in weights.items() if k.endswith(end)) for end in ("weight", "bias"))
    z = np.hstack([np.ones((len(x), 1)), np.tanh(x @ w.T + b)])
    theirs = Ridge(alpha=0.7, fit_intercept=False, solver="svd").fit(z, y)
    np.testing.assert_allclose(made.predict(x), theirs.predict(z), rtol=1e-8, atol=1e-8)
    drawn = np.concatenate([w.ravel(), b])
    assert abs(drawn.mean()) < 4 / len(drawn) ** 0.5 and abs(b.std() - 1) < 0.15 and abs(drawn.std() - 1) < 0.05


REFUSED = {
    "random": ({}, r"projection='random' hidden layers depend on the data, so a second pass is needed"),
    "sorted_pca": ({"projection": "sorted_pca", "standardise": False}, r"projection='sorted_pca' hidden layers depend"),
    "standardised": ({"projection": "random_weights"}, r"take standardise=False"),
    "pinv": ({**IN_PARTS, "solver": "pinv"}, r"solver='pinv' takes all features at once; solver='ridge'"),
}


@pytest.mark.parametrize("kind", [PlatonicClassifier, PlatonicRegressor])
@pytest.mark.parametrize(("parameters", "says"), REFUSED.values(), ids=REFUSED)
def test_where_parts_are_not_exact_there_is_no_partial_fit(kind: Any, parameters: dict[str, Any], says: str) -> None:
    assert not hasattr(kind(**parameters), "partial_fit") and hasattr(kind(**IN_PARTS), "partial_fit")
    with pytest.raises(AttributeError, match=says) as caught:
        kind(**parameters).partial_fit([[0.0], [1.0]], [0, 1])
    assert "\n" not in str(caught.value)


def test_first_part_names_the_classes_and_later_parts_have_no_others() -> None:
    x, y = digits(60)
    made = PlatonicClassifier(**IN_PARTS)
    with pytest.raises(ValueError, match=r"^classes must be passed on the first call"):
        made.partial_fit(x, y)
    made.partial_fit(x[y < 5], y[y < 5], classes=range(5))
    with pytest.raises(ValueError, match=r"^y has the label 5, which is none of the classes \[0, 1, 2, 3, 4\]$"):
        made.partial_fit(x, y)
    with pytest.raises(ValueError, match=r"are not those of the first call"):
        made.partial_fit(x, y, classes=range(10))
    with pytest.raises(ValueError, match=r"^y has one class only, \[3\]"):
        PlatonicClassifier(**IN_PARTS).partial_fit(x, y, classes=[3])


@pytest.mark.parametrize("random_state", [0, 5])
def test_an_estimator_is_effdls_own_method_with_that_seed(random_state: int) -> None:
    x, y = digits()
    made = PlatonicClassifier((30, 20), tries=2, beta=3.0, l2=0.1, random_state=random_state).fit(x, y)
    data = Samples(torch.from_numpy(x), torch.from_numpy(y))
    problem = Problem(data, data, LinearMse(), outputs=10, batch_size=64)
    chain = Mlp(hidden=(30, 20)).build(problem)  # type: ignore[arg-type]
    chain.input.fit(data.x)
    method = Platonic(tries=2, beta=3.0, solver=OurRidge(l2=0.1), precision="float64")
    network = method.fit(problem, chain, Run.in_memory(seed=random_state))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in made.network_.state_dict().items())


@pytest.mark.parametrize("solver", ["ridge", "pinv", "lstsq"])
@pytest.mark.parametrize("standardise", [True, False])
def test_limit_without_nonlinearity_it_is_linear_regression(solver: str, standardise: bool) -> None:
    x, y = numbers()
    x, y = 5 * x + 3, 100 * y - 40
    made = PlatonicRegressor((20, 15), activation="identity", solver=solver, l2=1e-9, standardise=standardise, beta=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditionedWarning)  # 15 units hold 6 features and 2 targets
        found = made.fit(x, y).predict(x)
    np.testing.assert_allclose(found, LinearRegression().fit(x, y).predict(x), rtol=1e-6, atol=1e-6)


def test_targets_in_other_units_give_the_same_in_those() -> None:
    x, y = numbers()
    found, other = (PlatonicRegressor((20,), random_state=0).fit(x, t).predict(x) for t in (y, y * [1000, 0.01] + [7, -3]))
    np.testing.assert_allclose(other, found * [1000, 0.01] + [7, -3], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_probabilities_are_such_and_the_largest_is_of_the_predicted_class(classes: int) -> None:
    x, y = digits(1200)
    x, names = x[y < classes], np.array([f"digit {i}" for i in range(10)])[y[y < classes]]
    made = PlatonicClassifier((100,), random_state=0).fit(x[::2], names[::2])
    strange = np.vstack([x[1::2], np.random.default_rng(0).normal(0, 300, size=(300, 64))])
    found = made.predict_proba(strange)
    assert found.shape == (len(strange), classes) and (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-12)
    assert (made.classes_[found.argmax(1)] == made.predict(strange)).all()
    decision = made.decision_function(strange)
    if classes == 2:
        assert decision.shape == (len(strange),) and ((decision > 0) == (made.predict(strange) == "digit 1")).all()
    else:
        assert (made.classes_[decision.argmax(1)] == made.predict(strange)).all()
    assert made.score(x[1::2], names[1::2]) > 0.9


def collinear(dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Features that differ by a ten-thousandth, which is all that the targets depend on."""
    random = np.random.default_rng(0)
    shared, own = random.normal(size=(400, 1)), random.normal(size=(400, 5))
    return (shared + 1e-4 * own).astype(dtype), own[:, 0] - own[:, 1]


def plain() -> tuple[np.ndarray, np.ndarray]:
    """Features that no precision has trouble with."""
    x = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    return x, x[:, 0] - x[:, 1]


SMALL: dict[str, Any] = {"hidden_layer_sizes": (40,), "random_state": 0, "l2": 1e-8}


def test_precision_that_cannot_hold_the_system_is_said_with_remedies() -> None:
    x, y = collinear()
    said = r"condition number .* float32 holds up to 8e\+06: .*; try precision='float64' or a larger l2$"
    with pytest.warns(IllConditionedWarning, match=said) as caught:
        PlatonicRegressor(**SMALL).fit(x, y)
    assert len(caught) == 1 and caught[0].filename == __file__ and "\n" not in str(caught[0].message)
    with pytest.warns(IllConditionedWarning, match=r"try precision='float64' or a larger l2 or solver='ridge'$"):
        PlatonicRegressor(**{**SMALL, "l2": 1e-6}, solver="solve", activation="identity").fit(*plain())  # rank 6 of 41
    with pytest.warns(IllConditionedWarning):
        PlatonicRegressor(**SMALL, **IN_PARTS).partial_fit(x, y)
    assert issubclass(IllConditionedWarning, RuntimeWarning)


def test_it_is_not_said_where_the_precision_suffices_or_a_remedy_was_taken() -> None:
    x, y = collinear()
    pixels, labels = digits(1797)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PlatonicRegressor(**SMALL, precision="float64").fit(x, y)
        PlatonicRegressor(**{**SMALL, "l2": 10.0}).fit(x, y)
        PlatonicRegressor(**SMALL, solver="pinv").fit(x, y)
        for dtype in (np.float32, np.float64):
            PlatonicClassifier().fit(pixels.astype(dtype), labels)  # three pixels are always 0
            PlatonicClassifier((100,), **IN_PARTS).fit(pixels.astype(dtype), labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [PlatonicClassifier, PlatonicRegressor])
def test_network_takes_raw_inputs_and_gives_what_is_predicted(kind: Any, dtype: Any) -> None:
    x, y = digits()
    made = kind((30,), random_state=0).fit(x.astype(dtype), y)
    outputs = made.network_(torch.from_numpy(x.astype(dtype))).detach().numpy()
    found = made.predict(x.astype(dtype))
    assert outputs.dtype == dtype and not made.network_.training
    if kind is PlatonicClassifier:
        assert (outputs.argmax(1) == found).all()
    else:
        assert found.dtype == dtype and found.shape == (600,)
        np.testing.assert_allclose(outputs[:, 0], found, rtol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("projection", ["random", "random_weights", "deterministic"])
def test_clones_with_the_same_state_agree_and_nothing_else_moves(projection: str) -> None:
    x, y = digits(300)
    made = PlatonicClassifier((40, 20), projection=projection, random_state=7)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = made.fit(x, y).decision_function(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (clone(made).fit(x, y).decision_function(x) == first).all()
    other = clone(made).set_params(random_state=8).fit(x, y).decision_function(x)
    assert (other == first).all() == (projection == "deterministic")
    drawn = [made.set_params(random_state=np.random.RandomState(3)).fit(x, y).decision_function(x) for _ in range(2)]
    assert (drawn[0] == drawn[1]).all()


WRONG = {
    "width": ({"hidden_layer_sizes": (10, 0)}, r"hidden_layer_sizes\.1: .*greater than or equal to 1, got 0"),
    "no width": ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes is empty"),
    "text for widths": ({"hidden_layer_sizes": "wide"}, r"hidden_layer_sizes\.0: .*integer"),
    "activation": ({"activation": "logistic"}, r"activation: .*'relu', 'tanh', .*, got 'logistic'"),
    "projection": ({"projection": "none"}, r"projection: .*'random', .*'random_weights', got 'none'"),
    "solver": ({"solver": "adam"}, r"solver: .*'ridge', 'pinv', 'lstsq' or 'solve', got 'adam'"),
    "precision": ({"precision": "half"}, r"precision: .*'auto', 'float32' or 'float64'"),
    "l2": ({"l2": -1.0}, r"l2: .*greater than or equal to 0, got -1"),
    "l2 of a solver without": ({"l2": float("nan"), "solver": "pinv"}, r"l2: .*finite"),
    "alpha": ({"alpha": 0}, r"alpha: .*greater than 0"),
    "beta": ({"beta": "ten"}, r"beta: .*number"),
    "ema": ({"ema": 1.0}, r"ema: .*less than 1"),
    "standardise": ({"standardise": "yes"}, r"standardise: .*boolean"),
    "tries": ({"tries": 0}, r"tries: .*greater than or equal to 1"),
    "tries of what is found": ({"tries": 2, "projection": "platonic_pca"}, r"tries: only random projections are tried"),
    "tries of drawn weights": ({"tries": 2, "projection": "random_weights"}, r"tries: only random projections are tried"),
    "units beyond samples": ({"projection": "sorted_pca"}, r"hidden_layer_sizes: 100 units in layer 1, where sorted PCA of 60"),
    "a layer that is not to be held": (
        {"hidden_layer_sizes": 10_000_000, "solver": "pinv"},
        r"hidden_layer_sizes: two layers of 60 samples of 10,000,001 features take .* MiB, and Pinv needs a layer's at once; "
        r"narrow the layers, or take solver='ridge'",
    ),
    "state": ({"random_state": -1}, r".*[Ss]eed"),
}


@pytest.mark.parametrize(("parameters", "says"), WRONG.values(), ids=WRONG)
def test_wrong_parameter_is_named_in_one_line(parameters: dict[str, Any], says: str) -> None:
    x, y = digits(60)
    for kind in (PlatonicClassifier, PlatonicRegressor):
        with pytest.raises(ValueError, match=rf"^{says}") as caught:
            kind(**parameters).fit(x, y)
        assert "\n" not in str(caught.value) and not re.search(r"method|arch\b", str(caught.value))


def test_numbers_as_text_are_numbers_as_in_configs() -> None:
    x, y = digits(60)
    text, number = (PlatonicClassifier(l2=l2, beta=beta, random_state=0).fit(x, y) for l2, beta in (("0.1", "3"), (0.1, 3)))
    assert (text.decision_function(x) == number.decision_function(x)).all()


def test_what_cannot_be_learned_or_solved_is_said_in_one_line() -> None:
    x, y = digits(60)
    with pytest.raises(ValueError, match=r"^y has one class only, \[1\]: a classifier needs two or more classes$"):
        PlatonicClassifier().fit(x, np.ones(60, int))
    with pytest.raises(np.linalg.LinAlgError, match=r"^solve failed on .*; try a larger l2 or solver='ridge'$"):
        PlatonicClassifier(solver="solve", l2=0.0, standardise=False).fit(x, y)
    with pytest.raises(ValueError, match="NaN"):
        PlatonicClassifier().fit(np.where(x > 15, np.nan, x), y)
    with pytest.raises(ValueError, match=r"2 targets, but had 1"):
        PlatonicRegressor(**IN_PARTS).partial_fit(x, y).partial_fit(x, np.stack([y, y], 1))


def test_it_searches_and_lies_in_pipelines_and_learns() -> None:
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, random_state=0)
    grid = {"hidden_layer_sizes": [(np.int64(20),), (np.int64(300),)], "l2": np.array([0.1, 1.0])}
    search = GridSearchCV(PlatonicClassifier(random_state=0), grid, cv=2).fit(train_x, train_y)
    assert search.best_params_["hidden_layer_sizes"] == (300,) and search.score(test_x, test_y) > 0.95
    x, y = load_diabetes(return_X_y=True)
    linear = LinearRegression().fit(x[:300], y[:300]).score(x[300:], y[300:])
    ours = make_pipeline(StandardScaler(), PlatonicRegressor((20,), l2=30.0, random_state=0)).fit(x[:300], y[:300])
    assert ours.score(x[300:], y[300:]) > linear - 0.1


ALONE = """
import sys
from effdl.estimators import PlatonicClassifier, PlatonicRegressor
print([name for name in ("hydra", "omegaconf", "matplotlib", "torchvision", "timm", "wandb", "optuna") if name in sys.modules])
from sklearn.utils.estimator_checks import check_array_api_input
for made in (PlatonicClassifier(), PlatonicRegressor()):
    check_array_api_input(type(made).__name__, made, "numpy", expect_only_array_outputs=False)
print("checked")
"""


def test_importing_them_drags_in_little_and_the_check_that_needs_a_process_of_its_own_passes() -> None:
    """SCIPY_ARRAY_API must be set before SciPy is imported, else scikit-learn skips that check."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment(SCIPY_ARRAY_API="1"), capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:2] == ["[]", "checked"], done.stderr
