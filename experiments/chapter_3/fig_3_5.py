"""What figure 3.5 shows and claims: bits a parameter by epoch, raw and coded, with side information and without."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.series import Series, curve

WEIGHTS = {"linear1": 784 * 392, "linear2": 392 * 50, "output": 50 * 10}
KEYS = {"raw": "bits", "coded": "codeword_bits", "bound": "entropy", "raw_packet": "raw_bits", "coded_packet": "coded_bits"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds means over the epochs of training of each rate; raw_ratio and coded_ratio, 32 over them; side, what is sent beside
    codes over these; saved_by_8, against 32 bits; lzw and deflate, of raw floats."""
    rows = zip(runs["reading"], runs["setting"], runs.get("series", [None] * len(runs)), strict=True)
    return runs.join(pd.DataFrame([of_run(*row) for row in rows], index=runs.index))


def of_run(reading: str, setting: str, series: Series | None) -> dict[str, float]:
    found = {rate: mean(rated(series, reading, setting, rate)) for rate in KEYS}
    return found | {
        "raw_ratio": 32 / found["raw"],
        "coded_ratio": 32 / found["coded"],
        "side": found["coded_packet"] / found["coded"] - 1,
        "saved_by_8": 1 - mean(rated(series, "after", "8", "raw_packet")) / 32,
        **{how: by_size(series, how) for how in ("lzw", "deflate")},
    }


def rated(series: Series | None, reading: str, setting: str, rate: str) -> dict[int, float]:
    """By epochs behind, from the first on."""
    place = f"bit_rate/{setting}" if reading == "after" else "sync"
    return {epoch: value for epoch, value in curve(series, f"{place}/{KEYS[rate]}") if epoch > 0}


def mean(found: dict[int, float]) -> float:
    return float(pd.Series(found, dtype=float).mean())


def by_size(series: Series | None, how: str) -> float:
    """Over layers by their weights, after the last epoch; not a number where a layer has none."""
    last = {layer: points[-1][1] for layer in WEIGHTS if (points := curve(series, f"lossless/{how}/{layer}"))}
    if len(last) < len(WEIGHTS):
        return float("nan")
    return sum(WEIGHTS[layer] * value for layer, value in last.items()) / sum(WEIGHTS.values())


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """c = 5 left and c = 6 right, as in the thesis: raw, coded and Shannon's bound over epochs, means over runs."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    settings, readings = declaration.artefact.axes["setting"], declaration.artefact.axes["reading"]
    for axes, setting in zip(figure.subplots(1, len(settings), sharey=True), settings, strict=True):
        for reading, style in zip(readings, ("-", "--"), strict=True):
            own = runs[(runs["cell"] == f"reading={reading},setting={setting}") & (runs["status"] == "finished")]
            for i, rate in enumerate(("raw", "coded", "bound")):
                of_runs = [pd.Series(rated(series, reading, setting, rate), dtype=float) for series in own.get("series", [])]
                if of_runs:
                    means = pd.concat(of_runs, axis=1).mean(axis=1)
                    label = f"{rate}, {declaration.label('reading', reading)} (n {len(own)})"
                    axes.plot(means.index, means, style, color=f"C{i}", linewidth=1, label=label)
        axes.set_xlabel("epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(declaration.label("setting", setting), loc="left", fontsize=9)
    figure.axes[0].set(ylabel="bits a parameter", ylim=(0, None))  # of both panels, which share it
    if figure.axes[0].get_lines():
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7
        )
    return figure
