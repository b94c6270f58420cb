"""What figures 5.4 and 5.5 show: Gabor kernels turned over half a circle, and photographs convolved with them."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.signal import fftconvolve
from sklearn.datasets import load_sample_image

TURNS = 64  # over 180 degrees
PHOTOGRAPHS = {"temple": "china.jpg", "flower": "flower.jpg"}  # of scikit-learn, which has them with it
BANK, EDGES = {"size": 31, "wavelength": 14.0, "sigma": 5.0}, {"size": 21, "wavelength": 8.0, "sigma": 3.0}


def gabor(
    angle: float, size: int, wavelength: float, sigma: float, aspect: float = 0.7, phase: float = -np.pi / 2
) -> np.ndarray:
    """A Gaussian times a wave, (size, size), size being odd: exp(−(u² + (aspect·v)²) / 2σ²) cos(2πu / wavelength + phase).

    u = x cos(angle) + y sin(angle) runs across the wave and v = y cos(angle) − x sin(angle) along it; x counts columns
    and y rows from the middle, in pixels; the angle is in radians. A phase of −π/2 makes the wave a sine, whose sum is 0: it
    answers to edges and to no even surface. Source: §5.2.2, in words; Goodfellow et al. 2016, eq. 9.15 f.
    """
    y, x = np.mgrid[:size, :size] - size // 2
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    envelope = np.exp(-(u**2 + (aspect * v) ** 2) / (2 * sigma**2))
    wave: np.ndarray = envelope * np.cos(2 * np.pi * u / wavelength + phase)
    return wave


def angles() -> np.ndarray:
    """(TURNS,) from 0 to less than 180 degrees, in radians."""
    return np.arange(TURNS) * np.pi / TURNS


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Of figure 5.4 adds half_width; of 5.5, by photograph, on_edges, on_edges_all and brightness_there."""
    if runs.attrs["artefact"] == "fig-5.4":
        return runs.assign(half_width=half_width())
    found = {name: edges(name) for name in set(runs["photograph"])}
    return runs.join(pd.DataFrame([found[name] for name in runs["photograph"]], index=runs.index))


def half_width() -> float:
    """By how many degrees a wave of the kernels' wavelength must be turned for a kernel's largest answer to be halved, among
    the bank's turns, by interpolation."""
    wave = [gabor(0, BANK["size"], BANK["wavelength"], 1e6, phase=phase) for phase in (0, -np.pi / 2)]
    answers = np.array([np.hypot(*(float((gabor(a, **BANK) * one).sum()) for one in wave)) for a in angles()])
    falling = answers[: TURNS // 2] / answers[0]
    return float(np.degrees(np.interp(-0.5, -falling, angles()[: TURNS // 2])))


def photograph(name: str) -> np.ndarray:
    """(427, 640): brightness from 0 to 1, by Rec. 601."""
    grey: np.ndarray = load_sample_image(PHOTOGRAPHS[name]) @ np.array([0.299, 0.587, 0.114]) / 255
    return grey


def convolved(image: np.ndarray, angle: float) -> np.ndarray:
    """Where the kernel lies within the image throughout."""
    found: np.ndarray = fftconvolve(image, gabor(angle, **EDGES), "valid")
    return found


def edges(name: str) -> dict[str, float]:
    """Of what the kernel answers, squared, the share on the tenth of the pixels where brightness changes most; of the largest
    answer of eight orientations; and of the brightness itself, about its mean."""
    image = photograph(name)
    half = EDGES["size"] // 2
    inner = image[half:-half, half:-half]
    steep = np.hypot(*np.gradient(image))[half:-half, half:-half]
    there = steep >= np.quantile(steep, 0.9)
    whole = strongest(image)
    shares = [float((one[there] ** 2).sum() / (one**2).sum()) for one in (convolved(image, 0), whole, inner - inner.mean())]
    return dict(zip(("on_edges", "on_edges_all", "brightness_there"), shares, strict=True))


def strongest(image: np.ndarray) -> np.ndarray:
    """The largest answer, up to its sign, of every eighth orientation of the bank."""
    return np.max([np.abs(convolved(image, angle)) for angle in angles()[::8]], 0)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The bank, or for each photograph it, the kernel, and what comes of them."""
    return bank() if declaration.artefact.id == "fig-5.4" else detected(declaration)


def bank() -> Figure:
    """Black is negative, white positive, and grey zero."""
    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    kernels = [gabor(angle, **BANK) for angle in angles()]
    most = max(float(np.abs(kernel).max()) for kernel in kernels)
    for axes, kernel, angle in zip(figure.subplots(8, 8).flat, kernels, angles(), strict=True):
        axes.imshow(kernel, cmap="gray", vmin=-most, vmax=most, interpolation="bicubic")
        axes.set_axis_off()
        axes.set_title(f"{np.degrees(angle):.0f}°", fontsize=6, pad=1)
    return figure


def detected(declaration) -> Figure:
    names = list(declaration.artefact.axes["photograph"])
    figure = Figure(figsize=(10, 2.5 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 4, squeeze=False, width_ratios=[3, 1, 3, 3])
    for row, name in zip(grid, names, strict=True):
        image, kernel = photograph(name), gabor(0, **EDGES)
        answer, most = convolved(image, 0), float(np.abs(kernel).max())
        loud = float(np.quantile(np.abs(answer), 0.995))
        row[0].imshow(image, cmap="gray")
        row[1].imshow(kernel, cmap="gray", vmin=-most, vmax=most)
        row[2].imshow(answer, cmap="gray", vmin=-loud, vmax=loud)
        whole = strongest(image)
        row[3].imshow(whole, cmap="gray", vmax=float(np.quantile(whole, 0.995)))
        titles = (declaration.label("photograph", name), "kernel", "convolved with it", "largest answer of eight turns")
        for axes, title in zip(row, titles, strict=True):
            axes.set_axis_off()
            axes.set_title(title, loc="left", fontsize=8)
    return figure
