"""What table 7.3's declaration cannot say in its vocabulary: what is printed of each network but its test accuracy."""

from functools import cache

import pandas as pd

from effdl.reproduce import published

PRINTED = {
    "train_printed": "train_accuracy",
    "test_printed": "test_accuracy",
    "train_mse_printed": "train_mse",
    "test_mse_printed": "test_mse",
}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what is printed (percent, and squared errors), test_printed_share, train_gap and test_gap: ours minus printed, and
    overfit: training minus test accuracy; all but what is printed as fractions."""
    runs = runs.assign(**{name: [printed(network, metric) for network in runs["network"]] for name, metric in PRINTED.items()})
    for split in ("train", "test"):
        ours = runs.get(f"{split}/acc", pd.Series(index=runs.index, dtype=float))
        runs = runs.assign(**{f"{split}_gap": ours.astype(float) - runs[f"{split}_printed"] / 100})
    train, test = (
        runs.get(f"{split}/acc", pd.Series(index=runs.index, dtype=float)).astype(float) for split in ("train", "test")
    )
    return runs.assign(overfit=train - test, test_printed_share=runs["test_printed"].astype(float) / 100)


@cache
def printed(network: str, metric: str) -> float | None:
    """A network's number in the table."""
    return published.number("table_7_3.csv", {"hidden_widths": network, "metric": metric}, "value")
