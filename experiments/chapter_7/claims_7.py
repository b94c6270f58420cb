"""The numbers behind chapter 7's arithmetic, of networks as they are built and solved here."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from effdl.archs.chain import ArchFacts
from effdl.errors import ConfigError
from effdl.reproduce import artefact

MNIST_SAMPLES, MNIST_PIXELS, MNIST_CLASSES = 60_000, 784, 10


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds value: what each claim is about, and of differences the logarithm."""
    cells = {cell.at["claim"]: cell for cell in artefact.load("claims-7").cells("paper")}
    of = {"units": units, "parameters": parameters, "nodes": nodes, "weights": weights, "limit": limit}
    found = []
    for claim, seed in zip(runs["claim"], runs["seed"], strict=True):
        spec = artefact.specs(cells[claim])[0]
        found.append(expansion_error(spec, int(seed)) if claim == "expansion" else of[claim](spec))
    runs = runs.assign(value=found)
    return runs.assign(log10_difference=np.log10(runs["value"].where(runs["claim"] == "expansion")))


def built(spec: Any) -> torch.nn.Module:
    """The network that was fitted, its weights undefined."""
    with torch.device("meta"):
        return spec.arch.build(spec.dataset.facts())


def units(spec: Any) -> float:
    """Of a hidden layer a training sample, times those of MNIST."""
    return spec.arch.hidden[0] / spec.dataset.facts().train * MNIST_SAMPLES


def parameters(spec: Any) -> float:
    """Of as many layers at MNIST's size; weights alone, for the rule has no biases."""
    widths = [MNIST_PIXELS, *[round(units(spec))] * len(spec.arch.hidden), MNIST_CLASSES]
    return float(sum(a * b for a, b in pairwise(widths)))


def nodes(spec: Any) -> float:
    """Hidden and output units."""
    return float(sum(m.out_features for m in built(spec).modules() if isinstance(m, torch.nn.Linear)))


def weights(spec: Any) -> float:
    """And biases."""
    return float(sum(parameter.numel() for parameter in built(spec).parameters()))


def limit(spec: Any) -> float:
    """The widest layer that the method takes for MNIST's inputs and classes."""
    mnist = replace(spec.dataset.facts(), input_shape=(1, 28, 28), outputs=MNIST_CLASSES, train=MNIST_SAMPLES)

    def passes(width: int) -> bool:
        try:
            spec.method.check(mnist, ArchFacts(1, least_size=1, linear=(width,)), spec.hardware)
        except ConfigError:
            return False
        return True

    return float(max(width for width in range(700, 900) if passes(width)))


def expansion_error(spec: Any, seed: int) -> float:
    """max |Z⁺[Z | Y]P − (P_Z + Z⁺YP_Y)| in float64, y being the sine and Z and P drawn from N(0, 1)."""
    y = spec.dataset.load()[0].y.double()
    generator, width = torch.Generator().manual_seed(seed), spec.arch.hidden[0]
    z = torch.randn(len(y), width, generator=generator, dtype=torch.float64)
    p = torch.randn(width + 1, width, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.pinv(z, rtol=0.0)
    whole = inverse @ (torch.cat([z, y], 1) @ p)
    return (whole - (p[:-1] + inverse @ y @ p[-1:])).abs().max().item()
