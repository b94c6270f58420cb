"""What figure 3.2 shows and claims: root mean squares of gradients, and entropies beside them, layer by layer."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.series import Series, curve

LAYERS = {"linear1": "784×392", "linear2": "392×50", "output": "50×10"}
NOTHING = float("nan")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds correlations of log₂(G + 1) and entropy over the epochs of training, by layer and the least, of 16 bins and of 256
    ("fine"); largest_fall, of G after the last epoch over that after the first; largest_step, of means over epochs of a layer's
    over the next one's; largest_ratio of both."""
    return runs.join(pd.DataFrame([compared(one) for one in runs.get("series", [None] * len(runs))], index=runs.index))


def compared(series: Series | None) -> dict[str, float]:
    rms = {layer: trained(series, f"gradient_rms/weights/{layer}") for layer in LAYERS}
    found: dict[str, float] = {}
    for bits, kind in ((4, ""), (8, "_fine")):
        of_layers = {
            layer: correlation(np.log2(g + 1), trained(series, f"weight_entropy/{bits}/{layer}")) for layer, g in rms.items()
        }
        found |= {f"correlation_{layer}{kind}": value for layer, value in of_layers.items()}
        found[f"correlation_least{kind}"] = float(np.min([*of_layers.values()]))
    found["largest_fall"] = float(np.max([g.iloc[-1] / g.iloc[0] if len(g) > 1 else NOTHING for g in rms.values()]))
    found["largest_step"] = float(np.max([lower.mean() / upper.mean() for lower, upper in pairwise(rms.values())]))
    return found | {"largest_ratio": float(np.max([found["largest_fall"], found["largest_step"]]))}


def trained(series: Series | None, key: str) -> pd.Series:
    """By epochs behind, from the first on."""
    return pd.Series({epoch: value for epoch, value in curve(series, key) if epoch > 0}, dtype=float)


def correlation(one: pd.Series, other: pd.Series) -> float:
    """Pearson's, over the epochs of both; not a number where one does not vary."""
    both = pd.concat([one, other], axis=1, join="inner").to_numpy()
    if len(both) < 2 or not (both.std(0) > 0).all():
        return NOTHING
    return float(np.corrcoef(both.T)[0, 1])


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Means over runs of G by layer, logarithmic, and beside it of the entropies."""
    own = runs[(runs["cell"] == "network=mlp") & (runs["status"] == "finished")]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (layer, label) in enumerate(LAYERS.items()):
        for axes, key in ((left, f"gradient_rms/weights/{layer}"), (right, f"weight_entropy/4/{layer}")):
            of_runs = [trained(series, key) for series in own.get("series", [])]
            if of_runs:
                means = pd.concat(of_runs, axis=1).mean(axis=1)
                axes.plot(means.index, means, color=f"C{i}", marker="." if len(means) < 40 else None, label=label)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="epochs", ylabel="RMS of ∂MSE/∂w", yscale="log")
    right.set(xlabel="epochs", ylabel="entropy in 16 bins (bits)")
    left.set_title(f"n {len(own)}, means over runs", loc="left", fontsize=8)
    if left.get_lines():
        left.legend(frameon=False, fontsize=7)
    return figure
