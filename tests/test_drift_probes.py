"""Probes of conjectures 1 and 2 (§6.6): drift of layers' inputs, and gradients' signs from batch to batch."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from looks import look, of_points
from torch import nn

from effdl.datasets.batch import Batch
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.probes.drift import drift
from effdl.probes.input_sketch import InputSketch
from effdl.probes.probe import measured
from effdl.probes.sign_flips import SignFlips, flips
from effdl.records.run import Run
from effdl.training.infopro import Infopro
from effdl.training.optim import Sgd


def test_flips_are_the_share_of_opposite_signs_among_those_that_are_both_there() -> None:
    a, b = torch.tensor([1, 1, -1, -1, 0, 1, 0]), torch.tensor([1, -1, 1, -1, 1, 0, 0])
    assert flips(a, b).item() == 0.5 and flips(a, -a).item() == 1
    assert flips(a, 0 * a).isnan()


def test_limit_of_samples_that_are_all_alike_no_sign_changes() -> None:
    x, y = torch.ones(8, 3), torch.ones(8, dtype=torch.long)
    assert measured(SignFlips(), of_points(x, y, 2.0, -0.5), 0) == {"0": 0.0, "1": 0.0}


def test_flips_of_a_layer_are_those_of_its_batches_gradients_by_automatic_differentiation() -> None:
    x, y = torch.randn(11, 4, generator=torch.Generator().manual_seed(1)), torch.arange(11) % 3
    seen = of_points(x, y, 1.0, 0.5)
    assert seen.learning is not None
    rule, batches = seen.learning.rule, list[Batch]()
    learn: Any = rule.learn
    rule.learn = lambda batch, epoch: batches.append(batch) or learn(batch, epoch)  # type: ignore[method-assign, func-returns-value]
    found = measured(SignFlips(samples=100), seen, 0)
    assert [len(batch) for batch in batches] == [2] * 5  # and one left over
    for name, layer in seen.blocks.named_children():
        signs = []
        for batch in batches:
            loss = nn.functional.cross_entropy(seen.blocks(batch.x), batch.y)
            signs.append(np.sign(torch.autograd.grad(loss, layer.weight)[0].numpy()).ravel())
        rates = []
        for before, after in pairwise(signs):
            both = (before != 0) & (after != 0)
            rates.append((before != after)[both].mean())
        assert found[name] == pytest.approx(np.mean(rates))


def test_sign_flips_take_what_gradient_dropout_and_a_loss_of_inputs_need() -> None:
    run = Run(0, Sgd(lr=0.05), probes=(SignFlips(samples=32),))
    Segmentwise(epochs=1, loss=Infopro(), gradient_dropout=0.5).fit(tiny.problem(), tiny.chain(), run)
    rates = [value for line in run.lines for key, value in line.items() if key.startswith("sign_flips/")]
    assert len(rates) == 6 and all(0 < rate < 1 for rate in rates)


def test_a_sketch_is_of_what_comes_into_a_layer_and_drift_the_relative_distance() -> None:
    x, y = torch.arange(10.0)[:, None] - 3, torch.arange(10) % 2
    found = measured(InputSketch(), of_points(x, y, 2.0, -0.5), 0)
    assert found == {"0": x[:, 0].tolist(), "1": (2 * x[:, 0]).tolist()}
    assert drift([found["0"], found["1"], found["1"]]) == [pytest.approx(1), 0]


def test_drift_by_sketches_is_near_that_of_the_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 30, generator=generator)
    near = x + 0.3 * torch.randn(40, 30, generator=generator)
    y = torch.zeros(40, dtype=torch.long)
    sketches = [measured(InputSketch(size=512), of_points(z, y, 1.0), 0)["0"] for z in (x, near)]
    assert drift(sketches)[0] == pytest.approx(float((near - x).norm() / x.norm()), rel=0.15)


@pytest.mark.parametrize("method", [Backprop(epochs=3), Segmentwise(epochs=3)], ids=["backprop", "segmentwise"])
def test_inputs_drift_where_layers_below_learn_and_nowhere_else(method: Any) -> None:
    run = Run(0, Sgd(lr=0.05), probes=(InputSketch(samples=10),))
    method.fit(tiny.problem(), tiny.chain(), run)
    for i in (1, 2, 3):
        key = f"input_sketch/conv{i}"
        values = [(line["epoch"], line[key]) for line in run.lines if key in line]
        sketches = [[value for at, value in values if at == epoch] for epoch in (-1, 0, 1, 2)]
        moves = [step > 0 for step in drift(sketches)]
        assert moves == [isinstance(method, Backprop) and i > 1] * 3


def test_the_probes_need_to_know_how_blocks_are_reached() -> None:
    blind = look(tiny.chain(), tiny.problem())
    object.__setattr__(blind, "learning", None)
    assert measured_nothing(SignFlips(), blind) and measured_nothing(InputSketch(), blind)


def measured_nothing(probe: Any, seen: Any) -> bool:
    return dict(probe.measure(seen)) == {}
