"""Small networks drawn unit by unit: an arrow for each weight, as wide as that is large."""

from typing import Any

import numpy as np
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

POSITIVE, NEGATIVE = "tab:blue", "tab:red"
Place = tuple[float, float]


def units(x: float, count: int) -> list[Place]:
    """Places of a layer's units above each other, the middle at height 0."""
    heights = np.linspace(0.6, -0.6, count) if count > 1 else np.zeros(1)
    return [(x, float(y)) for y in heights]


def nodes(axes: Any, places: list[Place]) -> None:
    for x, y in places:
        axes.plot(x, y, "o", markersize=11, markerfacecolor="white", markeredgecolor="black", zorder=3)


def weights(
    axes: Any, below: list[Place], above: list[Place], matrix: NDArray[np.float64], style: str = "-", bend: float = 0.0
) -> None:
    """Arrows from each unit below to each above; matrix: (above, below)."""
    for j, end in enumerate(above):
        for i, start in enumerate(below):
            edge(axes, start, end, matrix[j, i] / np.abs(matrix).max(), style, bend)


def edge(axes: Any, start: Place, end: Place, weight: float, style: str = "-", bend: float = 0.0) -> None:
    """An arrow; weight: from −1 to 1."""
    shape: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 7,
        "connectionstyle": f"arc3,rad={bend}",
        "shrinkA": 6,
        "shrinkB": 6,
    }
    ink: dict[str, Any] = {"color": POSITIVE if weight > 0 else NEGATIVE, "linewidth": 0.3 + 2.2 * abs(weight), "alpha": 0.8}
    axes.add_patch(FancyArrowPatch(start, end, linestyle=style, **ink, **shape))
