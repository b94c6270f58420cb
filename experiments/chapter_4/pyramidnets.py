"""What tables 4.3 and 4.4 measure: errors, the epoch of the lowest one, and the rates that stand in print."""

import csv

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.error_curves import each_and_mean, errors_by_network
from effdl.reproduce.published import PUBLISHED
from effdl.reproduce.series import Series, curve

EPOCHS = 300  # as printed
NETWORKS = {"p56": "pyramidnet_55", "p110": "pyramidnet_110"}
OUTPUTS = {"softmax": "Softmax+CE", "exp": "exp-GA", "pow3": "pow3-GA"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds error (fraction) of the test split; val_error and train_loss after the last epoch; converged_of_300, the epoch of
    the lowest validation error, the first of equals, of a training scaled to 300; printed_rate, the cell's in print."""
    series = list(runs.get("series", [None] * len(runs)))
    printed = rates(f"{runs.attrs['artefact'].replace('-', '_').replace('.', '_')}.csv")
    return runs.assign(
        error=1 - runs.get("test/acc", pd.Series(index=runs.index, dtype=float)),
        printed_rate=[printed[network, output] for network, output in zip(runs["network"], runs["output"], strict=True)],
    ).join(pd.DataFrame([numbers(one) for one in series], index=runs.index))


def rates(file: str) -> dict[tuple[str, str], float]:
    """By network and output, of a table in print."""
    with (PUBLISHED / file).open(newline="") as opened:
        found = {(row["architecture_key"], row["method"]): float(row["lr"]) for row in csv.DictReader(opened)}
    return {(network, output): found[a, b] for network, a in NETWORKS.items() for output, b in OUTPUTS.items()}


def numbers(series: Series | None) -> dict[str, float]:
    points, losses = curve(series, "val/acc"), curve(series, "train/loss")
    nan = float("nan")
    best = max(points, key=lambda point: (point[1], -point[0]))[0] if points else nan
    return {
        "val_error": 1 - points[-1][1] if points else nan,
        "converged_of_300": EPOCHS * best / points[-1][0] if points else nan,
        "train_loss": losses[-1][1] if losses else nan,
    }


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """By network the validation error over epochs, means over runs, with all runs thinly behind."""
    return errors_by_network(declaration, runs, each_and_mean)
