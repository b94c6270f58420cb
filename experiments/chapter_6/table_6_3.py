"""What table 6.3 prints beside what ours comes to, the counts over its 44 rows, and the drawing."""

import csv
from functools import cache

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce import artefact
from effdl.reproduce.drawn import of_cell
from effdl.reproduce.figure import GREYS, MARKERS
from effdl.reproduce.frame import beside
from effdl.reproduce.published import PUBLISHED
from effdl.reproduce.series import last_of_segments

PAIRS = 44
PRINTED = ("peak_layer", "n_layers", "relative_memory")
COUNTS_AT = "network=vgg13,dataset=cifar10,method=dll,rates=falling"  # the cell whose runs bear the counts over all
MARGIN = -0.003  # of DLL against backprop, as a fraction
BYTES = "memory/accounted_peak_bytes"


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what table 6.2's measures do, and of DLL:

    layers: how many segments. printed_peak_layer, printed_n_layers, printed_relative_memory (percent): of table 6.3, where
    rates fall. memory_share (percent): of the step that takes most, of the baseline's with the same seed. pairs_35_to_40,
    pairs_near_20, pairs_over_300_epochs, pairs_of_two_layers, and pairs_within, by seed: how many of all 44 pairs; at
    `COUNTS_AT` alone, and only where each of them has a run of the seed.
    """
    runs = beside(artefact.load("table-6.2")).measures(runs)
    base = "network=" + runs["network"] + ",dataset=" + runs["dataset"] + ",method=baseline,rates=falling"
    known = runs.set_index(["cell", "seed"])
    keys = list(zip(base, runs["seed"], strict=True))
    of_base = known.reindex(keys)
    dll = (runs["method"] == "dll").to_numpy()
    share = (100 * pd.Series(runs[BYTES].to_numpy(dtype=float) / of_base[BYTES].to_numpy(dtype=float), runs.index)).where(dll)
    ahead = pd.Series(runs["test/acc"].to_numpy(dtype=float) - of_base["test/acc"].to_numpy(dtype=float), runs.index).where(dll)
    series = runs.get("series", [None] * len(runs))
    layers = pd.Series([len(last_of_segments(one, "test/acc")) for one in series], runs.index).where(dll)
    told = [
        printed().get((n, d), {}) if r else {} for n, d, r in zip(runs["network"], runs["dataset"], falling(runs), strict=True)
    ]
    columns = {f"printed_{name}": [row.get(name) for row in told] for name in PRINTED}
    runs = runs.assign(memory_share=share, ahead=ahead, layers=layers, **columns)
    return runs.join(counts(runs)).drop(columns="ahead")


def falling(runs: pd.DataFrame) -> pd.Series:
    return (runs["method"] == "dll") & (runs["rates"] == "falling")


@cache
def printed() -> dict[tuple[str, str], dict[str, float]]:
    """(network, dataset) -> metric -> number, of table 6.3."""
    axes = artefact.load("table-6.3").artefact.axes
    networks, datasets = (
        {(level.row or {})[key]: name for name, level in axes[axis].items()}
        for axis, key in (("network", "architecture_key"), ("dataset", "dataset"))
    )
    found: dict[tuple[str, str], dict[str, float]] = {}
    with (PUBLISHED / "table_6_3.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            pair = networks[row["architecture_key"]], datasets[row["dataset"]]
            found.setdefault(pair, {})[row["metric"]] = float(row["value"])
    return found


def counts(runs: pd.DataFrame) -> pd.DataFrame:
    """By run, of the pairs with a run of its seed, how many are as each name says; empty rows where it is not for all 44."""
    settings = {cell.name: cell.set for cell in artefact.load("table-6.3").cells(runs.attrs["scale"])}
    of_pairs = runs[falling(runs) & (runs["status"] == "finished")]
    epochs = of_pairs["cell"].map(lambda name: settings[name]["method.epochs"])
    sizes = of_pairs["cell"].map(lambda name: settings[name].get("method.segment_size", 1))
    percent = of_pairs["memory_share"].round()
    told = pd.DataFrame(
        {
            "pairs_35_to_40": percent.between(35, 40),
            "pairs_near_20": percent.between(18, 24),
            "pairs_over_300_epochs": epochs > 300,
            "pairs_of_two_layers": sizes == 2,
            "pairs_within": of_pairs["ahead"] >= MARGIN - 1e-12,
        }
    )
    by_seed = told.groupby(of_pairs["seed"])
    whole = by_seed.sum()[of_pairs.groupby("seed")["memory_share"].count() == PAIRS]
    at = runs[runs["cell"] == COUNTS_AT]
    return whole.reindex(at["seed"]).set_index(at.index).astype(float)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Left each layer's network of each pair, with rates that fall and with even ones; right memory beside print."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    cells = [cell for cell in declaration.cells(scale) if cell.at["method"] == "dll"]
    pairs = list(dict.fromkeys((cell.at["network"], cell.at["dataset"]) for cell in cells if len(of_cell(runs, cell.name))))
    for cell in cells:
        own, pair = of_cell(runs, cell.name), (cell.at["network"], cell.at["dataset"])
        if not len(own):
            continue
        i, falls = pairs.index(pair), cell.at["rates"] == "falling"
        by_layer = 100 * pd.DataFrame([last_of_segments(one, "test/acc") for one in own["series"]])
        look = {
            "color": GREYS[i % len(GREYS)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 4,
            "capsize": 2,
            "linewidth": 1,
        }
        name = ", ".join(declaration.label(axis, cell.at[axis]) for axis in ("network", "dataset"))
        label = f"{name}: {'falling' if falls else 'the same'} (n {len(own)})"
        if by_layer.size:
            style = "-" if falls else "--"
            left.errorbar(by_layer.columns + 1, by_layer.mean(), by_layer.std(), linestyle=style, label=label, **look)
        if falls:
            ours = right.plot(i, own["memory_share"].mean(), MARKERS[0], color="black", markersize=5)
            theirs = right.plot(i, own["printed_relative_memory"].mean(), "_", color="0.5", markersize=14)
            if i == 0:
                right.legend([*ours, *theirs], ["ours", "printed"], frameon=False, fontsize=8)
    names = ["\n".join(declaration.label(*at) for at in zip(("network", "dataset"), pair, strict=True)) for pair in pairs]
    right.set_xticks(range(len(pairs)), names, rotation=0 if len(pairs) < 4 else 90, fontsize=7)
    right.set(xlim=(-0.5, max(len(pairs), 1) - 0.5), ylim=(0, None), ylabel="memory, % of backprop's")
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=7)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="layer (its network, after its last epoch)", ylabel="test accuracy (percent)")
    left.set_title("rates by layer; bars: sd over seeds", loc="left", fontsize=9)
    return figure
