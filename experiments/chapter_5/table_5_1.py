"""What table 5.1 measures beside accuracy: shares of samples, beside those that are printed."""

import csv

import pandas as pd

from effdl.reproduce import artefact, published


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the share that is removed, and the one that is printed as kept; runs without a filter keep all."""
    kept = runs["filter/kept_share"] if "filter/kept_share" in runs else pd.Series(float("nan"), index=runs.index)
    whole = (runs["filter"] == "none") & (runs["status"] == "finished")
    kept = kept.mask(whole, 1.0)
    printed = [printed_share(*levels) for levels in zip(runs["network"], runs["dataset"], runs["filter"], strict=True)]
    return runs.assign(**{"filter/kept_share": kept, "removed": 1 - kept, "kept_printed": printed})


def printed_share(network: str, dataset: str, filter_: str) -> float:
    """Of table 5.1, in [0, 1]."""
    axes = artefact.load("table-5.1").artefact.axes
    wanted = {**axes["network"][network].row, **axes["dataset"][dataset].row, **axes["filter"][filter_].row}
    wanted["metric"] = "data_fraction_used"
    with (published.PUBLISHED / "table_5_1.csv").open(newline="") as file:
        (found,) = (row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items()))
    return float(found["value"]) / 100
