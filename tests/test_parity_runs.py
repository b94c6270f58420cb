"""Runs on the parity of digits: what a plan, a measurement, a cut and a user's command make of samples made anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import IdxSet, files, numbers, run_here
from digit_pool import pool, problem

from effdl import config
from effdl.archs.chain import BlockChain
from effdl.archs.mlp import Mlp
from effdl.datasets.batch import Batch
from effdl.datasets.parity import Parity, SideBySide
from effdl.datasets.split import Samples
from effdl.errors import DataError
from effdl.methods.backprop import Backprop
from effdl.objectives.losses import SigmoidBce
from effdl.records.carry import carry_out
from effdl.records.measure import Measure
from effdl.records.plan import cost
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.training.features import Stack
from effdl.training.loop import evaluate
from effdl.training.optim import Sgd

# Of 400 + 40 images of 4×4 pixels: two layers, two epochs each
SMALL = (
    "dataset=parity",
    "dataset.root=data",
    "dataset.k=2",
    "dataset.batch_size=20",
    "dataset.val_size=100",
    "arch=mlp",
    "arch.hidden=[8,6]",
    "hardware.threads=1",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small set that is read as MNIST."""
    IdxSet(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec(*overrides: str) -> config.Spec:
    return config.build(config.compose([*SMALL, *overrides]))


def test_nothing_made_of_it_is_kept_but_a_recording_is_and_a_plan_knows_both(folder: Path) -> None:
    for more, kept in (("dataset.k=2", False), ("dataset.k=1", True)):
        asked = spec("method.epochs=2", more)
        told, summary = cost(asked), carry_out(asked, folder / "results")["summary"]
        assert told is not None and told.peak_bytes == summary["memory/accounted_peak_bytes"]
        assert told.resident_bytes == summary["memory/resident_peak_bytes"]
        assert (summary["memory/kept_features_bytes"] > 0) == kept == any(s.kept_bytes > 0 for s in told.segments)
    asked = spec("method.epochs=2", "method.record_at=all", "method.store=device")
    told, summary = cost(asked), carry_out(asked, folder / "results")["summary"]
    assert told is not None and told.resident_bytes == summary["memory/resident_peak_bytes"]
    assert summary["data/recorded_bytes"] > 0


# --- what is measured


def test_the_trained_network_is_measured_on_the_samples_of_the_last_epoch() -> None:
    """And not on those that stand for them beforehand, of which it has seen none."""
    on, run = problem(k=2), Run.in_memory(Sgd(lr=0.01))
    network = Backprop(epochs=3, measure_train=True).fit(on, Mlp(hidden=(8,)).build(on.facts), run)
    last, first = (on.train_split.epoch(e, seed_for(on.seed, "samples", e)).tensors() for e in (2, 0))
    scores = [evaluate(network, [Batch(s.x, s.y, s.y)], on.objective) for s in (last, first, on.train_split.tensors())]
    assert run.notes["train/end_loss"] == pytest.approx(scores[0]["loss"], rel=1e-5)
    assert all(run.notes["train/end_loss"] != pytest.approx(other["loss"], rel=1e-5) for other in scores[1:])


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def test_each_measurement_has_test_samples_of_its_own_which_a_seed_repeats(folder: Path) -> None:
    """A network that learns next to nothing has one loss on one set, and another on each other."""
    still = ("method=backprop", "optimizer.lr=1e-30", "method.epochs=3")
    first = carry_out(spec(*still), folder / "a")
    found = [line["test/loss"] for line in lines(first["path"]) if "test/loss" in line] + [first["summary"]["test/loss"]]
    assert len({*found}) == 4
    assert numbers(Path(first["path"])) == numbers(Path(carry_out(spec(*still), folder / "b")["path"]))
    for more in ("dataset.k=1", "test_every=run"):
        other = carry_out(spec(*still, more), folder / "a")
        losses = {line["test/loss"] for line in lines(other["path"]) if "test/loss" in line}
        assert len(losses | {other["summary"]["test/loss"]}) == 1
    assert other["summary"]["test/loss"] == first["summary"]["test/loss"]  # measured once more or once alone


def test_of_test_samples_that_are_made_anew_no_features_are_kept() -> None:
    for k, kept in ((2, False), (1, True)):
        test, model = pool(100, k), Mlp(hidden=(6, 5)).build(problem(k).facts).eval()
        measure = Measure(test, SigmoidBce(), 8)
        measure.renew(0, 7)
        found = measure.above(
            BlockChain(dict(model.blocks[1:].named_children()), model.head),
            True,
            Stack((model.input, *model[:1]), (0, 2)),
            2**30,
        )
        x, y = (test.epoch(0, 7) if k > 1 else test).tensors().x, (test.epoch(0, 7) if k > 1 else test).y
        assert found["test/loss"] == pytest.approx(SigmoidBce().loss(model(x), y).mean().item(), rel=1e-5)
        assert (measure.kept_bytes > 0) == kept


def test_the_test_samples_of_a_measurement_are_the_pools_permuted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, renew = list[Samples](), Measure.renew

    def watching(self: Measure, number: int, seed: int) -> None:
        renew(self, number, seed)
        seen.append(self._samples.tensors())

    monkeypatch.setattr(Measure, "renew", watching)
    carry_out(spec("method=backprop", "method.epochs=2"), folder / "results")
    _, test = spec().dataset.load()
    assert len(seen) == 3
    for samples in seen:
        for left, right, label in zip(samples.x[..., :4], samples.x[..., 4:], samples.y, strict=True):
            a, b = (int((test.images == half).all((1, 2, 3)).nonzero()) for half in (left, right))
            assert int(label) == int(test.labels[a] + test.labels[b]) % 2


@pytest.mark.parametrize("more", [(), ("method.record_at=all",), ("method=backprop", "filter=random_subset")])
def test_a_run_that_was_cut_off_ends_in_the_same_numbers(
    more: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec("method.epochs=2", *more)
    alone = carry_out(asked, folder / "alone")
    cut_off = tiny.resumed(asked, folder / "cut", monkeypatch, 1, 2)
    assert numbers(Path(alone["path"])) == numbers(Path(cut_off["path"]))


def test_shuffled_test_labels_move_no_weight_and_no_other_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, load = spec("method.epochs=2"), Parity.load
    first = carry_out(asked, folder / "a")

    def shuffled(self: Parity) -> tuple[SideBySide, SideBySide]:
        train, test = load(self)
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(1))
        return train, SideBySide(test.images, test.labels[order], test.k)

    monkeypatch.setattr(Parity, "load", shuffled)
    second = carry_out(asked, folder / "b")
    found = [numbers(Path(result["path"])) for result in (first, second)]
    (lines_a, a), (lines_b, b) = found

    def rest(metrics: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in metrics.items() if not name.startswith("test/")}

    assert a["network/sha256"] == b["network/sha256"] and rest(a) == rest(b)
    assert [*map(rest, lines_a)] == [*map(rest, lines_b)]
    assert a["test/loss"] != b["test/loss"]


# --- as a user meets it


def test_it_runs_on_the_embedded_digits_with_one_logistic_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", str(tmp_path / "nowhere"))
    network = ("arch=mlp", "method=backprop", "method.epochs=1", "hardware.threads=1")
    assert run_here("dataset=parity", "dataset.digits=digits", "dataset.k=3", *network) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    stored = json.loads((Path(result["path"]) / "spec.json").read_text())
    assert stored["config"]["objective"]["_target_"].endswith("SigmoidBce")
    assert stored["facts"] | {"train": 1200, "val": 242, "test": 355, "outputs": 1, "changes": True} == stored["facts"]


def test_a_named_objective_wins_and_so_does_a_methods_own(folder: Path) -> None:
    assert type(spec("objective=tanh_mse").objective).__name__ == "TanhMse"
    assert type(spec("method=elm").objective).__name__ == "LinearMse"
    assert type(config.build(config.compose(["dataset=digits"])).objective).__name__ == "SoftmaxCe"


@pytest.mark.parametrize(
    ("overrides", "code", "says"),
    [
        ("dataset.k=0", 2, "dataset.k: Input should be greater than or equal to 1"),
        ("dataset.k=1.5", 2, "dataset.k: Input should be a valid integer"),
        ("dataset.k=41", 3, "dataset.k=41 images side by side are more than the 40 test images: dataset.k=40 at most"),
        ("dataset.k=30 dataset.val_size=20", 3, "dataset.k=30 images side by side are more than the 20 validation images"),
        ("dataset.k=30 dataset.train_limit=25", 3, "dataset.k=30 images side by side are more than the 25 training images"),
        ("dataset.digits=svhn", 2, "dataset.digits: Input should be 'mnist', "),
        ("dataset.digits=kmnist", 3, "no KMNIST under "),
        ("dataset.val_size=400", 2, "dataset.val_size: 400 leaves no training samples"),
        ("dataset.scaling=mnist dataset.digits=digits", 2, "dataset.scaling=mnist is for pixels from 0 to 255"),
        ("objective=softmax_ce", 2, "objective: SoftmaxCe needs 2 outputs"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    overrides: str, code: int, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    assert run_here(*SMALL, *overrides.split()) == code
    told = capsys.readouterr().err
    assert told.startswith(f"effdl: {says}") and told.count("\n") == 1
    assert files(folder) == before


def test_labels_that_are_no_digits_are_refused(folder: Path) -> None:
    IdxSet.relabel(_set(folder), "train-labels-idx1-ubyte", 3, 200)
    with pytest.raises(DataError, match=r"label 200, outside 0\.\.9"):
        spec().dataset.load()


def _set(folder: Path) -> Any:
    found = object.__new__(IdxSet)
    found.folder = folder / "data" / "MNIST" / "raw"
    return found
