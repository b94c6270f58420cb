"""Activations that lie away between forward and backward pass: the same bits, in the memory that was planned."""

from pathlib import Path
from typing import Any

import command
import pytest
import torch
from torch import nn

from effdl import config
from effdl.archs.classifier import Classifier
from effdl.costs.memory import LiveStorages
from effdl.datasets.batch import Batch
from effdl.objectives.losses import SoftmaxCe
from effdl.records.plan import cost
from effdl.training.decision_rule import DecisionRule
from effdl.training.offload import Offload

CPU = torch.device("cpu")
START = [
    *("method=backprop", "hardware=cpu", "hardware.threads=1", "arch=resnet32_cifar", "arch.depth=20", "test_every=run"),
    *("dataset=digits", "dataset.train_limit=32", "dataset.val_size=20", "dataset.batch_size=16", "method.epochs=1"),
]


def network() -> tuple[nn.Sequential, Classifier, Batch]:
    """Convolutions, of which one is channels last, under batch normalisation, dropout and activations in place."""
    torch.manual_seed(0)
    blocks = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last), nn.BatchNorm2d(8), nn.SiLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.3), nn.ReLU(inplace=True)),
    )
    return blocks, Classifier((8, 8, 8), 5, None), Batch(torch.randn(12, 3, 8, 8), torch.arange(12) % 5, torch.arange(12))


def gradients(away: Offload | None, checkpoint: bool, accumulate: int = 1) -> tuple[list[torch.Tensor], int]:
    """Of all parameters and buffers after a step, and the most bytes that were alive on the device."""
    blocks, head, batch = network()
    rule = DecisionRule(blocks, head, SoftmaxCe(), checkpoint=checkpoint, accumulate=accumulate, away=away)
    rule.yields = False
    torch.manual_seed(1)
    with LiveStorages() as counted:
        rule.learn(batch, 0)
    return [p.grad.clone() for p in rule.parameters() if p.grad is not None] + list(rule.buffers()), counted.peak


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_the_same_bits_and_no_file_stays(tmp_path: Path, checkpoint: bool, accumulate: int) -> None:
    (left, whole), (laid, less) = (
        gradients(away, checkpoint, accumulate) for away in (None, Offload("disk", CPU, lambda: tmp_path))
    )
    assert len(left) == len(laid) and all(torch.equal(a, b) for a, b in zip(left, laid, strict=True))
    assert less < whole and list(tmp_path.iterdir()) == []


def test_on_the_host_beside_a_gpu_they_are_the_same_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Offload("host", CPU, lambda: tmp_path)
    assert not host.moves  # of a CPU the host is the device
    host.moves = True
    assert all(torch.equal(a, b) for a, b in zip(gradients(None, True)[0], gradients(host, True)[0], strict=True))


def planned(*more: str) -> float:
    found = cost(config.build(config.compose([*START, *more])), threads=1, rows=())
    assert found is not None
    return found.peak_bytes


def test_a_run_takes_the_memory_that_was_planned_and_ends_with_the_same_numbers(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name, more in {"kept": [], "laid": ["method.offload=disk"]}.items():
        more = [*more, "method.checkpoint=block"]
        found[name] = command.answer(command.run(*START, *more, cwd=tmp_path))["summary"]
        assert found[name]["memory/accounted_peak_bytes"] == planned(*more)
    assert found["kept"]["test/loss"] == found["laid"]["test/loss"]
    # 10 blocks' inputs, of 16 samples of 16, 32 and 64 filters in four bytes, lie away but for one or two.
    assert found["kept"]["memory/accounted_peak_bytes"] - found["laid"]["memory/accounted_peak_bytes"] > 16 * 16 * 32**2 * 4


def test_it_is_in_the_name_of_a_run_and_such_networks_are_not_stacked() -> None:
    plain = ["method=backprop", "hardware=cpu", "dataset=digits", "arch=mlp"]
    one, null, disk = (
        config.build(config.compose([*plain, *more])) for more in ([], ["method.offload=null"], ["method.offload=disk"])
    )
    assert config.run_id(one, "d") == config.run_id(null, "d") != config.run_id(disk, "d")
    chain = one.arch.build(one.dataset.facts())
    assert one.method.stack_key(chain) is not None and disk.method.stack_key(chain) is None
