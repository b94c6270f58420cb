"""The methods that closed-form networks are measured against, by their formulas with NumPy, and saved and loaded."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from effdl import config, load_network
from effdl.datasets.dataset import split
from effdl.datasets.digits import Digits
from effdl.errors import ConfigError
from effdl.records.carry import carry_out
from effdl.records.report import Silent
from effdl.training.hardware import Hardware

SAMPLES = 300
COMMON = ("dataset.val_size=0", f"dataset.train_limit={SAMPLES}", "dataset.scaling=unit", "hardware=cpu")


def carried_out(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], torch.nn.Module]:
    done = carry_out(config.build(config.compose([*COMMON, *overrides])), tmp_path)
    assert done["status"] == "finished", done
    return done["summary"], load_network(done["path"])


def training_samples() -> tuple[np.ndarray, np.ndarray]:
    """Those of seed 0, scaled by what is the largest value in them, and one-hot labels."""
    train, _ = split(Digits(val_size=0, train_limit=SAMPLES), Digits().load()[0], 0)
    x = train.x.double().flatten(1).numpy()
    return x / x.max(), np.eye(10)[train.y.numpy()]


def held_out() -> tuple[Tensor, np.ndarray]:
    """Test images as stored, and scaled as the training images are."""
    images = Digits().load()[1].x
    return images, images.double().flatten(1).numpy() / float(Digits().load()[0].x.max())


def test_ridge_regression_is_the_formula_with_a_free_intercept(tmp_path: Path) -> None:
    summary, network = carried_out(tmp_path, "method=ridge_regression", "method.l2=0.5")
    x, y = training_samples()
    centred = x - x.mean(0)
    w = np.linalg.solve(centred.T @ centred + 0.5 * np.eye(64), centred.T @ (y - y.mean(0)))
    raw, scaled = held_out()
    expected = (scaled - x.mean(0)) @ w + y.mean(0)
    np.testing.assert_allclose(network(raw).detach().numpy(), expected, rtol=1e-8, atol=1e-10)
    fitted = centred @ w + y.mean(0)
    assert summary["train/mse"] == pytest.approx(np.square(fitted - y).mean(), rel=1e-8)
    assert summary["train/acc"] == pytest.approx((fitted.argmax(1) == y.argmax(1)).mean())


@pytest.mark.parametrize("gamma", [None, 0.2])
def test_kernel_ridge_is_the_formula(gamma: float | None, tmp_path: Path) -> None:
    overrides = ("method=kernel_ridge", "method.l2=0.1", f"method.gamma={'null' if gamma is None else gamma}")
    summary, network = carried_out(tmp_path, *overrides)
    x, y = training_samples()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-(gamma or 1 / 64) * np.square(a[:, None] - b[None]).sum(2))

    dual = np.linalg.solve(kernel(x, x) + 0.1 * np.eye(SAMPLES), y)
    raw, scaled = held_out()
    np.testing.assert_allclose(network(raw).detach().numpy(), kernel(scaled, x) @ dual, rtol=1e-7, atol=1e-9)
    assert summary["train/mse"] == pytest.approx(np.square(kernel(x, x) @ dual - y).mean(), rel=1e-6)


def test_limit_pseudoinverse_learnings_layers_are_pseudoinverses_and_it_interpolates(tmp_path: Path) -> None:
    overrides = ("method=pseudoinverse_learning", "arch=mlp", "arch.activation=tanh", "method.precision=float64")
    summary, network = carried_out(tmp_path, *overrides, f"arch.hidden=[{SAMPLES},{SAMPLES}]", "method.solver.tol=1e-10")
    x, _ = training_samples()
    first = np.linalg.pinv(x, rcond=1e-12)
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
    np.testing.assert_allclose(weights["blocks.linear1.1.0.weight"].T, first, rtol=1e-6, atol=1e-9)
    z = np.tanh(x @ first)
    np.testing.assert_allclose(z @ weights["blocks.linear2.0.weight"].T @ z, z, rtol=1e-6, atol=1e-8)  # ZZ⁺Z = Z
    assert not any(value.any() for name, value in weights.items() if name.endswith("bias"))
    assert summary["train/mse"] < 1e-10 and summary["train/acc"] == 1  # m units of full rank fit anything


WRONG = {
    "hidden layers": (("method=ridge_regression", "arch=mlp"), r"arch: RidgeRegression has no hidden layers, take arch=linear"),
    "closed form without hidden layers": (("method=platonic", "arch=linear"), r"arch: Platonic fits linear layers alone"),
    "a kernel matrix of 29 GB": (
        ("method=kernel_ridge", "dataset=checkerboard", "dataset.samples=60000"),
        r"dataset\.train_limit: the kernel matrix of 60,000 samples takes 28\.8 GB in float64; kernel ridge takes",
    ),
    "other widths than samples": (
        ("method=pseudoinverse_learning", "arch=mlp", "arch.hidden=[300,200]"),
        r"arch\.hidden: pseudoinverse learning has as many units in each hidden layer as training samples, 1,200, with .* GiB",
    ),
    "too many units for memory": (
        ("method=pseudoinverse_learning", "arch=mlp", "arch.hidden=[30000]", "dataset=checkerboard", "dataset.samples=30000"),
        r"method\.keep_features_mib: two layers of 30,000 samples of 30,000 features take 6,866 MiB, and Pinv",
    ),
    "too many units for memory by ridge": (
        (
            *("method=pseudoinverse_learning", "method/solver=ridge", "arch=mlp", "arch.hidden=[60000]"),
            *("dataset=checkerboard", "dataset.samples=60000"),
        ),
        r"dataset\.train_limit: square matrices of 60,000 samples take 67\.1 GiB, of 24\.0 GiB on this machine; take fewer",
    ),
}


@pytest.mark.parametrize(("overrides", "says"), WRONG.values(), ids=WRONG)
def test_wrong_combination_is_one_line(overrides: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hardware, "memory", lambda self: 24 * 2**30)
    with pytest.raises(ConfigError, match=rf"^{says}"):
        config.build(config.compose(overrides))


def test_pseudoinverse_learning_says_its_memory_before_it_tries(tmp_path: Path) -> None:
    class Told(Silent):
        lines: ClassVar[list[str]] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    overrides = ("method=pseudoinverse_learning", "arch=mlp", f"arch.hidden=[{SAMPLES}]", *COMMON)
    carry_out(config.build(config.compose(overrides)), tmp_path, Told())
    assert any("300 units a hidden layer: 0.343 MiB a matrix, about 1.72 MiB at once" in line for line in Told.lines)
