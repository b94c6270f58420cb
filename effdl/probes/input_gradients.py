"""Gradients of the loss in the space of the inputs, sample by sample (thesis §5.4.2, figure 5.16)."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.probes.fgsm import gradient
from effdl.probes.of_layers import OfSample
from effdl.probes.sample import can_see
from effdl.setting import Count, setting
from effdl.training.look import Look

MOST = 8  # inputs


@setting
class InputGradients(OfSample):
    """∂L/∂x of each sample's own loss, by automatic differentiation through the network that the segment trains, in evaluation
    mode and float64, whatever rule it learns by; of inputs so few that they can be drawn.

    Point by point ``input/<i>`` and ``gradient/<i>`` for each input i, and ``class``, where targets are classes; ``rms``, the
    root of the mean over samples of ‖∂L/∂x‖². A filter changes nothing here: samples are of all that training had before it.

    every: by default before the first and after the last epoch. samples: 500, as many as a ledger keeps of a list.
    """

    every: Count = 1000
    samples: Count = 500

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        if (inputs := math.prod(problem.input_shape)) > MOST:
            raise ConfigError(
                f"probe=input_gradients: {inputs:,} inputs are more than can be drawn, {MOST}; leave the probe out, or take a "
                "problem in the plane, such as dataset=checkerboard"
            )

    def measure(self, look: Look) -> Mapping[str, Any]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None and look.learning.network is not None
        learning, problem = look.learning, look.learning.problem
        precise = deepcopy(look.learning.network).double()
        split, index = self.sample.of(problem)
        places, slopes = [], []
        for batch in split.gather(index.split(problem.batch_size)):
            places.append(batch.x.double().flatten(1))
            slopes.append(gradient(precise, learning.objective, batch.x, batch.y).flatten(1))
        x, slope = torch.cat(places), torch.cat(slopes)
        found: dict[str, Any] = {"rms": float(slope.square().sum(1).mean().sqrt())}
        for name, columns in (("input", x.T), ("gradient", slope.T)):
            found |= {f"{name}/{i}": [float(f"{value:.6g}") for value in column.tolist()] for i, column in enumerate(columns)}
        y = self.sample.targets(problem)
        return found | ({} if y.is_floating_point() else {"class": y.tolist()})
