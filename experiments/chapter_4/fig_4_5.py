"""What figure 4.5 shows and claims: the softmax normaliser s = Σᵢ exp(xᵢ) epoch by epoch."""

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

BATCH = 128


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds start, start_of_batch and after_one, of s; log_after_one, last_log and least_step, of ln s."""
    found = pd.DataFrame([normalisers(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.join(found)


def normalisers(series: Series | None) -> dict[str, float]:
    s, log = dict(curve(series, "softmax_normaliser/mean")), [value for _, value in curve(series, "softmax_normaliser/log")]
    nan = float("nan")
    return {
        "start": s.get(0, nan),
        "start_of_batch": BATCH * s.get(0, nan),
        "after_one": s.get(1, nan),
        "log_after_one": log[1] if len(log) > 1 else nan,
        "last_log": log[-1] if log else nan,
        "least_step": min((after - before for before, after in pairwise(log)), default=nan),
    }


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The mean over images, run by run, on a logarithmic scale."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    own = runs[runs["status"] == "finished"]
    for series in own.get("series", []):
        points = curve(series, "softmax_normaliser/mean")
        axes.plot([epoch for epoch, _ in points], [value for _, value in points], color="0.4", linewidth=1)
    axes.axhline(2342, color="C3", linestyle=":", linewidth=1)
    axes.set(xlabel="epochs", ylabel="s, mean over images", yscale="log")
    axes.set_title(f"n {len(own)}; dotted: 2,342, the thesis's first value", loc="left", fontsize=8)
    return figure
