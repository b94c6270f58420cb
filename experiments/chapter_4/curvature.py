"""§4.14 as numbers: printed second derivatives of ½(y − t)² against automatic ones, and which first term is larger."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

X = torch.linspace(-10, 10, 2001, dtype=torch.float64)
TARGET, OTHER = 1.0, 0.0  # what the output is to be, and the other output in the softmax's sum
# Of outputs the unit y(x) as a function that is differentiated; s is what it is at the same x, but for `softmax` a constant.
UNITS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda x, s: x,
    "softmax": lambda x, s: x.exp() / (x.exp() + np.exp(OTHER)),
    "softmax_fixed": lambda x, s: x.exp() / s,
    "exp": lambda x, s: x.exp(),
    "pow3": lambda x, s: x**3,
}
# First and second term of equations 4.1 to 4.4.
PRINTED: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "linear": lambda x, s: (torch.ones_like(x), torch.zeros_like(x)),
    "softmax": lambda x, s: ((2 * x).exp() / s**2, x.exp() / s * (TARGET - x.exp() / s)),
    "softmax_fixed": lambda x, s: ((2 * x).exp() / s**2, x.exp() / s * (TARGET - x.exp() / s)),
    "exp": lambda x, s: ((2 * x).exp(), x.exp() * (TARGET - x.exp())),
    "pow3": lambda x, s: (9 * x**4, 6 * x * (TARGET - x**3)),
}
NEXT = {"pow3": "exp", "exp": "softmax_fixed", "softmax_fixed": "linear", "softmax": "linear"}  # said to have the smaller one


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what `numbers` says of each unit."""
    return runs.join(pd.DataFrame([numbers(unit) for unit in runs["unit"]], index=runs.index))


def numbers(unit: str) -> dict[str, float]:
    """formula_error: of the printed second derivative, relative to the largest one. above_next, above_next_right and _left:
    where |x| ≥ 1, x ≥ 1 and x ≤ −1, the share of x at which the first term is larger than that of the unit said to be below.
    Of dδ/dx, δ = y − t, the value at −2 and 2 and the largest."""
    s = normaliser()
    first, second = PRINTED[unit](X, s)
    true = derivative(lambda x: derivative(lambda z: (UNITS[unit](z, s) - TARGET) ** 2 / 2, x), X)
    found = {"formula_error": float((first - second - true).abs().max() / true.abs().max())}
    found |= dict.fromkeys(("above_next", "above_next_right", "above_next_left"), float("nan"))
    if unit in NEXT:
        above, left, right = first > PRINTED[NEXT[unit]](X, s)[0], X <= -1, X >= 1
        places = {"above_next": left | right, "above_next_right": right, "above_next_left": left}
        found |= {name: float(above[place].double().mean()) for name, place in places.items()}
    slope = derivative(lambda x: UNITS[unit](x, s), X)
    at = {name: float(slope[(X - x).abs().argmin()]) for name, x in {"delta_slope_low": -2, "delta_slope_high": 2}.items()}
    return {**found, **at, "delta_slope_most": float(slope.max())}


def normaliser() -> Tensor:
    """s = e^x + e^(other), at each x."""
    return X.exp() + np.exp(OTHER)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Of a function of each x alone, at x; it may be differentiated again."""
    at = x if x.requires_grad else x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(at).sum(), at, create_graph=True)
    return slope if x.requires_grad else slope.detach()


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """First terms, second derivatives as they are, and derivatives of the deltas."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    first, whole, deltas = figure.subplots(1, 3)
    s = normaliser()
    for i, unit in enumerate(declaration.artefact.axes["unit"]):
        style = {"color": f"C{i}", "label": declaration.label("unit", unit), "linewidth": 1.2}
        style["linestyle"] = "--" if unit == "softmax_fixed" else "-"
        true = derivative(lambda x, unit=unit: derivative(lambda z: (UNITS[unit](z, s) - TARGET) ** 2 / 2, x), X)
        if unit != "softmax":
            first.plot(X, PRINTED[unit](X, s)[0], **style)
        whole.plot(X, true, **style)
        if unit != "softmax_fixed":
            deltas.plot(X, derivative(lambda x, unit=unit: UNITS[unit](x, s), X), **style)
    for axes, title in ((first, "first terms, as printed"), (whole, "d²/dx² ½(y − t)², t = 1"), (deltas, "dδ/dx, δ = y − t")):
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("x", fontsize=8)
        axes.tick_params(labelsize=7)
    whole.legend(frameon=False, fontsize=6)
    return figure
