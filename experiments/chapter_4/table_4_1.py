"""What table 4.1 measures: errors, after how many epochs the lowest came, and the rate that was searched; and its curves."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import curve, peak


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds error (fraction) after the last epoch and lowest_error, of the test split; converged and converged_by_test, after
    how many epochs validation and test accuracy were first highest."""
    series = list(runs.get("series", [None] * len(runs)))
    by_val, by_test = ([peak(one, key) for one in series] for key in ("val/acc", "test/acc"))
    return runs.assign(
        error=1 - runs.get("test/acc", pd.Series(index=runs.index, dtype=float)),
        lowest_error=[1 - accuracy for _, accuracy in by_test],
        converged=[epoch for epoch, _ in by_val],
        converged_by_test=[epoch for epoch, _ in by_test],
    )


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Mean test error over epochs by output, and each run's lowest validation error's epoch."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    outputs = declaration.artefact.axes["output"]
    for i, output in enumerate(outputs):
        own = runs[(runs["cell"] == f"output={output}") & (runs["status"] == "finished")]
        points = [point for series in own.get("series", []) for point in curve(series, "test/acc")]
        if not points:
            continue
        means = 1 - pd.DataFrame(points, columns=["epoch", "accuracy"]).groupby("epoch")["accuracy"].mean()
        left.plot(means.index, 100 * means, color=f"C{i}", label=f"{declaration.label('output', output)} (n {len(own)})")
        right.plot([i] * len(own), own["converged"], "o", color=f"C{i}", alpha=0.4, markersize=4)
    left.set(xlabel="epochs", ylabel="test error (percent)", yscale="log")
    right.set(ylabel="epoch of the lowest validation error")
    right.set_xticks(range(len(outputs)), [declaration.label("output", output) for output in outputs], fontsize=7)
    if left.get_lines():
        left.legend(frameon=False, fontsize=8)
    return figure
