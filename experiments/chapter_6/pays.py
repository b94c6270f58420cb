"""What each way of training has reached at equal data, time and memory, from the records, and the picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.counterpart import at, numbers, of_cell, of_seed
from effdl.reproduce.drawn import of_cell as runs_of
from effdl.reproduce.figure import MARKERS
from effdl.reproduce.series import Series

STEP, RESIDENT = "memory/accounted_peak_bytes", "memory/resident_peak_bytes"
NEAR = 0.02  # of validation accuracy, a fraction: "equal accuracy" is so much below what backprop ends at
LONGEST, EDGE = 80, 4  # points of the picture: the line of the longest row, and where lines begin beside their mark
PLAIN = {"bp_checkpoint": "baseline", "bp_bf16": "baseline", "dll_recompute": "dll", "dll_bf16": "dll"}


@dataclass(frozen=True)
class Look:
    """After an epoch: samples that went through what learned, seconds, and the best validation accuracy until then."""

    samples: float
    seconds: float
    best: float


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds seconds, of training and feeding; ended, the best validation accuracy in all; equal_data and equal_time, that which
    a run had after the samples and seconds of all of backprop's run of its seed, NaN where not even an epoch had ended, and
    backprop_val, what that one ends at; within_step and within_resident, test accuracy of the same seed of backprop's best row,
    by validation, in no more memory; gain, how many times smaller a step is than its plain row's; step_share, over backprop's;
    throughput, samples a second; seconds_to, until accuracy is `NEAR` what backprop ends at, reaches 1 or 0, time_ratio over
    backprop's own, see `ratio_of`. Accuracies as fractions.
    """
    looks = [looks_of(one.get("series"), one.get("time/feed_s", 0.0)) for _, one in runs.iterrows()]
    last = pd.DataFrame(
        [vars(one[-1]) if one else {} for one in looks], index=runs.index, columns=["samples", "seconds", "best"]
    )
    known = runs.assign(ended=last["best"], seconds=last["seconds"], samples=last["samples"])
    base = {"method": "baseline"}
    goal = [value - NEAR for value in of_cell(known, "ended", base)]
    known["seconds_to"] = [first(one, best=target) for one, target in zip(looks, goal, strict=True)]
    has = numbers(known, "ended").notna()
    return known.assign(
        backprop_val=of_seed(known, "ended", base),
        equal_data=[until(one, samples=n) for one, n in zip(looks, of_seed(known, "samples", base), strict=True)],
        equal_time=[until(one, seconds=s) for one, s in zip(looks, of_seed(known, "seconds", base), strict=True)],
        within_step=within(known, STEP),
        within_resident=within(known, RESIDENT),
        gain=[plain(known, cell) / own for cell, own in zip(known["cell"], numbers(known, STEP), strict=True)],
        step_share=numbers(known, STEP) / of_cell(known, STEP, base),
        throughput=known["samples"] / known["seconds"],
        time_ratio=[
            ratio_of(*each)
            for each in zip(known["seconds_to"], known["seconds"], of_seed(known, "seconds_to", base), strict=True)
        ],
        reaches=known["seconds_to"].notna().astype(float).where(has),
    )


def looks_of(series: Series | None, feeding: float | None) -> list[Look]:
    """Of each epoch in the order of training. feeding: seconds, spread evenly over the segments above the first.

    Of a long run the ledger has not every epoch: one stands for those of its segment that are missing before it.
    """
    if not isinstance(series, Mapping):
        return []
    keys = ("val/acc", "data/samples", "time/train_s")
    points = [{(segment, epoch): value for segment, epoch, value in series.get(key, [])} for key in keys]
    upper = max((segment or 0 for segment, _ in points[0]), default=0)
    each = (feeding or 0.0) / upper if upper and not math.isnan(feeding or 0.0) else 0.0
    found: list[Look] = []
    samples, best = 0.0, -math.inf
    seen: dict[float | None, float] = {}  # epochs of each segment that are counted
    for place, accuracy in points[0].items():
        if all(place in other for other in points[1:]):
            segment, behind = place[0], float(place[1] or 0) + 1
            samples += float(points[1][place] or 0.0) * (behind - seen.get(segment, 0.0))
            seen[segment], best = behind, max(best, float(accuracy or 0.0))
            found.append(Look(samples, float(points[2][place] or 0.0) + each * float(place[0] or 0), best))
    return found


