"""What the times of the two spirals compare: of a closed form its layers, of backpropagation the run, which is its steps."""

import pandas as pd


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the CPU seconds of the fit."""
    runs = runs.reindex(columns=runs.columns.union(["time/fit_cpu_s"], sort=False))
    return runs.assign(fit_s=runs["time/fit_cpu_s"].fillna(runs["time/cpu_s"]))
