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
    """Adds what is printed (percent, and squared errors); and as fractions train_gap and test_gap, ours minus printed, and
    overfit, training minus test accuracy."""
    runs = runs.assign(**{name: [printed(network, metric) for network in runs["network"]] for name, metric in PRINTED.items()})
    none = pd.Series(index=runs.index, dtype=float)
    ours = {split: runs.get(f"{split}/acc", none).astype(float) for split in ("train", "test")}
    for split in ours:
        runs = runs.assign(**{f"{split}_gap": ours[split] - runs[f"{split}_printed"] / 100})
    return runs.assign(overfit=ours["train"] - ours["test"])


@cache
def printed(network: str, metric: str) -> float | None:
    """A network's number in the table."""
    return published.number("table_7_3.csv", {"hidden_widths": network, "metric": metric}, "value")
