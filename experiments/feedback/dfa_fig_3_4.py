"""Of figure 3.4 what its declaration cannot say: the gap to backprop, and how far runs lie from their mean."""

import pandas as pd


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds gap, by how much the run of backprop with the same optimizer and seed is above, and deviation, the distance from the
    mean of the cell; both as shares."""
    accuracy = runs.get("test/acc", pd.Series(index=runs.index, dtype=float)).astype(float)
    without_rule = runs["cell"].str.replace(r"rule=\w+", "rule=", regex=True) + runs["seed"].astype(str)
    backprop = accuracy[runs["rule"] == "bp"].set_axis(without_rule[runs["rule"] == "bp"])
    gap = without_rule.map(backprop[~backprop.index.duplicated()]) - accuracy
    return runs.assign(gap=gap, deviation=(accuracy - accuracy.groupby(runs["cell"]).transform("mean")).abs())
