"""Where along a line a labelling function is slow, by its spectrogram, and what is redundant and discriminative there."""

from functools import cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.signal import ShortTimeFFT
from scipy.stats import spearmanr

from effdl import k_redundant
from effdl.representations.intervals import discriminative_intervals

STEPS = 2048  # of the function
WINDOW, HOP = 768, 32  # two periods and more of the slowest
SAMPLES, STRETCHES, K = 1600, 16, 5
LONG = 0.05  # of the samples, from which on an interval is a large one
FIRST, LAST = 6.0, {"24": 24.0, "48": 48.0}  # periods per length of the line, at its beginning and its end
COLORS = ("tab:red", "tab:blue")


def labelling(t: np.ndarray, last: float) -> np.ndarray:
    """ℓ(t) on [0, 1], whose frequency rises from FIRST to ``last`` in equal steps."""
    values: np.ndarray = np.sin(2 * np.pi * (FIRST * t + (last - FIRST) * t**2 / 2))
    return values


def spectrogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (p,) within [0, 1], frequencies (f,) in periods per length, and powers (f, p), under a Hann window."""
    transform = ShortTimeFFT(np.hanning(WINDOW), HOP, len(values), mfft=4 * WINDOW)
    return transform.t(len(values)), transform.f, np.abs(transform.stft(values)) ** 2


def dominant(t: np.ndarray, last: float) -> np.ndarray:
    """(n,) the frequency of most power around each place (n,)."""
    places, frequencies, powers = spectrogram(labelling((np.arange(STEPS) + 0.5) / STEPS, last))
    inside = (places > 0) & (places < 1)
    return np.interp(t, places[inside], frequencies[powers[:, inside].argmax(0)])


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds how redundancy goes with frequency over stretches of the line, and how slow discriminative intervals are."""
    found = [of_draw(*place) for place in zip(levels(runs), map(int, runs["seed"]), strict=True)]
    return runs.join(pd.DataFrame(found, index=runs.index))


def levels(runs: pd.DataFrame) -> list[str]:
    return [cell.removeprefix("last=") for cell in runs["cell"]]


def drawn(level: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (n,), rising, and labels, by the sign of ℓ."""
    t = np.sort(np.random.default_rng(seed).uniform(size=SAMPLES))
    return t, (labelling(t, LAST[level]) > 0).astype(int)


@cache
def of_draw(level: str, seed: int) -> dict[str, float]:
    t, y = drawn(level, seed)
    frequency, redundant = dominant(t, LAST[level]), k_redundant(t[:, None], y, K)
    stretch = (t * STRETCHES).astype(int)
    means = [(frequency[stretch == s].mean(), redundant[stretch == s].mean()) for s in np.unique(stretch)]
    slow = np.zeros(len(t), bool)
    for found in discriminative_intervals(t, y):
        if found.samples >= LONG * len(t):  # without noise in the labels all are discriminative
            slow |= (t > found.low) & (t <= found.high)
    return {
        "redundancy_with_frequency": float(spearmanr(*zip(*means, strict=True)).statistic),
        "redundancy": float(redundant.mean()),
        "interval_share": float(slow.mean()),
        "interval_frequency": float(frequency[slow].mean() / frequency.mean()) if slow.any() else float("nan"),
    }


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """A row a function: ℓ over the labels of the first seed's samples, its spectrogram, and redundancy along the line."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(10, 2.4 * len(cells)), layout="constrained")
    t = (np.arange(STEPS) + 0.5) / STEPS
    for (along, tones, share), cell in zip(figure.subplots(len(cells), 3, squeeze=False), cells, strict=True):
        own, level = runs[runs["cell"] == cell.name], cell.at["last"]
        places, labels = drawn(level, int(own["seed"].min()) if len(own) else 0)
        along.plot(t, labelling(t, LAST[level]), color="black", linewidth=0.8)
        for label, color in enumerate(COLORS):
            along.plot(places[labels == label], np.full((labels == label).sum(), -1.4), "|", color=color, markersize=8)
        at, frequencies, powers = spectrogram(labelling(t, LAST[level]))
        tones.pcolormesh(at, frequencies, powers, cmap="Greys", rasterized=True)
        redundant, stretch = k_redundant(places[:, None], labels, K), (places * STRETCHES).astype(int)
        share.bar(
            (np.unique(stretch) + 0.5) / STRETCHES, [100 * redundant[stretch == s].mean() for s in np.unique(stretch)], 0.055
        )
        for axes, name in ((along, "ℓ"), (tones, "periods per length"), (share, f"k-redundancy, %, k = {K}")):
            axes.set(xlim=(0, 1), ylabel=name)
        tones.set_ylim(0, 1.4 * LAST[level])
        along.set_title(declaration.label("last", level), loc="left", fontsize=8)
    return figure
