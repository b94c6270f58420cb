"""How far layer-wise learning is behind backprop, what its best rival does, and memory beside it."""

import math
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.counterpart import numbers, of_cell, of_seed
from effdl.reproduce.figure import MARKERS

LEARN_LOCALLY = ("predsim", "decoupled_greedy", "greedy_k3", "infopro", "boost_resnet")
MEMORIES = {name: f"memory/{key}_peak_bytes" for name, key in (("step", "accounted"), ("resident",) * 2, ("process",) * 2)}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds gap, backprop's test accuracy of the same seed minus the run's; test_error; best_error, the test error of the same
    seed of the rival that does best on validation samples, on average over its runs; step_ratio, resident_ratio and
    process_ratio, memory over the mean of DLL with both dropouts. All fractions.
    """
    best = best_rivals(runs)
    places = [place(cell) for cell in runs["cell"]]
    accuracy = {name: of_seed(runs, "test/acc", {"method": name}) for name in ("baseline", *LEARN_LOCALLY)}
    rival = [accuracy[best[of]][i] if of in best else math.nan for i, of in enumerate(places)]
    own = numbers(runs, "test/acc")
    ratios = {
        f"{name}_ratio": numbers(runs, metric) / of_cell(runs, metric, {"method": "dll_dropouts"})
        for name, metric in MEMORIES.items()
    }
    return runs.assign(gap=accuracy["baseline"] - own, test_error=1 - own, best_error=[1 - value for value in rival], **ratios)


def best_rivals(runs: pd.DataFrame) -> dict[str, str]:
    """Network and augmentation -> the rival whose validation accuracy is highest there, on average over seeds."""
    score = numbers(runs, "val/acc").groupby(runs["cell"]).mean()
    best: dict[str, tuple[float, str]] = {}
    for cell, value in score.items():
        method = str(cell).rsplit("method=", 1)[1]
        if method in LEARN_LOCALLY and not math.isnan(value):
            best[place(str(cell))] = max(best.get(place(str(cell)), (-math.inf, "")), (value, method))
    return {of: method for of, (_, method) in best.items()}


def place(cell: str) -> str:
    return cell.rsplit(",method=", 1)[0]


def remarks(declaration, runs: pd.DataFrame) -> Iterator[str]:
    """Which rival is the best one."""
    for of, method in best_rivals(runs).items():
        where = ", ".join(declaration.label(*part.split("=")) for part in of.split(","))
        yield f"{where}: the best rival by validation images is {declaration.label('method', method)}."


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel a network and augmentation: accuracy over the memory of a step, and in grey of all that is resident."""
    ended = runs[runs["status"] == "finished"]
    there = {place(cell) for cell in ended["cell"]}
    places = [of for of in dict.fromkeys(place(cell.name) for cell in declaration.cells(scale)) if of in there]
    figure = Figure(figsize=(9, 2.9 * math.ceil(max(len(places), 1) / 3) + 0.7), layout="constrained")
    panels = figure.subplots(math.ceil(max(len(places), 1) / 3), 3, squeeze=False).flatten()
    for panel, of in zip(panels, places, strict=False):
        for i, method in enumerate(declaration.artefact.axes["method"]):
            own = ended[ended["cell"] == f"{of},method={method}"]
            if len(own):
                look = {"marker": (MARKERS + "<>")[i], "color": f"C{i}", "markersize": 5, "linestyle": "none", "capsize": 2}
                x = {name: own[metric].mean() / 2**20 for name, metric in MEMORIES.items()}
                y = 100 * own["test/acc"]
                panel.plot([x["step"], x["resident"]], [y.mean()] * 2, color="0.8", linewidth=1, zorder=1)
                panel.plot(x["resident"], y.mean(), "|", color="0.6", markersize=7, zorder=1)
                panel.errorbar(x["step"], y.mean(), y.std(), label=declaration.label("method", method), **look)
        panel.set_title(", ".join(declaration.label(*part.split("=")) for part in of.split(",")), loc="left", fontsize=9)
        panel.set(xlabel="memory of a step, to resident (MiB)", xlim=(0, None))
    for panel in panels[max(len(places), 1) :]:
        panel.set_visible(False)
    for panel in panels[::3]:
        panel.set_ylabel("test accuracy (percent)")
    shown = {label: handle for panel in figure.axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if shown:
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
