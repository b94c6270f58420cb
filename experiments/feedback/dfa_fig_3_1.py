"""Test accuracy by epoch, as the second thesis draws it: of figures 2.1, 3.1 and 3.3."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

NAME = "test/acc"
LAZY = ("ntk", "gaussian", "relu", "linear")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, as shares and from runs of the same seed: lead (figure 2.1), how far a run is above the best lazy method, and below
    (figure 3.3), how far the matrix that is uniform from 0 to 1 is above the run."""
    accuracy = runs.get(NAME, pd.Series(index=runs.index, dtype=float)).astype(float)
    here = ~runs["cell"].str.contains("gate=|constants=|weight_decay=")  # our own choices
    if "method" in runs:
        lazy = accuracy[here & runs["method"].isin(LAZY)]
        of_seed = lazy.groupby([runs["k"], runs["seed"]])
        best = of_seed.max().where(of_seed.count() == len(LAZY))
        return runs.assign(lead=accuracy - at(best, runs, "k"))
    if "feedback" in runs:
        drawn = accuracy[runs["feedback"] == "standard_uniform"].groupby(runs["seed"]).max()
        return runs.assign(below=at(drawn, runs) - accuracy)
    return runs


def at(values: pd.Series, runs: pd.DataFrame, *axes: str) -> pd.Series:
    """Of each run the value of its place on the axes and of its seed."""
    places = list(zip(*(runs[name] for name in (*axes, "seed")), strict=True)) if axes else list(runs["seed"])
    return pd.Series([values.get(place, float("nan")) for place in places], index=runs.index, dtype=float)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel for each number of digits, a curve for each other choice; bands are the standard deviation over seeds."""
    cells = [cell for cell in declaration.cells(scale) if not set(cell.at) - set(declaration.artefact.axes)]
    digits = list(dict.fromkeys(cell.at.get("k", "") for cell in cells))
    figure = Figure(figsize=(4.6 * len(digits) + 1, 4.2), layout="constrained")
    for axes, k in zip(figure.subplots(1, len(digits), squeeze=False)[0], digits, strict=True):
        for i, cell in enumerate(cell for cell in cells if cell.at.get("k", "") == k):
            (axis,) = set(cell.at) - {"k"}
            plot(axes, runs[runs["cell"] == cell.name], declaration.label(axis, cell.at[axis]), f"C{i}")
        axes.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(xlabel="epoch", ylabel="test accuracy, %")
        axes.set_title(declaration.label("k", k) if k else "three digits", loc="left", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def plot(axes, runs: pd.DataFrame, label: str, color: str) -> None:
    """The mean of finished runs and a band."""
    curves = pd.DataFrame([curve(series) for series in runs[runs["status"] == "finished"].get("series", [])])
    if curves.empty or not curves.shape[1]:
        return
    mean, spread = 100 * curves.mean(), 100 * curves.std().fillna(0)
    axes.plot(mean.index, mean, color=color, label=label, marker="o" if len(mean) == 1 else None)
    axes.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)


def curve(series: dict[str, list[list[float]]] | None) -> pd.Series:
    """Of a run, by the epochs that lie behind."""
    points = series.get(NAME, []) if isinstance(series, dict) else []
    return pd.Series({int(epoch) + 1: value for _, epoch, value in points}, dtype=float)
