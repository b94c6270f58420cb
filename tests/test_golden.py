"""Golden traces: five float64 steps of each method on one thread, or all layers of a closed form, number by number.

A trace may only move together with its method's ``numerics_version``, because records of finished runs are found again by
that version. To write the traces of new methods and new versions: ``python tests/test_golden.py --write``; a trace that
moved at the same version is never overwritten. Dropout masks are torch's on x86 (its CPU kernel draws them with MKL).
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from effdl.least_squares.solvers import Ridge
from effdl.methods.backprop import Backprop
from effdl.methods.closed_form import ClosedForm
from effdl.methods.method import Method
from effdl.methods.platonic import Platonic
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse, SoftmaxCe
from effdl.records.run import Run
from effdl.training.decision import DownConv, Pool
from effdl.training.optim import Adamw, MultiStep, Optimizer, Sgd

GOLDEN = Path(__file__).parent / "golden"
STEPS = 5
SGD = Sgd(lr=0.05, weight_decay=1e-3, schedule=MultiStep(milestones=(0.5,)))
DROPOUTS: dict[str, Any] = {"lr_factor": 0.8, "weight_decay_factor": 1.15, "input_dropout": 0.5, "gradient_dropout": 0.4}
PROJECTED: dict[str, Any] = {"projection": "deterministic", "beta": 100.0, "precision": "float64"}
TRACES: dict[str, tuple[Method, Optimizer | None]] = {
    "backprop": (Backprop(epochs=1), SGD),
    "backprop_adamw": (Backprop(epochs=1), Adamw(weight_decay=0.1)),
    "backprop_checkpointed": (Backprop(epochs=1, checkpoint="block"), SGD),
    "dll": (Segmentwise(epochs=1), SGD),
    "dll_regularized": (Segmentwise(epochs=1, decision=DownConv(convs=4), **DROPOUTS), Adamw(weight_decay=0.1)),
    "segments_of_two": (Segmentwise(epochs=1, segment_size=2, decision=Pool(size=2, hidden=(8,), dropout=0.5)), SGD),
    "platonic": (Platonic(**PROJECTED), None),
    "platonic_tries": (Platonic(tries=5, precision="float64"), None),
    "platonic_ridge": (Platonic(**PROJECTED, solver=Ridge()), None),
}


class Listening:
    """Softmax cross-entropy that remembers the mean of each loss from which a gradient is taken."""

    def __init__(self) -> None:
        self.inner, self.losses = SoftmaxCe(), list[float]()

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        loss = self.inner.loss(outputs, y)
        if loss.requires_grad:
            self.losses.append(loss.mean().item())
        return loss

    def tally(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        return self.inner.tally(outputs, y)

    def scores(self, tally: dict[str, Tensor]) -> dict[str, float]:
        return self.inner.scores(tally)


def trace(name: str) -> dict[str, Any]:
    """The losses of all steps, segment after segment, or layers' least squares distances; and sums over each tensor of the
    finished chain and network."""
    method, optimizer = TRACES[name]
    torch.set_num_threads(1)
    run = Run.in_memory(optimizer)
    if isinstance(method, ClosedForm):
        model = tiny.perceptron().double()
        network = method.fit(tiny.problem(LinearMse(), train=160), model, run)  # more samples than features: no distance is 0
        losses = [line["train/lsd"] for line in run.lines]
    else:
        objective, model = Listening(), tiny.chain().double()
        network = method.fit(tiny.problem(objective, train=40, batch_size=40 // STEPS), model, run)
        losses = objective.losses
    tensors = {
        **{key: tensor for key, tensor in model.state_dict().items() if key.startswith("blocks.")},
        **{f"network.{key}": tensor for key, tensor in network.state_dict().items() if key.startswith("head.")},
    }
    return {
        "method": type(method).__name__,
        "numerics_version": method.version(),
        "losses": losses,
        "sums": {key: [tensor.double().sum().item(), tensor.double().abs().sum().item()] for key, tensor in tensors.items()},
    }


def complaint(name: str, stored: dict[str, Any] | None, now: dict[str, Any]) -> str | None:
    """What is wrong with a trace, or None."""
    if stored is None:
        return f"{name}: no golden trace; write it with python tests/test_golden.py --write"
    version = now["numerics_version"]
    if stored["numerics_version"] != version:
        return (
            f"{name}: its trace is of numerics_version {stored['numerics_version']}, not {version}: write it anew with --write"
        )
    moved = [key for key in stored["sums"] if now["sums"].get(key) != pytest.approx(stored["sums"][key], rel=1e-10, abs=1e-13)]
    steps = len(stored["losses"])
    if now["losses"] != pytest.approx(stored["losses"], rel=1e-10):
        pairs = zip(stored["losses"], now["losses"], strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != pytest.approx(b, rel=1e-10)), steps)
        moved.insert(0, f"its loss number {first + 1}")
    if moved or now["sums"].keys() != stored["sums"].keys() or now["method"] != stored["method"]:
        return (
            f"{name}: {moved[0] if moved else 'its weights are others'} moved at numerics_version {version}: if that is meant, "
            f"raise {now['method']}.numerics_version and run python tests/test_golden.py --write"
        )
    return None


def stored(name: str) -> dict[str, Any] | None:
    path = GOLDEN / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_moves_only_with_its_numerics_version(name: str) -> None:
    now = trace(name)
    segments = 1 if name.startswith("backprop") else 2 if name == "segments_of_two" else 3
    layers = len(tiny.PERCEPTRON)
    assert len(now["losses"]) == (layers if name.startswith("platonic") else STEPS * segments)
    assert (problem := complaint(name, stored(name), now)) is None, problem


def test_every_stored_trace_belongs_to_a_test() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(TRACES)


def test_checkpointing_and_backprop_have_one_trace() -> None:
    assert stored("backprop") == stored("backprop_checkpointed")


@pytest.mark.parametrize("key", ["losses", "sums"])
@pytest.mark.parametrize(("name", "method"), [("dll", "Segmentwise"), ("platonic", "Platonic")])
def test_a_trace_that_moves_by_a_billionth_asks_for_a_new_version(name: str, method: str, key: str) -> None:
    golden = stored(name)
    assert golden is not None
    moved = json.loads(json.dumps(golden))
    values = moved["losses"] if key == "losses" else next(iter(moved["sums"].values()))
    values[1] *= 1 + 1e-9
    assert f"raise {method}.numerics_version" in str(complaint(name, golden, moved))
    assert complaint(name, golden, golden) is None
    moved["numerics_version"] += 1
    assert "--write" in str(complaint(name, golden, moved))


def write() -> int:
    """Write missing traces and those of a new version; complain of the others that moved."""
    GOLDEN.mkdir(exist_ok=True)
    refused = 0
    for name in TRACES:
        old, now = stored(name), trace(name)
        if old is None or old["numerics_version"] != now["numerics_version"]:
            (GOLDEN / f"{name}.json").write_text(json.dumps(now, indent=1) + "\n")
            print(f"{name}: written")
        elif problem := complaint(name, old, now):
            print(problem, file=sys.stderr)
            refused = 1
    return refused


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: python {sys.argv[0]} --write")
    sys.exit(write())
