"""What figure 7.6's declaration cannot say in its vocabulary: errors on a logarithmic scale, and their drawing."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.figure import MARKERS

COLORS = ("black", "tab:blue", "tab:orange", "tab:green")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds lowest_log10, and to runs of 5 tries gain_over_next: how much further it fell from 1 to 5 than from 5 to 10."""
    lowest = np.log10(runs.get("train/lowest_lsd", pd.Series(index=runs.index, dtype=float)).astype(float))
    runs = runs.assign(lowest_log10=lowest)
    others = {(cell, seed): value for cell, seed, value in zip(runs["cell"], runs["seed"], lowest, strict=True)}

    def gain(tries: str, cell: str, seed: int, value: float) -> float:
        if tries != "5":
            return np.nan
        one, ten = (others.get((cell.replace(",tries=5", f",tries={n}"), seed), np.nan) for n in (1, 10))
        return (one - value) - (value - ten)

    told = zip(runs["tries"], runs["cell"], runs["seed"], lowest, strict=True)
    return runs.assign(gain_over_next=[gain(*one) for one in told])


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The lowest error against tries, a line for each width through its geometric means; a panel for each of our choices."""
    variants = {"": "α = 0.25, β = 10; 32 bits", ",precision=double": "in 64 bits", ",factors=listing": "α = β = 1; 32 bits"}
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, len(variants), sharey=True)
    finished = runs[runs["status"] == "finished"]
    for axes, (suffix, told) in zip(panels, variants.items(), strict=True):
        for i, width in enumerate(declaration.artefact.axes["width"]):
            cells = {n: f"width={width},tries={n}{suffix}" for n in declaration.artefact.axes["tries"]}
            found = {int(n): finished.loc[finished["cell"] == cell, "lowest_log10"] for n, cell in cells.items()}
            found = {n: values for n, values in found.items() if len(values)}
            style = {"marker": MARKERS[i], "color": COLORS[i], "markersize": 4, "linewidth": 1}
            axes.plot(list(found), [10 ** v.mean() for v in found.values()], label=f"nhid = {width}", **style)
            for n, values in found.items():
                axes.plot([n] * len(values), 10**values, ".", color=COLORS[i], markersize=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        levels = [int(n) for n in declaration.artefact.axes["tries"]]
        axes.set_xticks(levels, [str(n) for n in levels])
        axes.minorticks_off()
        axes.set_xlabel("tries a layer, n")
        axes.set_title(told, loc="left", fontsize=9)
    panels[0].set_ylabel("lowest MSE of any layer")
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
