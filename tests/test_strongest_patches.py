"""Patches that excite features most, where they are known by hand."""

import pandas as pd
import pytest
import tiny
import torch
from looks import look
from torch import nn

from effdl import SoftmaxCe
from effdl.archs.chain import BlockChain
from effdl.archs.cnn import conv_block
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.probes.probe import measured
from effdl.probes.strongest_patches import ReceptiveField, StrongestPatches
from effdl.reproduce import artefact
from effdl.reproduce.frame import beside


def corner() -> nn.Module:
    """A feature that is 1 where three pixels of a 3×3 patch are."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight.data = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]]]) / 3
    return nn.Sequential(conv, nn.ReLU())


def problem(images: torch.Tensor) -> Problem:
    y = torch.arange(len(images)) % 2
    return Problem(Samples(images, y), Samples(images[:0], y[:0]), SoftmaxCe(), outputs=2, batch_size=2)


def test_a_corner_is_found_where_it_is_and_beyond_the_image_is_nothing() -> None:
    images = torch.zeros(5, 1, 6, 6)
    images[3, 0, 2, 4] = images[3, 0, 2, 5] = images[3, 0, 3, 4] = 1.0
    model = BlockChain([corner()], nn.Flatten(), nn.Identity())
    (name,) = model.names
    found = measured(StrongestPatches(samples=5), look(model, problem(images)), 0)
    assert (found[f"value/{name}/0"], found[f"side/{name}"]) == (pytest.approx(1), 3)
    assert found[f"{name}/0"] == [0, 0, 0, 0, 1, 1, 0, 1, 0]
    images[3] = 0
    images[1, 0, 5, 5] = 1.0  # half of it lies beyond
    found = measured(StrongestPatches(samples=5), look(model, problem(images)), 0)
    assert found[f"value/{name}/0"] == pytest.approx(1 / 3) and sum(found[f"{name}/0"]) == 1


def test_a_layer_sees_just_what_moves_it() -> None:
    """Of three blocks with pooling, against gradients of linear ones: every pixel of the field has one, and none outside."""
    blocks = nn.Sequential(*(conv_block(1, 1, False, True) for _ in range(3)))
    field, linear = ReceptiveField(), []
    for block in blocks:
        there = field.through(block)
        assert there is not None
        field = there
        conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        conv.weight.data.fill_(1)
        linear += [conv, nn.AvgPool2d(2)]
    assert (field.side, field.jump, field.start) == (22, 8, -7)
    x = torch.zeros(1, 1, 64, 64, requires_grad=True)
    nn.Sequential(*linear)(x)[0, 0, 3, 4].backward()
    assert x.grad is not None
    rows, columns = x.grad[0, 0].nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max()) + 1) == (-7 + 3 * 8, -7 + 3 * 8 + 22)
    assert (int(columns.min()), int(columns.max()) + 1) == (-7 + 4 * 8, -7 + 4 * 8 + 22)
    image = torch.arange(64.0 * 64).view(1, 64, 64)
    assert torch.equal(field.patch(image, 3, 4), image[:, 17:39, 25:47])


def test_of_what_is_no_plain_stack_nothing_is_recorded_and_layers_that_are_not_there_are_refused() -> None:
    model = BlockChain([nn.Sequential(nn.Flatten(), nn.Linear(36, 4))], nn.Linear(4, 3), tiny.chain().input)
    assert measured(StrongestPatches(), look(model, tiny.problem()), 0) == {"images": 0}
    assert ReceptiveField().through(nn.Conv2d(1, 1, (3, 5))) is None
    seen = look(BlockChain([corner()], nn.Flatten(), nn.Identity()), problem(torch.zeros(4, 1, 6, 6)))
    with pytest.raises(ConfigError, match="there is no layer 'conv9'"):
        measured(StrongestPatches(layers=("conv9",)), seen, 0)


def test_figure_5_2_shows_patches_as_they_were_recorded() -> None:
    declaration = artefact.load("fig-5.2")
    own = beside(declaration)
    assert own is not None
    sides = {"conv1": 4, "conv2": 10, "conv3": 22}
    series = {
        f"strongest_patches/{layer}/{feature}": [[0, 4, float(pixel)] for pixel in range(side**2)]
        for layer, side in sides.items()
        for feature in range(6)
    }
    assert own.patch(series, "conv2", 3)[1, 4] == 14
    assert {*series} == {*declaration.artefact.series}
    rows = [{"cell": cell.name, "seed": 0, "status": "finished", "train/acc": 0.9} for cell in declaration.cells("paper")]
    for told in (series, None):
        figure = own.draw(declaration, "paper", pd.DataFrame([{**row, "series": told} for row in rows]))
        assert [len(axes.images) for axes in figure.axes] == [int(told is not None)] * 36
