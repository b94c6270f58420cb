"""What figure 7.5's declaration cannot say in its vocabulary: errors by layer on a logarithmic scale, and their drawing."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SETTLED = 0.2  # the share of the layers before the noise is taken
PRINTED, DEEP = 2000, 2500  # the layer after which noise is printed to come, and how many it takes to see that
QUIET, WINDOW, TIMES = (500, 1000), 25, 3.0  # noisy: so many times the noise of these layers, over so many drawn points
COLORS = ("tab:orange", "black")


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds lowest_log10 and last_log10, of the errors of all layers, and noise: the deviation of the steps of log10 error.

    Of deep networks also noise_onset, the layer from which on it is high, and noise_rise, how many times it grows.
    """
    curves = [curve(series) for series in runs.get("series", [None] * len(runs))]
    lowest = runs.get("train/lowest_lsd", pd.Series(index=runs.index, dtype=float)).astype(float)
    return runs.assign(
        lowest_log10=np.log10(lowest),
        last_log10=[c.iloc[-1] if len(c) else np.nan for c in curves],
        noise=[noise(c, SETTLED * c.index[-1]) if len(c) else np.nan for c in curves],
        noise_onset=[onset(c) if deep(c) else np.nan for c in curves],
        noise_rise=[rise(c) if deep(c) else np.nan for c in curves],
    )


def curve(series: dict[str, list[list[float]]] | None) -> pd.Series:
    """layer, from 1 -> log10 of its error."""
    points = series.get("train/lsd", []) if isinstance(series, dict) else []
    return pd.Series({int(layer) + 1: np.log10(value) for layer, _, value in points}, dtype=float)


def deep(curve: pd.Series) -> bool:
    return len(curve) > 0 and curve.index[-1] >= DEEP


def noise(curve: pd.Series, after: float, until: float = np.inf) -> float:
    """The standard deviation of the steps of a curve between its points in these layers."""
    return float(curve[(curve.index > after) & (curve.index <= until)].diff().std())


def rise(curve: pd.Series) -> float:
    """How many times its noise after the printed layer is that of layers before; NaN for a curve without any."""
    before = noise(curve, QUIET[0], PRINTED)
    return noise(curve, PRINTED) / before if before > 0 else np.nan


def onset(curve: pd.Series) -> float:
    """The first layer around which a curve is noisy, its last one where it never is."""
    steps = curve.diff()
    around = steps.rolling(WINDOW, center=True).std()[curve.index > QUIET[1]]
    noisy = around.index[around > TIMES * noise(curve, *QUIET)]
    return float(noisy[0] if len(noisy) else curve.index[-1])


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A panel for each width and, in a row of its own, each of our choices: seed 0's curves, the others thin behind it."""
    variants = {
        "": "α = 0.25, β = 10; 32 bits",
        ",precision=double": "α = 0.25, β = 10; 64 bits",
        ",factors=listing": "α = β = 1; 32 bits",
    }
    widths = list(declaration.artefact.axes["width"])
    figure = Figure(figsize=(11, 7), layout="constrained")
    rows = figure.subplots(len(variants), len(widths), sharex=True, sharey="col", squeeze=False)
    for of_row, (suffix, told) in zip(rows, variants.items(), strict=True):
        for axes, width in zip(of_row, widths, strict=True):
            for color, tries in zip(COLORS, declaration.artefact.axes["tries"], strict=True):
                cell = runs[(runs["cell"] == f"width={width},tries={tries}{suffix}") & (runs["status"] == "finished")]
                for i, series in enumerate(cell.get("series", [])):
                    points, first = curve(series), i == 0
                    label = f"n = {tries}" if first else None
                    axes.plot(points.index, 10**points, color=color, linewidth=1 if first else 0.4, label=label)
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_title(f"{declaration.label('width', width)}; {told}", loc="left", fontsize=8)
        of_row[0].set_ylabel("MSE of its linear fit")
    for axes in rows[-1]:
        axes.set_xlabel("layer")
    if handles := rows[0, 0].get_legend_handles_labels()[0]:
        figure.legend(handles, [h.get_label() for h in handles], loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure
