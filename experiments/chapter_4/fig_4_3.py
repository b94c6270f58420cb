"""What figure 4.3 shows and claims: RMS of error gradients by layer and epoch, on a logarithmic scale."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

HIDDEN = tuple(f"conv{i}" for i in range(1, 10))
SHOWN = ("output", "conv9", "conv7", "conv5", "conv3", "conv1")  # the output layer and every second hidden one


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds means of log₁₀ RMS over the looks after each epoch, of the outputs and over the hidden layers, and by how much the
    latter grew from after the first epoch to after the last."""
    found = pd.DataFrame([logarithms(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.join(found)


def logarithms(series: Series | None) -> dict[str, float]:
    hidden = pd.DataFrame({layer: log10(series, layer) for layer in HIDDEN}).mean(axis=1, skipna=False)
    after = hidden[hidden.index > 0]
    return {
        "output_log10": float(log10(series, "output").loc[1:].mean()),
        "hidden_log10": float(after.mean()),
        "growth_log10": float(after.iloc[-1] - after.iloc[0]) if len(after) else float("nan"),
    }


def log10(series: Series | None, layer: str) -> pd.Series:
    """By epochs behind."""
    points = curve(series, f"gradient_rms/deltas/{layer}")
    return pd.Series({epoch: np.log10(value) for epoch, value in points}, dtype=float)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The output layer and every second hidden one, over epochs; means over runs of the logarithm."""
    outputs = list(declaration.artefact.axes["output"])
    figure = Figure(figsize=(2.3 * len(SHOWN), 2.8), layout="constrained")
    for axes, layer in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for i, output in enumerate(outputs):
            own = runs[(runs["cell"] == f"output={output}") & (runs["status"] == "finished")]
            of_runs = [log10(series, layer) for series in own.get("series", [])]
            if of_runs:
                means = 10 ** pd.concat(of_runs, axis=1).mean(axis=1)
                axes.plot(means.index, means, color=f"C{i}", label=declaration.label("output", output))
        axes.set_yscale("log")
        axes.set_title("output layer" if layer == "output" else f"layer {layer.removeprefix('conv')}", loc="left", fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_xlabel("epochs", fontsize=7)
    figure.axes[0].set_ylabel("RMS of error gradients", fontsize=8)
    if figure.axes[0].get_lines():
        figure.axes[0].legend(frameon=False, fontsize=6)
    return figure
