"""What table 4.5 measures and shows: when validation mIoU was highest, and each class's intersection over union."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve

EPOCHS = 60  # of the longest runs in print
SHARES = {"E-40": 40, "P-40": 40, "S-40": 40, "S-60": 60, "E-60": 60}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds converged_of_60, the epoch of the highest validation mIoU, the first of equals, where the longest runs have 60."""
    series = list(runs.get("series", [None] * len(runs)))
    return runs.assign(converged_of_60=[converged(one, SHARES[run]) for one, run in zip(series, runs["run"], strict=True)])


def converged(series: Series | None, epochs: int) -> float:
    """Scaled to a training of so many epochs in print."""
    points = curve(series, "val/miou")
    if not points:
        return float("nan")
    return epochs * max(points, key=lambda point: (point[1], -point[0]))[0] / points[-1][0]


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Validation mIoU over epochs, means over runs; and the test images' IoU class by class."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 2])
    names = list(declaration.artefact.axes["run"])
    classes = sorted(int(name.rpartition("/")[2]) for name in runs if name.startswith("test/iou/"))
    for i, run in enumerate(names):
        own = runs[(runs["cell"] == f"run={run}") & (runs["status"] == "finished")]
        curves = [pd.Series(dict(curve(series, "val/miou")), dtype=float) for series in own.get("series", [])]
        if not curves:
            continue
        mean = pd.concat(curves, axis=1).mean(axis=1)
        left.plot(mean.index, 100 * mean, color=f"C{i}", label=f"{declaration.label('run', run)} (n {len(own)})")
        places = [k + (i - len(names) / 2) * 0.15 for k in classes]
        right.bar(places, [100 * own[f"test/iou/{k}"].mean() for k in classes], width=0.15, color=f"C{i}")
    left.set(xlabel="epochs", ylabel="validation mIoU (percent)")
    right.set(xlabel="class, 0 the background", ylabel="test IoU (percent)")
    right.set_xticks(classes)
    if left.get_lines():
        left.legend(frameon=False, fontsize=6)
    return figure
