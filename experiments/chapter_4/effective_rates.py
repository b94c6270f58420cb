"""What is measured where outputs are compared by their rates: errors, of given rates and of searched ones."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import curve


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds error (fraction) of the test split, and val_error after the last epoch."""
    points = [curve(series, "val/acc") for series in runs.get("series", [None] * len(runs))]
    return runs.assign(
        error=1 - runs.get("test/acc", pd.Series(index=runs.index, dtype=float)),
        val_error=[1 - of[-1][1] if of else float("nan") for of in points],
    )


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Each run's test error, over the rate of exp-GA where the declaration has rates, else over the outputs."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    outputs = list(declaration.artefact.axes["output"])
    if "rate" not in declaration.artefact.axes:
        for i, output in enumerate(outputs):
            own = runs[(runs["cell"] == f"output={output}") & (runs["status"] == "finished")]
            axes.plot([i] * len(own), 100 * own["error"], "o", color="0.3", alpha=0.6, markersize=4)
        axes.set_xticks(range(len(outputs)), [declaration.label("output", output) for output in outputs], fontsize=6)
        axes.set_ylabel("test error (percent)")
        return figure
    for i, output in enumerate(outputs):
        own = runs[(runs["output"] == output) & (runs["status"] == "finished")] if len(runs) else runs
        if not len(own):
            continue
        means = 100 * own.groupby(own["rate"].astype(float))["error"].mean()
        axes.plot(own["rate"].astype(float), 100 * own["error"], "o", color=f"C{i}", alpha=0.4, markersize=3)
        axes.plot(means.index, means, color=f"C{i}", label=declaration.label("output", output))
    axes.set(xscale="log", xlabel="rate of exp-GA", ylabel="test error (percent)")
    if axes.get_lines():
        axes.legend(frameon=False, fontsize=7)
    return figure
