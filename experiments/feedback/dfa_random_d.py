"""Test error on random data against one axis, as the second thesis's unwritten section has it."""

import pandas as pd
from matplotlib.figure import Figure


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Error by samples or dimensions; a point is the mean of all runs on all draws of the data, a bar their deviation."""
    along, by = declaration.artefact.rows[0], declaration.artefact.columns
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    finished = runs[runs["status"] == "finished"]
    for i, level in enumerate(declaration.artefact.axes[by]):
        here = finished[finished[by] == level].set_index(along)
        error = 100 - 100 * here.get("test/acc", pd.Series(dtype=float)).astype(float)
        error.index = error.index.astype(int)
        found = error.groupby(level=0).agg(["mean", "std"]).sort_index()
        style = {"marker": "os^Dv"[i], "color": f"C{i}", "capsize": 2, "label": declaration.label(by, level)}
        axes.errorbar(found.index, found["mean"], found["std"].fillna(0), **style)
    axes.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel={"n": "training samples", "d": "dimensions"}[along], ylabel="test error, %", ylim=(0, None))
    if along == "n":
        axes.set_xscale("log", base=2)
    ticks = [int(level) for level in declaration.artefact.axes[along]]
    axes.set_xticks(ticks, [str(level) for level in ticks])
    axes.legend(frameon=False, fontsize=8)
    return figure
