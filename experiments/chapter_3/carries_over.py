"""What compression comes to in newer networks: accuracy by bits a weight, and what is sent."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 10)
SETTINGS = (*map(str, WIDTHS), "c5m4", "c6m4")
NOTHING = float("nan")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds after the last epoch gain_<setting>, validation accuracy less that of weights as they are; at c = 5, M = 4 coded and
    raw bits; coded_8, and over_8, by how much the former is above it; entropy in 256 bins before and after, and its change."""
    return runs.join(pd.DataFrame([of_run(one) for one in runs.get("series", [None] * len(runs))], index=runs.index))


def of_run(series: Series | None) -> dict[str, float]:
    full, coded, coded_8 = (last(series, key) for key in ("val/acc", "bit_rate/c5m4/coded_bits", "bit_rate/8/coded_bits"))
    entropies = curve(series, "bit_rate/8/entropy")
    before, after = (entropies[0][1], entropies[-1][1]) if entropies else (NOTHING, NOTHING)
    return {
        **{f"gain_{name}": last(series, f"quantised/{name}/acc") - full for name in SETTINGS},
        "coded": coded,
        "raw": last(series, "bit_rate/c5m4/bits"),
        "coded_8": coded_8,
        "over_8": coded - coded_8,
        "before": before,
        "after": after,
        "change": after - before,
    }


def last(series: Series | None, key: str) -> float:
    points = curve(series, key)
    return points[-1][1] if points else NOTHING


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Left what accuracy costs by bits a weight, right the entropy of weights over epochs; means over runs."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, network in enumerate(declaration.artefact.axes["network"]):
        own = runs[(runs["cell"] == f"network={network}") & (runs["status"] == "finished")]
        if len(own):
            label = f"{declaration.label('network', network)} (n {len(own)})"
            gains = [100 * own[f"gain_{width}"].mean() for width in WIDTHS]
            left.plot(WIDTHS, gains, marker="o", markersize=3, color=f"C{i}", label=label)
            of_runs = [pd.Series(dict(curve(series, "bit_rate/8/entropy")), dtype=float) for series in own["series"]]
            means = pd.concat(of_runs, axis=1).mean(axis=1)
            right.plot(means.index, means, marker=".", color=f"C{i}")
    left.set(xlabel="bits a weight", ylabel="validation accuracy gained (points)")
    right.set(xlabel="epochs", ylabel="entropy of weights in 256 bins (bits)", ylim=(0, 8))
    if left.get_lines():
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure
