"""What figure 3.3 shows and claims: entropies of weights by layer, epoch, bins, and share of the weights that is looked at."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

LAYERS = {"linear1": "784×392", "linear2": "392×50", "output": "50×10"}
BITS, FRACTIONS = (4, 6, 8, 10), (0.01, 0.03, 0.1, 1.0)
SAMPLE_BITS, FINE, PART = 4, 8, 0.03
WITHIN = 0.1  # bits, of an estimate that is reliable


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, of each layer and over layers: shift, the rise of entropy a bit of the histogram; change in training, in 256 bins;
    error, the largest of 3% of the weights in 16 bins; least_fraction from which on that is at most 0.1 bit; and above_bits."""
    return runs.join(pd.DataFrame([of_run(one) for one in runs.get("series", [None] * len(runs))], index=runs.index))


def of_run(series: Series | None) -> dict[str, float]:
    found: dict[str, float] = {}
    above = list[float]()
    for layer in LAYERS:
        whole = {bits: entropies(series, bits, 1.0, layer) for bits in BITS}
        above += [float((of_bits - bits).max()) for bits, of_bits in whole.items()]
        rises = [(whole[more] - whole[less]) / (more - less) for less, more in pairwise(BITS)]
        found[f"shift_{layer}"] = float(pd.concat(rises).mean())
        trained = whole[FINE].loc[1:]
        found[f"change_{layer}"] = float(trained.iloc[-1] - trained.iloc[0]) if len(trained) else float("nan")
        errors = {f: error(entropies(series, SAMPLE_BITS, f, layer), whole[SAMPLE_BITS]) for f in FRACTIONS}
        found |= {f"error_{layer}": errors[PART], f"least_fraction_{layer}": least_fraction(errors)}
    each = {name: [found[f"{name}_{layer}"] for layer in LAYERS] for name in ("shift", "change", "least_fraction")}
    return found | {
        "shift": float(np.mean(each["shift"])),
        "largest_change": float(np.max(each["change"])),
        "least_fraction": float(np.max(each["least_fraction"])),
        "above_bits": float(np.max(above)),
    }


def entropies(series: Series | None, bits: int, fraction: float, layer: str) -> pd.Series:
    """By epochs behind, before training too."""
    part = "" if fraction == 1 else f"{fraction:g}/"
    return pd.Series(dict(curve(series, f"weight_entropy/{bits}/{part}{layer}")), dtype=float)


def error(estimates: pd.Series, whole: pd.Series) -> float:
    """The largest of all looks."""
    return float((estimates - whole).abs().max())


def least_fraction(errors: dict[float, float]) -> float:
    """The smallest from which on all errors are within 0.1 bit."""
    if any(np.isnan(value) for value in errors.values()):
        return float("nan")
    least = 1.0
    for fraction in sorted(errors, reverse=True):
        if errors[fraction] > WITHIN:
            break
        least = fraction
    return least


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel for each number of bins; layers are colours, fractions of the weights line styles; means over runs."""
    own = runs[(runs["cell"] == "network=mlp") & (runs["status"] == "finished")]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, bits in zip(figure.subplots(1, len(BITS)), BITS, strict=True):
        for i, (layer, label) in enumerate(LAYERS.items()):
            for fraction, style in zip(FRACTIONS, (":", "--", "-.", "-"), strict=True):
                of_runs = [entropies(series, bits, fraction, layer) for series in own.get("series", [])]
                if of_runs:
                    means = pd.concat(of_runs, axis=1).mean(axis=1)
                    name = f"{label}, {100 * fraction:g}%"
                    axes.plot(means.index, means, style, color=f"C{i}", linewidth=1, label=name)
        axes.set(xlabel="epochs", title=f"{bits} bits", ylim=(0, None))
    figure.axes[0].set_ylabel("entropy (bits)")
    if figure.axes[0].get_lines():
        figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, fontsize=6, loc="outside right center")
    return figure
