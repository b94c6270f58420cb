"""What figure 4.1 shows and claims: errors of the validation split epoch by epoch, and of the test split in the end."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.error_curves import errors_by_network, quartiles
from effdl.reproduce.series import Series, curve

EARLY = (1, 2, 5)  # epochs


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds error (fraction) of the test split; val_error after the last epoch, and val_error_at_1, _2 and _5 after so many."""
    found = pd.DataFrame([errors(series) for series in runs.get("series", [None] * len(runs))], index=runs.index)
    return runs.assign(error=1 - runs.get("test/acc", pd.Series(index=runs.index, dtype=float))).join(found)


def errors(series: Series | None) -> dict[str, float]:
    by_epoch = {epoch: 1 - accuracy for epoch, accuracy in curve(series, "val/acc")}
    last = by_epoch[max(by_epoch)] if by_epoch else float("nan")
    return {"val_error": last, **{f"val_error_at_{epoch}": by_epoch.get(epoch, float("nan")) for epoch in EARLY}}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By network the validation error over epochs, medians over runs as in the thesis, with the range between quartiles."""
    return errors_by_network(declaration, runs, quartiles)
