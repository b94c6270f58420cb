"""What figure 3.1 shows and claims: test accuracy by bits a weight, quantised after training and while it goes on."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

FULL = 32
WITHIN = 0.001  # of accuracy: ten of 10,000 images


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds accuracy, of the test split in the end; and enough: of a seed's runs in a reading the least width from which on
    accuracy is within 0.1 point of that with weights as they are."""
    rows = zip(runs["reading"], runs["width"].astype(int), runs.get("series", [None] * len(runs)), _tested(runs), strict=True)
    runs = runs.assign(accuracy=[tested if _own(reading, width) else last(s, width) for reading, width, s, tested in rows])
    by = [column for column in runs.columns if column in OPEN] + ["reading", "seed"]
    found = {key: enough(dict(zip(own["width"].astype(int), own["accuracy"], strict=True))) for key, own in groups(runs, by)}
    return runs.assign(enough=[found[key] for key in keys(runs, by)])


OPEN = ("steps", "initialisation", "targets")


def keys(runs: pd.DataFrame, by: list[str]) -> list[tuple[str, ...]]:
    """Of each row what tells its group."""
    return [tuple(map(str, row)) for row in runs[by].fillna("").to_numpy()]


def groups(runs: pd.DataFrame, by: list[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    of_rows = pd.Series(keys(runs, by), index=runs.index)
    return [(key, runs[of_rows == key]) for key in dict.fromkeys(of_rows)]


def _own(reading: str, width: int) -> bool:
    """Whether the accuracy is that of the run's own network."""
    return reading == "during" or width == FULL


def _tested(runs: pd.DataFrame) -> pd.Series:
    return runs.get("test/acc", pd.Series(index=runs.index, dtype=float))


def last(series: Series | None, width: int) -> float:
    points = curve(series, f"quantised/{width}/test/acc")
    return points[-1][1] if points else float("nan")


def enough(accuracies: dict[int, float]) -> float:
    """accuracies: by width, with that of weights as they are at 32. Not a number without it."""
    full = accuracies.get(FULL, float("nan"))
    if full != full:
        return full
    least = FULL
    for width in sorted(accuracies, reverse=True):
        if not accuracies[width] >= full - WITHIN:
            break
        least = width
    return float(least)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Boxes over runs by width, a panel for each reading, of the choices that come first."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    readings, widths = declaration.artefact.axes["reading"], list(declaration.artefact.axes["width"])
    for axes, reading in zip(figure.subplots(1, len(readings), sharey=True), readings, strict=True):
        cells = [f"reading={reading},width={width}" for width in widths]
        there = {i: 100 * runs.loc[runs["cell"] == cell, "accuracy"].dropna() for i, cell in enumerate(cells)}
        there = {i: values for i, values in there.items() if len(values)}
        if there:
            axes.boxplot([*there.values()], positions=[*there], widths=0.6, showmeans=True, flierprops={"markersize": 3})
            count = max(len(values) for values in there.values())
            axes.set_title(f"{declaration.label('reading', reading)} (n {count})", loc="left", fontsize=8)
        axes.set_xticks(range(len(widths)), widths, fontsize=6)
        axes.set_xlim(-1, len(widths))
        axes.set_xlabel("bits a weight; 32: as they are")
    figure.axes[0].set_ylabel("test accuracy (percent)")
    return figure
