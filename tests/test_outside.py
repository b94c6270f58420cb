"""What CONTRIBUTING shows in `tests/outside`: each folder is a plugin that run.py takes as it lies there. Its own tests are run
beside these."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import ROOT, run_here
from torch import nn

from effdl import Batch, Rule, Run, Sgd, config, load_network
from effdl.archs.chain import BlockChain
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.records.plan import cost
from effdl.setting import setting
from effdl.testing import check_method
from effdl.training.segments import SegmentPlan, Training

OUTSIDE = ROOT / "tests" / "outside"
FOLDERS = sorted(folder.name for folder in OUTSIDE.iterdir() if (folder / "configs").is_dir())
MNIST = Path(os.environ.get("EFFDL_DATA", "data")).absolute() / "MNIST" / "raw"
EPOCHS, LAYERS = 2, 2
SMALL = ("arch=mlp", "arch.hidden=[30,20]", "hardware.threads=1", f"method.epochs={EPOCHS}")


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_PLUGINS", ":".join(str(OUTSIDE / name) for name in FOLDERS))


def carried_out(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert run_here(*overrides) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["status"] == "finished" and isinstance(load_network(result["path"]), nn.Module)
    summary: dict[str, Any] = result["summary"]
    return summary


def test_there_are_folders_with_a_module_a_choice_and_a_test_each() -> None:
    assert len(FOLDERS) >= 3
    for name in FOLDERS:
        (choice,) = (OUTSIDE / name / "configs").rglob("*.yaml")
        files = {path.relative_to(OUTSIDE / name).as_posix() for path in (OUTSIDE / name).rglob("*.*") if path.suffix != ".pyc"}
        assert {f"{name}.py", f"test_{name}.py"} < files and len(files - {"configs"}) == 3 and choice.stem == name


def test_forward_forward_runs_as_planned_and_keeps_no_features(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("method=forward_forward", *SMALL)
    summary = carried_out(capsys, *overrides)
    told = cost(config.build(config.compose(overrides)))
    assert told is not None and told.peak_bytes == summary["memory/accounted_peak_bytes"]
    assert told.segment_bytes == summary["memory/segment_peak_bytes"]
    assert summary["memory/kept_features_bytes"] == 0
    assert summary["data/train_samples"] == EPOCHS * LAYERS * 1200  # each sample once, though in two rows


def test_transport_runs_on_a_residual_network(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("arch=resnet18", "dataset.train_limit=64", "dataset.val_size=64", "method.epochs=1", "test_every=run")
    summary = carried_out(capsys, "method=transport", *overrides, "hardware.threads=1")
    assert summary["memory/kept_features_bytes"] > 0


@pytest.mark.parametrize("method", ["backprop", "dll"])
def test_sparse_parity_is_learned_and_nothing_of_it_is_kept(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary = carried_out(
        capsys, "dataset=sparse_parity", f"method={method}", "optimizer=adamw", *SMALL[:3], "method.epochs=25"
    )
    assert summary["test/acc"] > 0.9 and summary["memory/kept_features_bytes"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not there")
def test_forward_forward_learns_mnist_from_6000_images(capsys: pytest.CaptureFixture[str]) -> None:
    mnist = ("dataset=mnist", "dataset.train_limit=6000", "dataset.val_size=1000", "dataset.batch_size=64")
    network = ("arch=mlp", "arch.hidden=[500,500]", "method.epochs=10", "test_every=run", "hardware.threads=1")
    summary = carried_out(capsys, "method=forward_forward", *mnist, *network)
    assert summary["test/acc"] > 0.9


# --- what the engine holds a rule to


class Plain(Rule):
    """Learns as it should; what follows does not."""

    def __init__(self, blocks: nn.Sequential, head: nn.Module) -> None:
        super().__init__(blocks)
        self.head = head

    def learn(self, batch: Batch, epoch: int) -> Batch:
        z = self(batch.x.detach())
        loss = nn.functional.cross_entropy(self.head(z), batch.y, reduction="none")
        return self.end(batch, z, loss)

    def end(self, batch: Batch, z: torch.Tensor, loss: torch.Tensor) -> Batch:
        loss.mean().backward()
        return batch.passed_on(z.detach(), loss.detach())

    def predictor(self, chain: BlockChain) -> nn.Module:
        return chain.with_head(self.head)


class Idle(Plain):
    def end(self, batch: Batch, z: torch.Tensor, loss: torch.Tensor) -> Batch:
        return batch.passed_on(z.detach(), loss.detach())


class Elsewhere(Plain):
    def end(self, batch: Batch, z: torch.Tensor, loss: torch.Tensor) -> Batch:
        loss.mean().backward()
        return batch.passed_on(z.detach() + 1, loss.detach())


class Averaged(Plain):
    def end(self, batch: Batch, z: torch.Tensor, loss: torch.Tensor) -> Batch:
        loss.mean().backward()
        return batch.passed_on(z.detach(), loss.mean().detach())


class Silent(Plain):
    def end(self, batch: Batch, z: torch.Tensor, loss: torch.Tensor) -> Batch:
        loss.mean().backward()
        return batch.passed_on(z.detach())


class Weighing(Plain):
    """Learns from what it made ready itself, and from nothing else."""

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        return replace(batch, sample_weight=torch.rand(len(batch), generator=generator))

    def end(self, batch: Batch, z: torch.Tensor, loss: torch.Tensor) -> Batch:
        assert batch.sample_weight is not None
        return super().end(batch, z, loss * batch.sample_weight)


@setting
class ByRule(Method):
    """Trains the whole network by one of these rules."""

    rule: Any = Plain

    def training(self, problem: Any, model: BlockChain, run: Any) -> Training:
        plan = SegmentPlan(0, len(model), 1, lambda blocks, shapes: self.rule(blocks, model.head))
        return Training([plan], 0)

    def network(self, model: BlockChain, *others: Any) -> nn.Module:
        return model


@pytest.mark.parametrize("rule", [Plain, Weighing])
def test_a_rule_that_keeps_its_promises_is_not_complained_of(rule: type[Rule]) -> None:
    check_method(ByRule(rule=rule))  # whose cost is tried too, on batches made ready


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Idle, "the rule Idle left no gradient in a step: "),
        (Elsewhere, "the rule Elsewhere passes on something else than what its last block put out: "),
        (Averaged, "the rule Averaged gives no loss of each sample: "),
        (Silent, "the rule Silent gives no loss of each sample: "),
    ],
)
def test_a_rule_that_breaks_its_promises_is_named_in_one_line(rule: type[Rule], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}") as told:
        ByRule(rule=rule).fit(tiny.problem(), tiny.chain(), Run.in_memory(Sgd()))
    assert len(str(told.value).splitlines()) == 1