def until(looks: Sequence[Look], samples: float = math.inf, seconds: float = math.inf) -> float:
    """The best accuracy of epochs that ended by then, NaN where none had, or the bound is not known."""
    by_then = [one.best for one in looks if one.samples <= samples and one.seconds <= seconds]
    return by_then[-1] if by_then else math.nan


def first(looks: Sequence[Look], best: float) -> float:
    """Seconds until accuracy is as high, NaN where it never is."""
    return next((one.seconds for one in looks if one.best >= best), math.nan)


def ratio_of(until: float, in_all: float, backprop: float) -> float:
    """How many times as long as backprop a run took until it was there. Of one that never was it is the least that this can be,
    by all of its seconds, where that is more than one; else it is not known, NaN."""
    if not math.isnan(until):
        return until / backprop
    return in_all / backprop if in_all > backprop else math.nan


def within(runs: pd.DataFrame, memory: str) -> list[float]:
    """Test accuracy, of the same seed, of the row of backprop that has the highest validation accuracy, on average, of those
    that take no more of a memory; NaN where none does."""
    score, taken = (numbers(runs, name).groupby(runs["cell"]).mean() for name in ("ended", memory))
    rows = sorted({cell.rsplit("method=", 1)[1] for cell in runs["cell"]})
    rivals = [name for name in rows if name == "baseline" or name.startswith("bp_")]
    accuracy = {name: of_seed(runs, "test/acc", {"method": name}) for name in rivals}
    found = []
    for i, cell in enumerate(runs["cell"]):
        named = {name: at(cell, {"method": name}) for name in rivals}
        fitting = [name for name, other in named.items() if taken.get(other, math.inf) <= taken.get(cell, -math.inf)]
        known = [name for name in fitting if not math.isnan(score.get(named[name], math.nan))]
        found.append(accuracy[max(known, key=lambda name: score[named[name]])][i] if known else math.nan)
    return found


def plain(runs: pd.DataFrame, cell: str) -> float:
    """The step of the row that a row saves memory of, on average; NaN of others."""
    method = cell.rsplit("method=", 1)[1]
    other = runs[runs["cell"] == at(cell, {"method": PLAIN[method]})] if method in PLAIN else runs.iloc[:0]
    return float(numbers(other, STEP).mean()) if len(other) else math.nan


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel a network: test accuracy over the memory of a step, a line from each point as long as its seconds."""
    axes = declaration.artefact.axes
    there = {cell.at["network"] for cell in declaration.cells(scale)}
    networks = [name for name in axes["network"] if name in there]
    methods = [name for name in axes["method"] if name != "tiny"]  # which is there for its speed alone
    figure = Figure(figsize=(4.2 * len(networks), 4.6), layout="constrained")
    for panel, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        here = [runs_of(runs, f"network={network},method={method}") for method in methods]
        longest, widest = (max((own[key].mean() for own in here if len(own)), default=1.0) for key in ("seconds", STEP))
        for i, method in enumerate(methods):
            if not len(own := here[i]):
                continue
            x, y = own[STEP].mean() / 2**20, 100 * own["test/acc"]
            colour = f"C{i % 10}"
            panel.errorbar(
                x,
                y.mean(),
                y.std(),
                marker=MARKERS[i % len(MARKERS)],
                color=colour,
                fillstyle="none" if method.startswith(("baseline", "bp_")) else "full",
                linestyle="none",
                markersize=6,
                capsize=2,
                label=declaration.label("method", method),
            )
            length = LONGEST * own["seconds"].mean() / longest
            panel.annotate(
                "",
                xy=(x, y.mean()),
                xytext=(EDGE + length, 0),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.5, "alpha": 0.7, "shrinkA": 0, "shrinkB": EDGE},
            )
        panel.set(xlabel="memory of a step (MiB)", xlim=(0, 1.4 * widest / 2**20))
        panel.set_title(f"{declaration.label('network', network)}; longest line {longest:.0f} s", loc="left", fontsize=9)
    figure.axes[0].set_ylabel("test accuracy (percent)")
    shown = {label: handle for panel in figure.axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if shown:
        told = "bars: sd over seeds; a line to the right: seconds of training and feeding, by the panel's longest"
        figure.legend(shown.values(), shown.keys(), title=told, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
