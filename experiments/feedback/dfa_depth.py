"""What happens in depth, layer by layer: lengths of updates, and when their angles to the gradient become small."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

LAYERS = 8
BELOW = 80.0  # degrees, from which on a layer counts as aligned
LOWEST, HIGHEST = 0.9, 0.2  # greys of the lines: the lower the layer, the lighter


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds lowest_length, log10 of the lowest layer's update before the first epoch; reach and last_reach, log10 of the longest
    layer's over the shortest's then and after the last; aligned, how many layers end within BELOW degrees of the gradient;
    order, Spearman's correlation of layer and onset; and the lowest and the highest layer's angle at the end."""
    rows = [numbers(one) for one in runs.get("series", [None] * len(runs))]
    names = ["lowest_length", "reach", "last_reach", "aligned", "order", "lowest_angle", "highest_angle"]
    return runs.join(pd.DataFrame(rows, index=runs.index, columns=names, dtype=float))


def numbers(series: dict[str, list[list[float]]] | None) -> dict[str, float]:
    """Of one run."""
    norms, angles = table(series, "norm"), table(series, "angle")
    if norms.empty or angles.empty:
        return {}
    onsets = onset(angles)
    return {
        "lowest_length": float(np.log10(norms.iloc[0, 0])),
        "reach": float(np.log10(norms.iloc[0].max() / norms.iloc[0].min())),
        "last_reach": float(np.log10(norms.iloc[-1].max() / norms.iloc[-1].min())),
        "aligned": float((angles.iloc[-1] < BELOW).sum()),
        "order": float(onsets.rank().corr(pd.Series(onsets.index, index=onsets.index).rank())) if onsets.nunique() > 1 else 0.0,
        "lowest_angle": float(angles.iloc[-1, 0]),
        "highest_angle": float(angles.iloc[-1, -1]),
    }


def table(series: dict[str, list[list[float]]] | None, of: str) -> pd.DataFrame:
    """(epochs that lie behind, layers from 1): a layer's angle or norm; empty where any of them lacks."""
    known = series if isinstance(series, dict) else {}
    points = {i: known.get(f"alignment/{of}/linear{i}", []) for i in range(1, LAYERS + 1)}
    return pd.DataFrame({i: {int(epoch) + 1: value for _, epoch, value in told} for i, told in points.items()}).dropna()


def onset(angles: pd.DataFrame) -> pd.Series:
    """layer -> the first look at which it is within BELOW degrees; one more than the last where it never is."""
    never = angles.index[-1] + 1
    return pd.Series({layer: next((e for e, angle in told.items() if angle < BELOW), never) for layer, told in angles.items()})


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row for each law of initial weights: lengths by layer before training, and a panel of angles by epoch for each rule."""
    inits, rules = (declaration.artefact.axes[axis] for axis in ("init", "rule"))
    figure = Figure(figsize=(3.2 * (1 + len(rules)), 2.9 * len(inits)), layout="constrained")
    rows = figure.subplots(len(inits), 1 + len(rules), squeeze=False)
    finished = runs[runs["status"] == "finished"]
    for (lengths, *panels), init in zip(rows, inits, strict=True):
        for i, (axes, rule) in enumerate(zip(panels, rules, strict=True)):
            of_cell = finished[finished["cell"] == f"init={init},rule={rule}"].get("series", [])
            norms, angles = ([found for one in of_cell if not (found := table(one, of)).empty] for of in ("norm", "angle"))
            if norms:
                first = np.exp(np.mean([np.log(one.iloc[0]) for one in norms], axis=0))
                lengths.plot(range(1, LAYERS + 1), first, marker="os^"[i], color=f"C{i}", label=declaration.label("rule", rule))
            for layer in range(1, LAYERS + 1) if angles else ():
                mean = pd.concat([one[layer] for one in angles], axis=1).mean(axis=1)
                grey = str(round(LOWEST + (HIGHEST - LOWEST) * (layer - 1) / (LAYERS - 1), 2))
                axes.plot(mean.index, mean, color=grey, label=f"layer {layer}" if layer in (1, LAYERS) else None)
            axes.axhline(90, color="tab:red", linewidth=0.6, linestyle=":")
            axes.set(xlabel="epoch", ylabel="angle to the gradient, °", ylim=(-3, 130))
            axes.set_title(declaration.label("rule", rule), loc="left", fontsize=8)
        if lengths.get_legend_handles_labels()[0]:
            lengths.legend(frameon=False, fontsize=7)
        lengths.set(xlabel="hidden layer", ylabel="length of the update", yscale="log")
        lengths.set_title(declaration.label("init", init), loc="left", fontsize=8)
    if panels[-1].get_legend_handles_labels()[0]:
        panels[-1].legend(frameon=False, fontsize=7)
    return figure
