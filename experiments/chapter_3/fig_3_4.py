"""What figure 3.4 shows and claims: test accuracy and its epoch of the peak over settings of Algorithm 1."""

import re

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve, peak

SETTING = re.compile(r"c(?P<floor>\d+)m(?P<bits>\d+)")
CEILING, RANGE = 10, 4
REACHED = 0.9  # of the epochs: a later highest accuracy is no peak, training was too short to have one
NOTHING = float("nan")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds accuracy after the last epoch, of the test split; peak, the highest one, highest_at, its epoch, and peak_epoch, the
    same unless it is among the last; coded, mean bits of Huffman's codes; and by other runs of the same seed later, epochs
    after the baseline's peak; reduction of what is sent; and best_m."""
    rows = zip(runs["reading"], runs["setting"], runs.get("series", [None] * len(runs)), strict=True)
    runs = runs.join(pd.DataFrame([of_run(*row) for row in rows], index=runs.index))
    own = list(zip(runs["reading"], runs["seed"], strict=True))
    baseline = {
        key: epoch
        for key, setting, epoch in zip(own, runs["setting"], runs["peak_epoch"], strict=True)
        if setting == "baseline"
    }
    of_baseline = pd.Series([baseline.get(key, NOTHING) for key in own], index=runs.index)
    best = {key: best_m(runs[[one == key for one in own]]) for key in dict.fromkeys(own)}
    return runs.assign(
        later=runs["peak_epoch"] - of_baseline,
        reduction=32 / runs["coded"] * of_baseline / runs["peak_epoch"],
        best_m=[best[key] for key in own],
    )


def of_run(reading: str, setting: str, series: Series | None) -> dict[str, float]:
    accuracies, bits = "test/acc", "sync/codeword_bits"
    if reading == "after" and setting != "baseline":
        name = setting.removeprefix("fixed")
        accuracies, bits = f"quantised/{name}/test/acc", f"bit_rate/{name}/codeword_bits"
    epoch, highest = peak(series, accuracies)
    points = curve(series, accuracies)
    reached = points and epoch <= REACHED * points[-1][0]
    sent = [value for at, value in curve(series, bits) if at > 0]
    coded = float(pd.Series(sent, dtype=float).mean()) if setting != "baseline" else 32.0
    last = points[-1][1] if points else NOTHING
    highest_at = {"highest_at": epoch, "peak_epoch": epoch if reached else NOTHING}
    return {"accuracy": last, "peak": highest, **highest_at, "coded": coded}


def best_m(own: pd.DataFrame) -> float:
    """Of one seed's runs of a reading the M of the highest accuracy among those with c + M = 10; a fixed width has none, 0. Of
    equal ones the smallest."""
    accuracies = {
        parts[1]: value
        for setting, value in zip(own["setting"], own["accuracy"], strict=True)
        if sum(parts := split(setting)) == CEILING
    }
    accuracies = {m: value for m, value in sorted(accuracies.items()) if value == value}
    return float(max(accuracies, key=lambda m: accuracies[m])) if accuracies else NOTHING


def split(setting: str) -> tuple[int, int]:
    """c and M; of a fixed width N it is (N, 0)."""
    if (found := SETTING.fullmatch(setting)) is not None:
        return int(found["floor"]), int(found["bits"])
    return (int(setting.removeprefix("fixed")), 0) if setting.startswith("fixed") else (0, 0)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """(a, c) a ceiling of 10 bits, (b, d) a range of 4; the baseline leftmost, medians as dots and means as lines."""
    settings = list(declaration.artefact.axes["setting"])
    columns = {
        "ceiling of 10 bits": [s for s in settings if s == "baseline" or sum(split(s)) == CEILING],
        "range of 4 bits": [s for s in settings if s == "baseline" or split(s)[1] == RANGE],
    }
    figure = Figure(figsize=(9, 5), layout="constrained")
    for row, (metric, scale_by, label) in zip(
        figure.subplots(2, 2),
        (("accuracy", 100, "test accuracy (percent)"), ("highest_at", 1, "epoch of the highest")),
        strict=True,
    ):
        for axes, (title, shown) in zip(row, columns.items(), strict=True):
            _points(axes, declaration, runs, sorted(shown, key=lambda s: (s != "baseline", split(s)[0])), metric, scale_by)
            axes.set_title(title, loc="left", fontsize=8)
            axes.set_ylabel(label)
    if figure.axes[0].get_lines():
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7
        )
    return figure


def _points(axes, declaration, runs: pd.DataFrame, shown: list[str], metric: str, factor: float) -> None:
    for i, reading in enumerate(declaration.artefact.axes["reading"]):
        found = {s: factor * runs.loc[runs["cell"] == f"reading={reading},setting={s}", metric].dropna() for s in shown}
        found = {s: values for s, values in found.items() if len(values)}
        places = [shown.index(s) for s in found]
        axes.plot(
            places, [values.mean() for values in found.values()], color=f"C{i}", label=declaration.label("reading", reading)
        )
        axes.plot(places, [values.median() for values in found.values()], "o", color=f"C{i}", markersize=4)
    names = ["none" if s == "baseline" else f"{sum(split(s))}:{split(s)[0]}" for s in shown]
    axes.set_xticks(range(len(shown)), names, fontsize=7)
