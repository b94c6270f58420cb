"""The drawing of figure 7.8: two spirals."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce import artefact


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """The training samples for each number of turns."""
    cells = declaration.cells(scale)
    figure = Figure(figsize=(2.4 * len(cells), 2.8), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells)), cells, strict=True):
        train, _ = artefact.specs(cell)[0].dataset.load()
        for label, color in ((0, "0.6"), (1, "black")):
            x = train.x[train.y == label]
            axes.plot(x[:, 0], x[:, 1], ".", color=color, markersize=1)
        axes.set(aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.set_title(f"{cell.at['turns']} turns", loc="left", fontsize=9)
    return figure
