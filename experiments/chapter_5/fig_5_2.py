"""What figure 5.2 shows: patches of images that excite features of three convolutions most."""

import math

from matplotlib.figure import Figure

from effdl.reproduce.drawn import learned_best
from effdl.reproduce.series import Series, lists

LAYERS, FEATURES = ("conv1", "conv2", "conv3"), 6


def patch(series: Series | None, layer: str, feature: int):
    """(side, side) as it was recorded last, None of a run that recorded none."""
    looks = lists(series, f"strongest_patches/{layer}/{feature}")
    if not looks:
        return None
    pixels = looks[max(looks)]
    side = math.isqrt(len(pixels))
    return pixels.reshape(side, side)


def draw(declaration, scale: str, runs) -> Figure:
    """A row for each data set and layer, of the network that learned best."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(1.15 * FEATURES, 1.35 * len(LAYERS) * len(cells)), layout="constrained")
    parts = figure.subfigures(len(LAYERS) * len(cells), 1, squeeze=False)[:, 0]
    for i, cell in enumerate(cells):
        series = learned_best(runs[runs["cell"] == cell.name])
        for layer, part in zip(LAYERS, parts[i * len(LAYERS) :], strict=False):
            for feature, axes in enumerate(part.subplots(1, FEATURES)):
                axes.set(xticks=[], yticks=[])
                if (shown := patch(series, layer, feature)) is not None:
                    axes.imshow(shown, cmap="gray", interpolation="none")
            seen = patch(series, layer, 0)
            size = "" if seen is None else f", {len(seen)} × {len(seen)} pixels"
            label = declaration.label("dataset", cell.at["dataset"])
            part.suptitle(f"{label}: convolution {layer[-1]}{size}", x=0.005, ha="left", fontsize=8)
    return figure
