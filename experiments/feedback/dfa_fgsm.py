"""Accuracy under FGSM at the end of training, which stands in what a probe recorded."""

import pandas as pd
from matplotlib.figure import Figure

NAMES = {
    "clean": "fgsm/acc/0",
    "attacked_005": "fgsm/acc/0.05",
    "attacked": "fgsm/acc/0.1",
    "attacked_025": "fgsm/acc/0.25",
    "gradient": "fgsm/gradient",
    "unmoved": "fgsm/unmoved",
}
EPS = {"clean": 0.0, "attacked_005": 0.05, "attacked": 0.1, "attacked_025": 0.25}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds the last number of each series, and lost, the accuracy that an eps of 0.1 takes; shares."""
    series = runs.get("series", pd.Series([None] * len(runs), index=runs.index))
    found = {name: pd.Series([last(one, key) for one in series], index=runs.index, dtype=float) for name, key in NAMES.items()}
    return runs.assign(**found, lost=found["clean"] - found["attacked"])


def last(series: dict[str, list[list[float]]] | None, key: str) -> float | None:
    """Of a run."""
    points = series.get(key, []) if isinstance(series, dict) else []
    return points[-1][2] if points else None


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Accuracy by eps, a panel for each network; bars are the standard deviation over seeds."""
    networks, rules = (declaration.artefact.axes[axis] for axis in ("network", "rule"))
    figure = Figure(figsize=(4.2 * len(networks), 3.4), layout="constrained")
    finished = runs[runs["status"] == "finished"]
    for axes, name in zip(figure.subplots(1, len(networks), sharey=True, squeeze=False)[0], networks, strict=True):
        for i, rule in enumerate(rules):
            cell = finished[finished["cell"] == f"network={name},rule={rule}"]
            if len(cell):
                of_eps = 100 * cell[list(EPS)].astype(float)
                style = {"marker": "os"[i], "color": f"C{i}", "capsize": 2, "label": declaration.label("rule", rule)}
                axes.errorbar(list(EPS.values()), of_eps.mean(), of_eps.std().fillna(0), **style)
                axes.legend(frameon=False, fontsize=8)
        axes.set(xlabel="eps, of the range of pixels", ylim=(0, 100))
        axes.set_title(declaration.label("network", name), loc="left", fontsize=9)
    figure.axes[0].set_ylabel("validation accuracy, %")
    return figure
