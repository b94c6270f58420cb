"""What the declaration of proposals cannot say in its vocabulary: how far training is ahead of test accuracy."""

import pandas as pd


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds overfit: training less test accuracy, as a fraction."""
    train, test = (
        runs.get(f"{split}/acc", pd.Series(index=runs.index, dtype=float)).astype(float) for split in ("train", "test")
    )
    return runs.assign(overfit=train - test)
