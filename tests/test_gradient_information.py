"""Bits that gradients tell, where the answer is known by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch
from looks import look, of_points
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.config import build, compose
from effdl.datasets.split import Split
from effdl.errors import ConfigError
from effdl.probes import gradient_information
from effdl.probes.gradient_information import GradientInformation, bits, entropy, in_intervals
from effdl.probes.probe import measured
from effdl.training.look import Look


def test_intervals_have_equally_many_samples_and_part_no_equal_values() -> None:
    values = torch.tensor([0.3, -1.0, 2.0, 0.1, 5.0, 0.2])
    assert in_intervals(values, 3).tolist() == [1, 0, 2, 0, 2, 1]
    assert in_intervals(values, 2).tolist() == [1, 0, 1, 0, 1, 0]
    assert in_intervals(torch.tensor([1.0, 1.0, 1.0, 2.0]), 4).tolist() == [0, 0, 0, 3]


def test_bits_are_all_where_neighbours_are_right_and_fanos_where_they_err() -> None:
    classes = torch.arange(16) // 4  # four of four: two bits
    apart = classes[:, None].double() + 0.01 * torch.arange(16)[:, None]
    assert entropy(classes) == 2 and bits(apart, classes) == 2
    moved = apart.clone()
    moved[0] = 3.5  # nearest to the last class: one of sixteen errs
    error = 1 / 16
    h = -error * math.log2(error) - (1 - error) * math.log2(1 - error)
    assert bits(moved, classes) == pytest.approx(2 - h - error * math.log2(3))
    noise = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert bits(noise, torch.arange(400) % 4) < 0.05 and bits(apart, torch.zeros(16)) == 0


def test_a_layer_whose_gradient_is_that_of_the_output_tells_as_much_and_a_blind_one_nothing() -> None:
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    seen = of_points(points, (points[:, 0] > 0).long(), 1.0, 3.0)
    found = measured(GradientInformation(bins=4, samples=200), seen, 0)
    names = (
        ["linear1", "linear2", "output"] if "bits/linear1" in found else [key[5:] for key in found if key.startswith("bits/")]
    )
    # Layers that multiply pass gradients on but for a factor: neighbours are the same.
    assert len({found[f"bits/{name}"] for name in names}) == 1 and 1 < found["bits/output"] <= found["entropy"] == 2


def test_units_that_put_out_nothing_pass_nothing_on() -> None:
    dead = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU())
    dead[1].weight.data.zero_()
    dead[1].bias.data.fill_(-1)
    model = BlockChain([nn.Sequential(nn.Flatten(), nn.Linear(36, 36)), dead], nn.Linear(4, 3), tiny.chain().input)
    first, last = model.names
    found = measured(GradientInformation(bins=2, samples=40), look(model, tiny.problem()), 0)
    assert found[f"bits/{first}"] < 0.2 < found[f"bits/{last}"] and found["entropy"] > 0.9


def test_what_does_not_fit_together_is_worked_out_in_more_passes_and_what_never_fits_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, passes, all_slopes = tiny.problem(train=400), list[int](), gradient_information.slopes

    def counted(look: Look, split: Split, index: Tensor, weights: Sequence[Tensor]) -> Any:
        passes.append(len(index))
        return all_slopes(look, split, index, weights)

    monkeypatch.setattr(gradient_information, "slopes", counted)
    model = tiny.perceptron(hidden=(600, 500, 400))  # of 400 samples 0.92, 0.76 and 0.61 MiB
    found = [measured(GradientInformation(memory_mib=mib, samples=400), look(model, problem), 0) for mib in (1024, 1)]
    assert found[0] == found[1] and passes == [1, 400, 1, 400, 400, 400]
    with pytest.raises(ConfigError, match=r"^probe\.gradient_information\.memory_mib: layer linear1 of 400 samples takes"):
        measured(GradientInformation(memory_mib=1, samples=400), look(tiny.perceptron(hidden=(1200,)), problem), 0)


def test_more_bins_than_samples_serve_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^probe\.gradient_information\.bins: of 40 samples there may be 2 to 20 bins"):
        build(compose(["dataset=digits", "arch=mlp", "probe=gradient_information", "probe.gradient_information.samples=40",
                       "probe.gradient_information.bins=21"]))  # fmt: skip
