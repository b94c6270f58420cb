"""Of figure 3.2 what its declaration cannot say: how feedback and output weights come to agree."""

import pandas as pd
from matplotlib.figure import Figure

COSINE = "alignment/weights/linear1"


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds cosine, of B and w₂ after the last epoch, and growth, from before the first."""
    curves = [curve(series, COSINE) for series in runs.get("series", [None] * len(runs))]
    cosine = [points.iloc[-1] if len(points) > 1 else None for points in curves]
    growth = [points.iloc[-1] - points.iloc[0] if len(points) > 1 else None for points in curves]
    return runs.assign(cosine=pd.array(cosine, dtype="Float64"), growth=pd.array(growth, dtype="Float64"))


def curve(series: dict[str, list[list[float]]] | None, name: str) -> pd.Series:
    """A series by the epochs that lie behind."""
    points = series.get(name, []) if isinstance(series, dict) else []
    return pd.Series({int(epoch) + 1: value for _, epoch, value in points}, dtype=float)


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Test accuracy by epoch, and beside it the cosines."""
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    accuracy, cosine = figure.subplots(1, 2)
    for i, cell in enumerate(declaration.cells(scale)):
        own = runs[(runs["cell"] == cell.name) & (runs["status"] == "finished")]
        label, color = declaration.label("rule", cell.at["rule"]), f"C{i}"
        for axes, name, factor in ((accuracy, "test/acc", 100), (cosine, COSINE, 1)):
            curves = pd.DataFrame([curve(series, name) for series in own.get("series", [])])
            if curves.empty or not curves.shape[1]:
                continue
            mean, spread = factor * curves.mean(), factor * curves.std()
            axes.plot(mean.index, mean, color=color, label=label)
            axes.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
    accuracy.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
    accuracy.set(xlabel="epoch", ylabel="test accuracy, %")
    cosine.set(xlabel="epoch", ylabel="cosine of B and w₂")
    accuracy.legend(frameon=False, fontsize=8)
    return figure
