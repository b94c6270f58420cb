"""Of figure 3.4 what its declaration cannot say: the gap to backprop, and how far runs lie from their mean."""

import pandas as pd


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds gap, how far backprop with the same optimizer and seed is above a run; gain, how far the run is above that of SGD
    with its rule and seed; and deviation, its distance from the mean of its cell; all as shares."""
    accuracy = runs.get("test/acc", pd.Series(index=runs.index, dtype=float)).astype(float)
    backprop = _same(runs, "rule", "bp", accuracy)
    sgd = _same(runs.assign(cell=runs["cell"].str.replace(r",constants=\w+", "", regex=True)), "optimizer", "sgd", accuracy)
    deviation = (accuracy - accuracy.groupby(runs["cell"]).transform("mean")).abs()
    return runs.assign(gap=backprop - accuracy, gain=accuracy - sgd, deviation=deviation)


def _same(runs: pd.DataFrame, axis: str, level: str, values: pd.Series) -> pd.Series:
    """Of each run the value of the one at this level of the axis that is the same in all else, its seed too."""
    place = runs["cell"].str.replace(rf"{axis}=\w+", "", regex=True) + "," + runs["seed"].astype(str)
    found = values[runs[axis] == level].set_axis(place[runs[axis] == level])
    return place.map(found[~found.index.duplicated()])
