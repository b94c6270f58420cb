"""What table 4.2 and figure 4.4 measure: errors of the test split in the end, of validation by quarters of the training."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.error_curves import errors_by_network, quartiles
from effdl.reproduce.series import Series, curve

QUARTERS = (1, 2, 3, 4)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds error (fraction) of the test split, val_error and train_loss after the last epoch, and error_in_quarter_1 to _4, the
    validation error's means over quarters of the epochs, of which the second and the third end with a fall of the rate."""
    series = list(runs.get("series", [None] * len(runs)))
    error = 1 - runs.get("test/acc", pd.Series(index=runs.index, dtype=float))
    return runs.assign(error=error).join(pd.DataFrame([errors(one) for one in series], index=runs.index))


def errors(series: Series | None) -> dict[str, float]:
    points, losses = curve(series, "val/acc"), curve(series, "train/loss")
    found = {f"error_in_quarter_{quarter}": in_quarter(points, quarter) for quarter in QUARTERS}
    found["val_error"] = 1 - points[-1][1] if points else float("nan")
    return found | {"train_loss": losses[-1][1] if losses else float("nan")}


def in_quarter(points: list[tuple[int, float]], quarter: int) -> float:
    """Of (epochs behind, accuracy) the mean error over those of a quarter, which the rule of the schedule has as well: epoch e,
    from 0, is in the first half where e < epochs / 2."""
    epochs = points[-1][0] if points else 0
    within = [1 - accuracy for epoch, accuracy in points if quarter - 1 <= 4 * (epoch - 1) / epochs < quarter]
    return sum(within) / len(within) if within else float("nan")


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By network the validation error over epochs, medians over runs as in the thesis, with the range between quartiles."""
    figure = errors_by_network(declaration, runs, quartiles)
    for axes in figure.axes:
        longest = max((max(line.get_xdata()) for line in axes.get_lines()), default=0)
        for fraction in (0.5, 0.75) if longest else ():  # where the rate falls
            axes.axvline(fraction * longest, color="0.8", linewidth=0.8)
    return figure
