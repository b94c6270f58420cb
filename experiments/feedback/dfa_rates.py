"""How wide the range of good learning rates is, which no cell has by itself."""

import numpy as np
import pandas as pd

from effdl.reproduce import artefact

WITHIN = 0.02  # of the best accuracy
FINE = 400  # points between the lowest rate and the highest


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds, for all runs of a rule with one seed, width, the range of rates within two points of the best in powers of ten, and
    best_rate."""
    accuracy = runs.get("test/acc", pd.Series(index=runs.index, dtype=float)).astype(float)
    found = pd.DataFrame(index=runs.index, columns=["width", "best_rate"], dtype=float)
    rates = len(artefact.load("dfa-rates").artefact.axes["rate"])
    for _, of_seed in runs.groupby(["rule", "seed"]):
        if of_seed["rate"].nunique() < rates:
            continue
        points = pd.Series(accuracy[of_seed.index].fillna(0).to_numpy(), np.log10(of_seed["rate"].astype(float))).sort_index()
        found.loc[of_seed.index, "width"] = width(points)
        found.loc[of_seed.index, "best_rate"] = 10 ** points.idxmax()
    return runs.assign(**found)


def width(points: pd.Series) -> float:
    """How much of the logarithms of rates, the index, lies within two points of the best; accuracies are interpolated."""
    fine = np.linspace(points.index[0], points.index[-1], FINE)
    good = np.interp(fine, points.index, points) >= points.max() - WITHIN
    return float(good.mean() * (points.index[-1] - points.index[0]))
