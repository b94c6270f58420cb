"""Gradients of a batch, part by part: those of the whole batch, for less memory."""

from pathlib import Path
from typing import Any

import command
import pytest
import torch
from torch import nn

from effdl import config
from effdl.archs.classifier import Classifier
from effdl.archs.pixelnet import Pixelnet
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.objectives.amplification import ExpGa
from effdl.objectives.losses import SoftmaxCe
from effdl.objectives.objective import Objective
from effdl.records.plan import cost
from effdl.training.decision_rule import DecisionRule
from effdl.training.fused_sgd import FusedSgd
from effdl.training.learner import Learner
from effdl.training.optim import Sgd

START = [
    *("method=backprop", "hardware=cpu", "hardware.threads=1"),
    *("dataset=digits", "dataset.train_limit=200", "dataset.batch_size=64"),
]


def gradients(accumulate: int, batch: Batch, kind: Any = Sgd) -> tuple[list[torch.Tensor], Batch]:
    """The weights after a step of rate 1 from the same beginning, and what the step says of the batch."""
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).double()
    rule = DecisionRule(blocks, Classifier((5,), 3, None).double(), SoftmaxCe(), accumulate=accumulate)
    optimizer = kind(lr=1.0, momentum=0.0).build(rule.parameters())
    (out,) = Learner(rule, optimizer, seed=lambda epoch, step: step).train_epoch([batch])
    return [p.detach().clone() for p in rule.parameters()], out


def samples(count: int, weighted: bool) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(count, 6, generator=generator).double(), torch.randint(0, 3, (count,), generator=generator)
    weight = torch.rand(count, generator=generator).double() if weighted else None
    return Batch(x, y, torch.arange(count), weight)


@pytest.mark.parametrize("kind", [Sgd, FusedSgd])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("count", "parts"), [(12, 3), (13, 4), (5, 4), (3, 2), (1, 4), (16, 100)])
def test_parts_of_any_size_and_weight_make_the_step_of_the_whole_batch(
    count: int, parts: int, weighted: bool, kind: Any
) -> None:
    batch = samples(count, weighted)
    (whole, told), (found, said) = gradients(1, batch), gradients(parts, batch, kind)
    for a, b in zip(whole, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert torch.equal(said.index, told.index) and torch.equal(said.y, told.y)
    torch.testing.assert_close(said.loss, told.loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(said.x, told.x, rtol=1e-10, atol=1e-12)


def test_a_step_in_parts_takes_the_memory_of_a_part() -> None:
    def step(more: list[str]) -> float:
        planned = cost(config.build(config.compose([*START, "arch=cnn4", "arch.size=32", *more])), threads=1, rows=())
        assert planned is not None
        return planned.peak_bytes

    whole, parts, small = step([]), step(["method.accumulate=4"]), step(["dataset.batch_size=16"])
    assert parts < 0.4 * whole and small < parts < small + 64 * 3 * 32 * 32 * 8  # beside it the whole batch's own inputs


def test_a_run_in_parts_ends_where_a_plain_one_does(tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        more = ["arch=mlp", "arch.hidden=[32]", "method.epochs=2", f"method.accumulate={parts}", "test_every=run"]
        found.append(command.answer(command.run(*START, *more, cwd=tmp_path))["summary"])
    assert found[0]["test/acc"] == found[1]["test/acc"]
    assert found[0]["test/loss"] == pytest.approx(found[1]["test/loss"], rel=1e-5)


def test_backprop_in_parts_is_in_the_name_of_its_run_and_cannot_be_stacked() -> None:
    plain = config.build(config.compose([*START, "arch=mlp"]))
    one, four = (config.build(config.compose([*START, "arch=mlp", f"method.accumulate={n}"])) for n in (1, 4))
    assert config.run_id(one, "d") == config.run_id(plain, "d") != config.run_id(four, "d")
    chain = one.arch.build(one.dataset.facts())
    assert one.method.stack_key(chain) is not None and four.method.stack_key(chain) is None


def images(few: bool) -> Batch:
    """Six images of which each has another number of labelled pixels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 3, 32, 32, generator=generator).double()
    y = torch.randint(0, 5, (6, 32, 32), generator=generator)
    for i, labelled in enumerate((7, 19, 60, 3, 41, 52) if few else (7, 1024, 300, 3, 610, 52)):
        y[i].view(-1)[torch.randperm(1024, generator=generator)[labelled:]] = SoftmaxCe.ignore_index
    return Batch(x, y, torch.arange(6))


@pytest.mark.parametrize("objective", [SoftmaxCe(), ExpGa()], ids=lambda objective: type(objective).__name__)
@pytest.mark.parametrize("pixels", [None, 100])
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_of_images_with_ignored_pixels_make_the_step_of_the_whole_batch(
    parts: int, pixels: int | None, objective: Objective
) -> None:
    """And that is the gradient of the mean over images of means over labelled pixels, written out. Where more pixels are drawn
    than have labels, all of these are taken, whatever is drawn."""
    batch, found = images(few=pixels is not None), {}
    facts = Facts((3, 32, 32), "pixels", 5, 6, 0, 0, 6)
    for count in (1, parts):
        torch.manual_seed(0)
        arch = Pixelnet(widths=(2, 3, 4, 4, 4), wide=0, hidden=(6,), dropout=0.0, pixels=pixels)
        chain = arch.build(facts).double().train()
        rule = DecisionRule(chain.blocks, chain.head, objective, accumulate=count)
        optimizer = Sgd(lr=1.0, momentum=0.0).build(rule.parameters())
        before = [p.detach().clone() for p in rule.parameters()]
        whole = chain(batch.x)
        losses = [objective.loss(whole[i, :, y != 255].T, y[y != 255]).mean() for i, y in enumerate(batch.y)]
        expected = torch.autograd.grad(torch.stack(losses).mean(), list(rule.parameters()))
        (told,) = Learner(rule, optimizer, seed=lambda epoch, step: step).train_epoch([batch])
        assert told.loss is not None and told.loss.shape == (6,)
        found[count] = [a - p.detach() for a, p in zip(before, rule.parameters(), strict=True)]
        torch.testing.assert_close(found[count], list(expected), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[parts], found[1], rtol=1e-9, atol=1e-12)
